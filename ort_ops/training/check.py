"""Check that a training file's graph is what its metadata says: one that is damaged or edited never trains wrongly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import onnx

from ort_ops.errors import ModelError
from ort_ops.models.graphs import declared_shape
from ort_ops.opdef.element_types import FLOATS, ONNX_TYPES, element_type_name
from ort_ops.opdef.shapes import Shape, format_shape
from ort_ops.training.file_format import (
    APPLY,
    FUNCTION_DOMAIN,
    GRAD,
    GRADIENT,
    GRADIENTS,
    NEXT,
    STEP,
    TrainingMetadata,
    find_metadata,
)

_FLOAT64, _INT64 = ONNX_TYPES["float64"], ONNX_TYPES["int64"]
_FLOATS = {element_type.onnx_type for element_type in FLOATS}


def read_training(model: onnx.ModelProto, what: str) -> TrainingMetadata:
    """Return the metadata of a training file after checking all that it says.

    Args:
        model: validated; its large tensors need not be read.
        what: the model in words, such as ``'step.onnx'`` in quotes.

    Raises: ModelError for a model without such metadata, and for the first fault.
    """
    try:
        metadata = find_metadata(model)
        if metadata is None:
            raise ModelError(" is no training file; `exporter.export_training` writes one")
        check_training(model, metadata)
    except ModelError as error:
        raise ModelError(f"{what}{error}") from None
    return metadata


def check_training(model: onnx.ModelProto, metadata: TrainingMetadata) -> None:
    """Check names, types and shapes of inputs, outputs and first values.

    Raises: ModelError; its message lacks the name of the model.
    """
    graph = model.graph
    inputs = {value.name: value for value in graph.input}
    outputs = {value.name: value for value in graph.output}
    _check_kind(metadata)
    _check_optimizer(metadata)
    count = (metadata.count,) if metadata.count else ()
    sums = metadata.gradients if metadata.kind in (GRAD, APPLY) else ()
    states = (*metadata.parameters, *metadata.buffers, *metadata.optimizer_state, *sums)
    scalars = tuple(name for name in (metadata.step, metadata.lr) if name)
    _check_same("input", (*states, *scalars, *count, *metadata.given), [value.name for value in graph.input])
    results = metadata.gradients if metadata.kind == GRADIENTS else ()
    loss = (metadata.loss,) if metadata.loss else ()
    _check_same("output", (*loss, *metadata.outputs, *metadata.feeds, *results), [value.name for value in graph.output])
    _check_feeds(metadata)
    for name in states:
        _check_state(inputs[name], outputs.get(name + NEXT))
    for name in (*loss, *count):
        types = _FLOATS if name in loss else {_FLOAT64}
        _check_scalar(inputs.get(name) or outputs[name], types)
    if metadata.step:
        _check_scalar(inputs[metadata.step], {_INT64})
        _check_scalar(outputs[metadata.step + NEXT], {_INT64})
    if metadata.lr:
        _check_lr(inputs[metadata.lr], metadata)
    _check_first_values(graph, metadata, inputs)
    _check_sums(metadata, inputs)
    if metadata.kind == GRADIENTS:
        _check_gradients(graph, metadata, inputs, outputs)
    unknown = sorted(set(metadata.ranges) - {*metadata.given})
    if unknown:
        raise ModelError(f" is damaged: its metadata has a range of '{unknown[0]}', which is no input or target")
    if metadata.inference:
        _check_inference(model, metadata)


def _check_kind(metadata: TrainingMetadata) -> None:
    """Check which entries the kind has."""
    kind = metadata.kind
    wanted: set[str] = {
        STEP: {"loss", "parameters", "step", "lr", "optimizer"},
        GRAD: {"loss", "parameters", "gradients", "accumulate", "apply"},
        APPLY: {"parameters", "gradients", "step", "lr", "count", "accumulate", "optimizer"},
        GRADIENTS: {"gradients", "outputs", "of"},
    }[kind]
    allowed = (
        wanted
        | {
            STEP: {"inputs", "targets", "buffers", "optimizer_state", "inference", "feeds", "ranges"},
            GRAD: {"inputs", "targets", "buffers", "inference", "feeds", "accumulated", "optimizer", "ranges"},
            APPLY: {"optimizer_state", "feeds"},
            GRADIENTS: {"inputs", "cotangents", "ranges"},
        }[kind]
    )
    for name, value in vars(metadata).items():
        if name == "kind":
            continue
        if name in wanted and not value:
            raise ModelError(f" is damaged: its metadata lacks '{name}', which a file of kind '{kind}' has")
        if value and name not in allowed:
            raise ModelError(f" is damaged: its metadata has '{name}', which a file of kind '{kind}' has not")


def _check_optimizer(metadata: TrainingMetadata) -> None:
    """Check that each parameter is in one group, and each slot belongs to one parameter."""
    if metadata.optimizer is None:
        return
    _check_same(
        "parameter of the optimizer's groups",
        metadata.parameters,
        [name for group in metadata.optimizer.groups for name in group.parameters],
    )
    for name in metadata.optimizer_state:
        if name.rpartition("/")[0] not in metadata.parameters:
            raise ModelError(f" is damaged: the optimizer's state '{name}' belongs to no parameter")


def _check_feeds(metadata: TrainingMetadata) -> None:
    """Check that every output feeds the input that it is named for, and every state is fed."""
    for output, name in metadata.feeds.items():
        if output != name + NEXT:
            raise ModelError(f" is damaged: output '{output}' feeds '{name}', which only '{name + NEXT}' may")
    sums = tuple(metadata.gradients)
    changing = {
        STEP: (*metadata.parameters, *metadata.buffers, *metadata.optimizer_state, metadata.step),
        GRAD: (*metadata.buffers, *sums),
        APPLY: (*metadata.parameters, *metadata.optimizer_state, metadata.step),
        GRADIENTS: (),
    }[metadata.kind]
    _check_same("fed input", changing, metadata.fed)


def _check_same(what: str, expected: Iterable[str], found: Iterable[str]) -> None:
    """Check that two lists have the same names, each once."""
    wanted, got = Counter([*expected]), Counter([*found])
    twice = [name for name, number in (wanted | got).items() if number > 1]
    if twice:
        raise ModelError(f" is damaged: {what} '{twice[0]}' is there twice")
    missing, extra = sorted(wanted - got), sorted(got - wanted)
    if missing:
        raise ModelError(f" is damaged: its metadata names the {what} '{missing[0]}', which is missing")
    if extra:
        raise ModelError(f" is damaged: the {what} '{extra[0]}' is not in its metadata")


def _check_state(value: onnx.ValueInfoProto, following: onnx.ValueInfoProto | None) -> None:
    """Check that an input of state has a fixed shape, and its next value the same type and shape."""
    shape = _shape(value)
    if not all(isinstance(dim, int) for dim in shape):
        raise ModelError(f" is damaged: the shape of '{value.name}' must be fixed, got {format_shape(shape)}")
    if following is not None and (_type(value), shape) != (_type(following), _shape(following)):
        raise ModelError(
            f" is damaged: '{following.name}' must be {_words(value)} as '{value.name}' is, got {_words(following)}"
        )


def _check_scalar(value: onnx.ValueInfoProto, types: set[int]) -> None:
    if _type(value) not in types or _shape(value) != []:
        names = " or ".join(element_type_name(number) for number in sorted(types))
        raise ModelError(f" is damaged: '{value.name}' must be a scalar of {names}, got {_words(value)}")


def _check_lr(value: onnx.ValueInfoProto, metadata: TrainingMetadata) -> None:
    assert metadata.optimizer is not None
    groups = len(metadata.optimizer.groups)
    wanted: list[int] = [groups] if groups > 1 else []
    if _type(value) != _FLOAT64 or _shape(value) != wanted:
        raise ModelError(
            f" is damaged: '{value.name}' must be float64 {format_shape(wanted)} for {groups} groups of parameters, "
            f"got {_words(value)}"
        )


def _check_first_values(
    graph: onnx.GraphProto, metadata: TrainingMetadata, inputs: dict[str, onnx.ValueInfoProto]
) -> None:
    """Check that the state has first values of the right type and shape, and nothing else has."""
    tensors = {tensor.name: tensor for tensor in graph.initializer if tensor.name in inputs}
    _check_same("first value", metadata.stored, tensors)
    for name, tensor in tensors.items():
        value = inputs[name]
        if (tensor.data_type, list(tensor.dims)) != (_type(value), _shape(value)):
            got = f"{element_type_name(tensor.data_type)} {format_shape(list(tensor.dims))}"
            raise ModelError(f" is damaged: the first value of '{name}' must be {_words(value)}, got {got}")


def _check_sums(metadata: TrainingMetadata, inputs: dict[str, onnx.ValueInfoProto]) -> None:
    """Check that each parameter has one sum of gradients, of its type and shape."""
    if metadata.kind not in (GRAD, APPLY):
        return
    _check_same("parameter with a gradient", metadata.parameters, metadata.gradients.values())
    for name, parameter in metadata.gradients.items():
        if name != parameter + GRADIENT:
            raise ModelError(
                f" is damaged: '{name}' is the gradient of '{parameter}', which '{parameter}/grad' must be"
            )
        if (_type(inputs[name]), _shape(inputs[name])) != (_type(inputs[parameter]), _shape(inputs[parameter])):
            raise ModelError(
                f" is damaged: '{name}' must be {_words(inputs[parameter])} as '{parameter}' is, "
                f"got {_words(inputs[name])}"
            )


def _check_gradients(
    graph: onnx.GraphProto,
    metadata: TrainingMetadata,
    inputs: dict[str, onnx.ValueInfoProto],
    outputs: dict[str, onnx.ValueInfoProto],
) -> None:
    """Check that each gradient is like what it belongs to, and each cotangent like its output."""
    stored = {tensor.name: (tensor.data_type, [*tensor.dims]) for tensor in graph.initializer}
    known = {name: (_type(value), _shape(value)) for name, value in {**inputs, **outputs}.items()}
    for name, of in metadata.gradients.items():
        if name != of + GRADIENT:
            raise ModelError(f" is damaged: '{name}' is the gradient of '{of}', which '{of}{GRADIENT}' must be")
        _check_like(name, known[name], of, stored.get(of) or known.get(of))
    for name in metadata.of:
        if name not in metadata.outputs:
            raise ModelError(f" is damaged: it differentiates '{name}', which is no output of the model")
    if metadata.cotangents:
        _check_same("output with a cotangent", metadata.of, metadata.cotangents.values())
    for name, of in metadata.cotangents.items():
        _check_like(name, known[name], of, known[of])


def _check_like(name: str, got: tuple[int, Shape], other: str, wanted: tuple[int, Shape] | None) -> None:
    """Check that two values have one type and shape; dimensions that may change may have any names."""
    if wanted is None:
        raise ModelError(f" is damaged: '{name}' belongs to '{other}', which the file has not")
    fits = got[0] == wanted[0] and len(got[1]) == len(wanted[1])
    if not fits or any(
        a != b and isinstance(a, int) and isinstance(b, int) for a, b in zip(got[1], wanted[1], strict=True)
    ):
        words = [f"{element_type_name(kind)} {format_shape(shape)}" for kind, shape in (wanted, got)]
        raise ModelError(f" is damaged: '{name}' must be {words[0]} as '{other}' is, got {words[1]}")


def _check_inference(model: onnx.ModelProto, metadata: TrainingMetadata) -> None:
    """Check that the function is there, and takes what the file has."""
    found = [f for f in model.functions if (f.domain, f.name) == (FUNCTION_DOMAIN, metadata.inference)]
    if len(found) != 1:
        raise ModelError(
            f" is damaged: there are {len(found)} functions '{metadata.inference}' of the model in eval mode"
        )
    known = {*metadata.parameters, *metadata.buffers, *metadata.inputs}
    known |= {tensor.name for tensor in model.graph.initializer} - {
        *metadata.optimizer_state,
        metadata.step,
        metadata.lr,
    }
    unknown = sorted(set(found[0].input) - known)
    if unknown:
        raise ModelError(f" is damaged: function '{metadata.inference}' takes '{unknown[0]}', which the file has not")


def _type(value: onnx.ValueInfoProto) -> int:
    return int(value.type.tensor_type.elem_type)


def _shape(value: onnx.ValueInfoProto) -> Shape:
    shape = declared_shape(value)
    if shape is None:
        raise ModelError(f" is damaged: '{value.name}' has no shape")
    return shape


def _words(value: onnx.ValueInfoProto) -> str:
    dims: Sequence[object] = _shape(value)
    return f"{element_type_name(_type(value))} {format_shape(list(dims))}"  # type: ignore[arg-type]
