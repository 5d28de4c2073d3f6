"""Prepare a training file for the proof: its state, its step without what draws random numbers, its eval mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ort_ops.errors import ModelError
from ort_ops.files.atomic import temporary_folder
from ort_ops.models.files import load_model
from ort_ops.models.graphs import scopes
from ort_ops.models.inputs.skeleton import skeleton
from ort_ops.models.nodes import with_shapes
from ort_ops.training.check import read_training
from ort_ops.training.file_format import FUNCTION_DOMAIN, TrainingMetadata, find_metadata, put_metadata
from ort_ops.training.graph.inference import write_inference
from ort_ops.training.storage.training_file import TrainingFile

Array = NDArray[Any]
_UNIFORM = ("RandomUniform", "RandomUniformLike")
_NORMAL = ("RandomNormal", "RandomNormalLike")
_RANDOM = {*_UNIFORM, *_NORMAL, "Bernoulli", "Multinomial"}
_MAX_NBYTES = 2**31 - 2**20  # a serialized model; protobuf ends at 2 GiB


@dataclass(frozen=True)
class TrainingModel:
    """A training file as it is run for the proof.

    Attributes:
        model: the step alone. Random numbers are inputs of it, so that all backends have the same.
        path: a file of that model.
        metadata: of that model.
        state: first values of all state, by name.
        given_numbers: nodes that draw random numbers, and whose results are inputs.
        given_numbers_inputs: names of these inputs.
        still_random: nodes that draw others in each run, as text; the whole step cannot be compared then.
        inference: a file of the model in eval mode; None for none.
    """

    model: onnx.ModelProto
    path: Path
    metadata: TrainingMetadata
    state: dict[str, Array]
    given_numbers: tuple[str, ...]
    given_numbers_inputs: tuple[str, ...]
    still_random: tuple[str, ...]
    inference: Path | None


def is_training_file(model: onnx.ModelProto, path: str | Path) -> bool:
    """Whether the model says that it is one. Raises: ModelError for damaged metadata."""
    try:
        return find_metadata(model) is not None
    except ModelError as error:
        raise ModelError(f"'{path}'{error}") from None


@contextmanager
def prepared_training(path: str | Path) -> Iterator[TrainingModel]:
    """Yield a training file, prepared; the files that were made for it go with the block. Raises: ModelError."""
    model = load_model(path)
    metadata = read_training(model, f"'{path}'")
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    state = {name: numpy_helper.to_array(tensors[name]) for name in metadata.stored}
    with ExitStack() as stack:
        folder = stack.enter_context(temporary_folder())
        inference = None
        if metadata.inference:
            inference = folder / "eval_mode.onnx"
            write_inference(inference, TrainingFile(path).skeleton(), metadata, state)
        kept = onnx.ModelProto(functions=[f for f in model.functions if f.domain != FUNCTION_DOMAIN])
        del model.functions[:]
        model.functions.extend(kept.functions)
        metadata = replace(metadata, inference="")
        where, inputs = Path(path), metadata.inputs
        given: tuple[str, ...] = ()
        random = _random_nodes(model)
        if any(is_main for _, is_main in random):
            given, metadata = _give_numbers(model, metadata)
            random = _random_nodes(model)
        if given:
            put_metadata(model, metadata)
            where = folder / "step.onnx"
            if model.ByteSize() < _MAX_NBYTES:
                onnx.save(model, where)
            else:
                onnx.save(model, where, save_as_external_data=True, location="step.data")
                onnx.load_external_data_for_model(model, str(folder))
        still = tuple(f"'{node.name or node.output[0]}' ({node.op_type})" for node, _ in random)
        added = metadata.inputs[len(inputs) :]
        yield TrainingModel(model, where, metadata, state, given, added, still, inference)


def _random_nodes(model: onnx.ModelProto) -> list[tuple[onnx.NodeProto, bool]]:
    """Return the nodes that draw random numbers, and whether each is in the main graph."""
    found = []
    for scope in scopes(model):
        for node in scope.container.node:
            if node.domain in ("", "ai.onnx") and (node.op_type in _RANDOM or _drops(node, scope.stored)):
                found.append((node, scope.container is model.graph))
    return found


def _drops(node: onnx.NodeProto, stored: dict[str, onnx.TensorProto]) -> bool:
    """Whether a node is a Dropout that may be in training mode, and may drop anything."""
    if node.op_type != "Dropout" or len(node.input) < 3 or not node.input[2]:
        return False
    constants = [stored.get(name) for name in node.input[1:3]]
    ratio, mode = (None if tensor is None else numpy_helper.to_array(tensor).item() for tensor in constants)
    return mode is not False and ratio != 0


def _give_numbers(model: onnx.ModelProto, metadata: TrainingMetadata) -> tuple[tuple[str, ...], TrainingMetadata]:
    """Make inputs of the results of the main graph's random nodes, where their types and shapes are known; in place."""
    values = {value.name: value for value in with_shapes(skeleton(model)).graph.value_info}
    ranges, names, kept = dict(metadata.ranges), [], []
    outputs = {value.name for value in model.graph.output}
    for node in model.graph.node:
        name = node.output[0] if node.output else ""
        value = values.get(name)
        is_drawn = node.op_type in (*_UNIFORM, *_NORMAL) and node.domain in ("", "ai.onnx")
        if not is_drawn or value is None or not _is_known(value) or name in outputs:
            kept.append(node)
            continue
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        names.append((node.name or name, name))
        if node.op_type in _UNIFORM:
            ranges[name] = attributes.get("low", 0.0), attributes.get("high", 1.0)
        else:
            mean, scale = attributes.get("mean", 0.0), abs(attributes.get("scale", 1.0))
            ranges[name] = mean - 3 * scale, mean + 3 * scale
        model.graph.input.append(value)
    nodes = onnx.GraphProto(node=kept)
    del model.graph.node[:]
    model.graph.node.extend(nodes.node)
    inputs = (*metadata.inputs, *(name for _, name in names))
    return tuple(node for node, _ in names), replace(metadata, inputs=inputs, ranges=ranges)


def _is_known(value: onnx.ValueInfoProto) -> bool:
    tensor = value.type.tensor_type
    dims = [dim.HasField("dim_value") or bool(dim.dim_param) for dim in tensor.shape.dim]
    return bool(tensor.elem_type) and tensor.HasField("shape") and all(dims)


def is_finite(value: Array) -> bool:
    """Whether all numbers of a value are finite."""
    return value.dtype.kind not in "fV" or bool(np.isfinite(value.astype(np.float64)).all())
