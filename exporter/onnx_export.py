"""Export a torch model with MYLINEAR nodes to ONNX, by either of torch's exporters, checked and compared."""

from __future__ import annotations

import inspect
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from onnxscript import values
from torch import Tensor, nn

from exporter.functional import count_calls
from exporter.parity import DynamicShapes, ExportError, compare_with_torch, flatten_outputs, root_cause
from ort_ops.contract import MYLINEAR
from ort_ops.error_bound import Comparison
from ort_ops.files import open_atomically
from ort_ops.model import attach_function, complete_biases, domain_version, linear_nodes

DEFAULT_OPSET = 20
"""The newest opset that onnxruntime 1.17 can load; so the default export runs wherever this project does."""
ENGINES = ("dynamo", "torchscript")
_MIN_OPSET = {"dynamo": 18, "torchscript": 9}
_MAX_OPSET = {"dynamo": 25, "torchscript": 20}


@dataclass(frozen=True)
class ExportResult:
    """What `export` wrote.

    Attributes:
        path: the file.
        num_linear: number of MYLINEAR nodes.
        opset, ir_version: of the model.
        comparisons: onnxruntime's outputs beside the exact ones, by output name; the worst of the batch sizes.
    """

    path: Path
    num_linear: int
    opset: int
    ir_version: int
    comparisons: dict[str, Comparison]


def export(
    model: nn.Module,
    args: Tensor | Sequence[Any],
    path: str | Path,
    *,
    engine: str = "dynamo",
    opset: int | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    dynamic_shapes: DynamicShapes | None = None,
    metadata: Mapping[str, str] | None = None,
) -> ExportResult:
    """Write ``model`` as an ONNX file in which every call of `linear` is one MYLINEAR node.

    The file carries the operator's definition as a model-local function, so that it runs in any onnxruntime from
    1.17 on; a kernel that is registered runs instead. Before this returns, the file's bytes pass onnx's checker
    and give in onnxruntime what the model gives in torch, for the example's sizes and for others.

    Args:
        model: exported in eval mode; left in the mode that it was in.
        args: example input, or the sequence of them.
        path: where to write; an existing file is replaced, and only by a whole one.
        engine: ``dynamo`` (opset 18 to 25) or ``torchscript`` (opset 9 to 20).
        opset: version of ONNX's own operators; 20 by default.
        input_names: ``x`` by default, or the names of forward's parameters where there are several.
        output_names: ``y`` by default, or ``y0``, ``y1``, ... where there are several.
        dynamic_shapes: ``{input name: {dimension: its name}}``; by default the first dimension of every input of
            rank 2 or more is ``batch``. ``{}`` for none.
        metadata: entries for the model's metadata_props.

    Raises: ExportError, and ContractError for shapes, dtypes and opsets that the operator does not have.
    """
    opset = DEFAULT_OPSET if opset is None else opset
    _check_engine(engine, opset)
    example = (args,) if isinstance(args, Tensor) else tuple(args)
    was_training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), count_calls() as num_calls:
            outputs = flatten_outputs(model(*example))
            expected_nodes = num_calls()
        if expected_nodes == 0:
            raise ExportError("the model calls MYLINEAR nowhere; use exporter.MyLinear in place of torch.nn.Linear")
        inputs = list(input_names or _default_input_names(model, len(example)))
        results = list(output_names or (["y"] if len(outputs) == 1 else [f"y{i}" for i in range(len(outputs))]))
        _check_names(inputs, len(example), "input")
        _check_names(results, len(outputs), "output")
        axes = _dynamic_axes(inputs, example, dynamic_shapes)
        run = _export_dynamo if engine == "dynamo" else _export_torchscript
        with _quiet():
            proto = run(model, example, opset, inputs, results, axes, expected_nodes)
        _check_value_names(proto, inputs, results)
        _finish(proto, opset, metadata or {})
        comparisons = compare_with_torch(proto, model, example, inputs, axes)
    finally:
        for module, mode in was_training.items():
            module.training = mode
    with open_atomically(path) as temporary:
        onnx.save(proto, temporary)
    return ExportResult(Path(path), len(linear_nodes(proto)), opset, proto.ir_version, comparisons)


def _export_dynamo(
    model: nn.Module,
    example: tuple[Any, ...],
    opset: int,
    inputs: list[str],
    outputs: list[str],
    axes: DynamicShapes,
    expected_nodes: int,
) -> onnx.ModelProto:
    operator = values.Op(values.Opset(MYLINEAR.domain, MYLINEAR.since_version), MYLINEAR.name, MYLINEAR.schema())

    def translate(x: Any, weight: Any, bias: Any) -> Any:
        return operator(x, weight, bias)

    try:
        program = torch.onnx.export(
            model,
            example,
            dynamo=True,
            opset_version=opset,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=tuple(dict(axes[name]) or None for name in inputs),
            custom_translation_table={torch.ops.mylinear.linear.default: translate},
            optimize=False,  # it merges equal calls, and none must go uncounted
            verbose=False,
        )
    except Exception as error:
        raise ExportError(f"torch.onnx.export(dynamo=True) failed: {root_cause(error)}") from error
    assert program is not None
    _check_count(program.model_proto, expected_nodes)
    program.optimize()
    return program.model_proto


def _export_torchscript(
    model: nn.Module,
    example: tuple[Any, ...],
    opset: int,
    inputs: list[str],
    outputs: list[str],
    axes: DynamicShapes,
    expected_nodes: int,
) -> onnx.ModelProto:
    file = io.BytesIO()
    try:
        torch.onnx.export(
            model,
            example,
            file,  # type: ignore[arg-type]  # documented to take a file object; the annotation lags behind
            dynamo=False,
            opset_version=opset,
            input_names=inputs,
            output_names=outputs,
            dynamic_axes={name: dict(dims) for name, dims in axes.items() if dims},
        )
    except Exception as error:
        raise ExportError(f"torch.onnx.export(dynamo=False) failed: {root_cause(error)}") from error
    proto = onnx.load_model_from_string(file.getvalue())
    _check_count(proto, expected_nodes)
    return _infer_shapes_anew(proto)


def _infer_shapes_anew(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Replace the TorchScript exporter's shapes, whose dimensions have made-up names, by onnx's own inference."""
    MYLINEAR.register_schema()
    del proto.graph.value_info[:]
    for output in proto.graph.output:
        output.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    for output in inferred.graph.output:
        if not output.type.tensor_type.HasField("shape"):
            raise ExportError(f"the shape of output '{output.name}' cannot be inferred; use engine='dynamo'")
    return inferred


def _finish(proto: onnx.ModelProto, opset: int, metadata: Mapping[str, str]) -> None:
    """Make the exporter's model complete, free of traces of this machine, and checked."""
    reached = domain_version(proto, "")
    if reached != opset:
        raise ExportError(f"opset {opset} was not reached, the exporter stopped at {reached}; choose that, or another")
    clean = onnx_ir.to_proto(ClearMetadataAndDocStringPass()(onnx_ir.from_proto(proto)).model)
    proto.CopyFrom(clean)
    complete_biases(proto)
    proto.ir_version = _ir_version(opset)
    attach_function(proto)
    onnx.helper.set_model_props(proto, dict(metadata))
    MYLINEAR.register_schema()
    try:
        onnx.checker.check_model(proto, full_check=True, check_custom_domain=True)
    except Exception as error:
        raise ExportError(f"the exported model does not pass onnx.checker: {root_cause(error)}") from error


def _check_engine(engine: str, opset: int) -> None:
    if engine not in ENGINES:
        raise ExportError(f"engine must be {' or '.join(ENGINES)}, got {engine!r}")
    low, high = _MIN_OPSET[engine], _MAX_OPSET[engine]
    if not low <= opset <= high:
        other = next(e for e in ENGINES if e != engine)
        fits = _MIN_OPSET[other] <= opset <= _MAX_OPSET[other]
        hint = f"; engine='{other}' has it" if fits else ""
        raise ExportError(f"opset must be {low} to {high} for engine '{engine}', got {opset}{hint}")


def _check_names(names: list[str], count: int, what: str) -> None:
    if len(names) != count:
        raise ExportError(f"{what}_names must be {count} names, got {len(names)}: {names}")
    if len(set(names)) != count or not all(names):
        raise ExportError(f"{what}_names must be distinct and not empty, got {names}")


def _check_count(proto: onnx.ModelProto, expected: int) -> None:
    found = len(linear_nodes(proto))
    if found < expected:
        raise ExportError(
            f"the model calls MYLINEAR {expected} times and the exported graph has {found} nodes of it; "
            "call exporter.linear or MyLinear directly, not through torch.jit.script or a fused fast path"
        )


def _check_value_names(proto: onnx.ModelProto, input_names: list[str], output_names: list[str]) -> None:
    """Check that the graph has the names asked for, and each for one value; an exporter may rename silently."""
    got = [value.name for value in (*proto.graph.input, *proto.graph.output)]
    for wanted, name in zip([*input_names, *output_names], got, strict=True):
        if name != wanted:
            raise ExportError(f"name '{wanted}' stands for two values of the graph; choose other input or output names")
    inputs = [value.name for value in proto.graph.input]
    initializers = [tensor.name for tensor in proto.graph.initializer if tensor.name not in inputs]
    seen: set[str] = set()
    for name in [*inputs, *initializers, *(o for node in proto.graph.node for o in node.output if o)]:
        if name in seen:
            raise ExportError(f"name '{name}' stands for two values of the graph; choose other input or output names")
        seen.add(name)


def _default_input_names(model: nn.Module, count: int) -> list[str]:
    if count == 1:
        return ["x"]
    parameters = list(inspect.signature(model.forward).parameters)[:count]
    return parameters if len(parameters) == count else [f"x{i}" for i in range(count)]


def _dynamic_axes(names: list[str], example: tuple[Any, ...], wanted: DynamicShapes | None) -> DynamicShapes:
    if wanted is None:
        return {name: {0: "batch"} if a.dim() > 1 else {} for name, a in zip(names, example, strict=True)}
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise ExportError(f"dynamic_shapes must name inputs of {names}, got {unknown}")
    for name, tensor in zip(names, example, strict=True):
        bad = [axis for axis in wanted.get(name, {}) if not 0 <= axis < tensor.dim()]
        if bad:
            raise ExportError(f"dynamic_shapes of '{name}' must be dimensions 0 to {tensor.dim() - 1}, got {bad}")
    return {name: dict(wanted.get(name, {})) for name in names}


def _ir_version(opset: int) -> int:
    """The oldest IR version that has the opset, so that older runtimes load the file."""
    return next(ir for last, ir in ((18, 8), (20, 9), (22, 10), (23, 11), (24, 12), (1000, 13)) if opset <= last)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's exporters on matters that a caller of `export` can do nothing about."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for category in (DeprecationWarning, FutureWarning, torch.jit.TracerWarning):  # type: ignore[attr-defined]
                warnings.simplefilter("ignore", category)
            # Two inputs with one name for their batch dimension is what we ask for.
            warnings.filterwarnings("ignore", message=r".*The axis name: \w+ will not be used")
            yield
    finally:
        logger.setLevel(level)
