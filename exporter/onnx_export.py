"""Export a torch model with MYLINEAR nodes to ONNX, by either of torch's exporters, checked and compared."""

from __future__ import annotations

import copy
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import torch
from onnx import helper
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import Tensor, nn
from torch.onnx import TrainingMode

from exporter.example import PREFIX, DynamicShapes, Example, flatten_outputs, make_example, output_dims
from exporter.functional import AUTOGRAD_NODE_NAMES, count_calls
from exporter.onnx_registration import translate
from exporter.parity import ExportError, compare_with_torch, root_cause
from exporter.rewrite_files import MAX_NBYTES_INSIDE, read_model, write_model
from exporter.tensors import to_numpy
from ort_ops.contract import DOMAIN, MYLINEAR, NAME
from ort_ops.error_bound import Comparison
from ort_ops.files import make_folder, open_atomically
from ort_ops.model import all_nodes, attach_function, complete_biases, domain_version, linear_nodes, load_model
from ort_ops.model_checks import known_shapes
from ort_ops.runtimes import TargetError, newest_versions, run_elsewhere
from ort_ops.session import InferenceSession

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
    model: nn.Module | torch.export.ExportedProgram,
    args: Tensor | Sequence[Any] = (),
    path: str | Path = "model.onnx",
    *,
    kwargs: Mapping[str, Any] | None = None,
    engine: str = "dynamo",
    opset: int | None = None,
    target: str | None = None,
    target_python: str | Path | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    dynamic_shapes: DynamicShapes | None = None,
    metadata: Mapping[str, str] | None = None,
    training: bool = False,
) -> ExportResult:
    """Write ``model`` as an ONNX file in which every call of `linear` is one MYLINEAR node.

    The file carries the operator's definition as a model-local function, so that it runs in any onnxruntime from
    1.17 on; a kernel that is registered runs instead. Before this returns, the file's bytes pass onnx's checker
    and give in onnxruntime what the model gives in torch, for the example's sizes and for others. Weights of more
    than 1.5 GiB lie beside the file, in ``<path>.data``.

    Args:
        model: a module, left in the mode that it was in, or an exported program.
        args: example input, or the sequence of them; tensors may stand in tuples, lists and dicts. An exported program
            has an example of its own.
        path: where to write; an existing file is replaced, and only by a whole one.
        kwargs: further arguments by name. What is no tensor, in either, becomes a constant of the file.
        engine: ``dynamo`` (opset 18 to 25) or ``torchscript`` (opset 9 to 20).
        opset: version of ONNX's own operators; 20 by default.
        target: an onnxruntime that must load the file, such as ``1.17``; picks the newest opset that it has, and the
            IR version.
        target_python: a Python that has the target installed; the file is run there too, and compared.
        input_names: ``x`` by default, or the names of forward's parameters, and keys, where there are several.
        output_names: ``y`` by default, or ``y0``, ``y1``, ... where there are several.
        dynamic_shapes: ``{input name: {dimension: its name}}``; by default the first dimension of every input of
            rank 2 or more is ``batch``. ``{}`` for none.
        metadata: entries for the model's metadata_props.
        training: whether to export as in training, with dropout and batch statistics; else in eval mode. What is
            random then cannot be compared, and is not.

    Raises: ExportError, TargetError, and ContractError for shapes, dtypes and opsets that the operator does not have.
    """
    opset = _choose_opset(engine, opset, target)
    program: torch.export.ExportedProgram | None = None
    module: nn.Module
    if isinstance(model, torch.export.ExportedProgram):
        if engine != "dynamo":
            raise ExportError("an exported program takes engine='dynamo'")
        program, module = model, model.module()
        if not args and not kwargs:
            args, kwargs = model.example_inputs or ((), {})
    else:
        module = copy.deepcopy(model) if training else model
    was_training = {part: part.training for part in module.modules()}
    if program is None:
        module.train() if training else module.eval()
    try:
        with torch.no_grad(), count_calls() as num_calls, _quiet():
            example = make_example(module, args, kwargs)
            raw = example.model(*example.tensors)
            expected_nodes = num_calls()
        outputs = flatten_outputs(raw)
        if program is not None:
            expected_nodes = _count_in_program(program)
        elif not example.is_wrapped and not _is_plain_output(raw):
            example = make_example(module, args, kwargs, must_wrap=True)
        inputs = list(input_names or example.names)
        results = list(output_names or (["y"] if len(outputs) == 1 else [f"y{i}" for i in range(len(outputs))]))
        _check_names(inputs, len(example.tensors), "input")
        _check_names(results, len(outputs), "output")
        axes = _dynamic_axes(inputs, example.tensors, dynamic_shapes)
        if program is not None:
            axes = _symbolic_only(program, inputs, axes)
        job = _Job(example, program, opset, inputs, results, axes, expected_nodes, training)
        is_large = sum(t.nbytes for t in (*module.parameters(), *module.buffers())) > MAX_NBYTES_INSIDE
        with _quiet():
            write = _export_large if is_large else _export_small
            proto, comparisons = write(job, engine, Path(path), metadata or {}, target, target_python)
    finally:
        for part, mode in was_training.items():
            part.training = mode
    return ExportResult(Path(path), len(linear_nodes(proto)), opset, proto.ir_version, comparisons)


@dataclass(frozen=True)
class _Job:
    """What is exported: the example, and what the graph must have."""

    example: Example
    program: torch.export.ExportedProgram | None
    opset: int
    inputs: list[str]
    outputs: list[str]
    axes: DynamicShapes
    expected_nodes: int
    training: bool

    def compare(self, proto: onnx.ModelProto, path: Path | None = None) -> dict[str, Comparison]:
        if self.training and not self._is_deterministic():
            return {}
        return compare_with_torch(proto, self.example.model, self.example.tensors, self.inputs, self.axes, path=path)

    def _is_deterministic(self) -> bool:
        with torch.no_grad():
            first, second = (
                flatten_outputs(copy.deepcopy(self.example.model)(*self.example.tensors)) for _ in range(2)
            )
        return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def _export_small(
    job: _Job,
    engine: str,
    path: Path,
    metadata: Mapping[str, str],
    target: str | None,
    target_python: str | Path | None,
) -> tuple[onnx.ModelProto, dict[str, Comparison]]:
    proto = _export_dynamo(job) if engine == "dynamo" else _export_torchscript(job)
    _check_value_names(proto, job.inputs, job.outputs)
    _finish(proto, job, metadata)
    comparisons = job.compare(proto)
    with open_atomically(path) as temporary:
        onnx.save(proto, temporary)
        if target is not None and target_python is not None:
            _run_on_target(job, temporary, target, target_python)
    return proto, comparisons


def _export_large(
    job: _Job,
    engine: str,
    path: Path,
    metadata: Mapping[str, str],
    target: str | None,
    target_python: str | Path | None,
) -> tuple[onnx.ModelProto, dict[str, Comparison]]:
    """Export by way of files, so that the weights are never in one message of protobuf."""
    path.parent.exists() or make_folder(path.parent)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        file = Path(folder) / "model.onnx"
        proto = _export_dynamo(job, file) if engine == "dynamo" else _export_torchscript(job, file)
        _check_value_names(proto, job.inputs, job.outputs)
        _finish(proto, job, metadata, file)
        comparisons = job.compare(proto, file)
        if target is not None and target_python is not None:
            _run_on_target(job, file, target, target_python)
        write_model(read_model(file).load(), path, external=True)
    return proto, comparisons


def _run_on_target(job: _Job, file: Path, target: str, python: str | Path) -> None:
    """Run the file in the target's onnxruntime and in ours, and compare. Raises: ExportError, TargetError."""
    feed = {name: to_numpy(tensor) for name, tensor in zip(job.inputs, job.example.tensors, strict=True)}
    theirs = run_elsewhere(python, file, feed, target)
    ours = InferenceSession(file, kernels="body").run(job.outputs, feed)
    for name, a, b in zip(job.outputs, theirs, ours, strict=True):
        unit = MYLINEAR.element_type(b.dtype.name).unit_roundoff if b.dtype.kind == "f" else 0.0
        size = float(np.max(np.abs(b), initial=0.0))
        if a.shape != b.shape or not np.allclose(a, b, rtol=0, atol=64 * unit * size, equal_nan=True):
            raise TargetError(f"onnxruntime {target} gives another output '{name}' than {onnxruntime.__version__}")


def _export_dynamo(job: _Job, file: Path | None = None) -> onnx.ModelProto:
    dims = tuple(dict(job.axes[name]) or None for name in job.inputs)
    try:
        program = torch.onnx.export(
            job.program or job.example.model,
            () if job.program else job.example.tensors,
            dynamo=True,
            opset_version=job.opset,
            input_names=job.inputs,
            output_names=job.outputs,
            dynamic_shapes=None if job.program else (dims,) if job.example.is_wrapped else dims,
            custom_translation_table={torch.ops.mylinear.linear.default: translate()},
            optimize=False,  # it merges equal calls, and none must go uncounted
            verbose=False,
        )
    except Exception as error:
        raise ExportError(f"torch.onnx.export(dynamo=True) failed: {root_cause(error)}") from error
    assert program is not None
    found = [n for graph in program.model.graphs() for n in graph if (n.domain, n.op_type) == (DOMAIN, NAME)]
    inner = sum(len(list(graph)) for graph in program.model.graphs()) > len(program.model.graph)
    _check_count(len(found), job, has_inner_graphs=inner)
    program.optimize()
    if job.program is not None:
        _name_dims(program, job)
    if job.example.is_wrapped:
        for value in list(program.model.graph.initializers.values()):
            if value.name is not None and value.name.startswith(PREFIX):
                value.name = value.name.removeprefix(PREFIX)
    if file is None:
        return program.model_proto
    program.save(file, external_data=True)
    return load_model(file, external_data=False)


def _export_torchscript(job: _Job, file: Path | None = None) -> onnx.ModelProto:
    buffer = io.BytesIO()
    mode = {"training": TrainingMode.TRAINING, "do_constant_folding": False} if job.training else {}
    try:
        torch.onnx.export(
            job.example.model,
            job.example.tensors,
            str(file) if file else buffer,  # type: ignore[arg-type]  # documented to take a file object too
            dynamo=False,
            opset_version=job.opset,
            input_names=job.inputs,
            output_names=job.outputs,
            dynamic_axes={name: dict(dims) for name, dims in job.axes.items() if dims},
            **mode,  # type: ignore[arg-type]
        )
    except Exception as error:
        raise ExportError(f"torch.onnx.export(dynamo=False) failed: {root_cause(error)}") from error
    proto = load_model(file, external_data=False) if file else onnx.load_model_from_string(buffer.getvalue())
    _check_count(len(linear_nodes(proto)), job, has_inner_graphs=_has_inner_graphs(proto))
    if job.example.is_wrapped:
        _remove_prefix(proto)
    return _infer_shapes_anew(proto, job)


def _remove_prefix(proto: onnx.ModelProto) -> None:
    """Give the parameters the names that they have in the caller's model."""
    renamed = {}
    for tensor in proto.graph.initializer:
        if tensor.name.startswith(PREFIX):
            renamed[tensor.name] = tensor.name.removeprefix(PREFIX)
            tensor.name = renamed[tensor.name]
    for node in all_nodes(proto):
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)


def _name_dims(program: Any, job: _Job) -> None:
    """Give an exported program's dimensions their names; torch calls them s0, s1, and so on."""
    names = {}
    for value, name in zip(program.model.graph.inputs, job.inputs, strict=True):
        for dim, wanted in job.axes[name].items():
            if value.shape is not None and not isinstance(value.shape[dim], int):
                names[value.shape[dim]] = wanted
    program.rename_axes(names)


def _count_in_program(program: torch.export.ExportedProgram) -> int:
    operator = torch.ops.mylinear.linear.default
    modules = [m for m in program.graph_module.modules() if isinstance(m, torch.fx.GraphModule)]
    return sum(node.target is operator for module in modules for node in module.graph.nodes)


def _symbolic_only(
    program: torch.export.ExportedProgram, inputs: list[str], axes: DynamicShapes
) -> dict[str, dict[int, str]]:
    """Keep the dimensions that are dynamic in the exported program; the others are fixed in it."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    tensors = [v for name in program.graph_signature.user_inputs if isinstance(v := values.get(str(name)), Tensor)]
    return {
        name: {dim: label for dim, label in axes[name].items() if not isinstance(tensor.shape[dim], int)}
        for name, tensor in zip(inputs, tensors, strict=True)
    }


def _is_plain_output(raw: Any) -> bool:
    return isinstance(raw, Tensor) or (isinstance(raw, tuple | list) and all(isinstance(v, Tensor) for v in raw))


def _infer_shapes_anew(proto: onnx.ModelProto, job: _Job) -> onnx.ModelProto:
    """Replace the TorchScript exporter's shapes, whose dimensions have made-up names, by onnx's own inference.

    Where that does not reach an output, its dimensions are found by running the model on other sizes.
    """
    MYLINEAR.register_schema()
    del proto.graph.value_info[:]
    for output in proto.graph.output:
        output.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    except Exception:  # not every operator that torch writes can be inferred
        inferred = onnx.shape_inference.infer_shapes(proto)
    shapes = [known_shapes(inferred.graph).get(output.name) for output in inferred.graph.output]
    if not all(shape is not None and None not in shape for shape in shapes):
        shapes = list(output_dims(job.example, job.inputs, job.axes))
    for output, shape in zip(inferred.graph.output, shapes, strict=True):
        assert shape is not None
        output.CopyFrom(helper.make_tensor_value_info(output.name, output.type.tensor_type.elem_type, shape))
    return inferred


def _finish(proto: onnx.ModelProto, job: _Job, metadata: Mapping[str, str], file: Path | None = None) -> None:
    """Make the exporter's model complete, free of traces of this machine, and checked; in its file, if it has one."""
    opset = job.opset
    reached = domain_version(proto, "")
    if reached != opset:
        raise ExportError(f"opset {opset} was not reached, the exporter stopped at {reached}; choose that, or another")
    clean = onnx_ir.to_proto(ClearMetadataAndDocStringPass()(onnx_ir.from_proto(proto)).model)
    proto.CopyFrom(clean)
    if not linear_nodes(proto):
        raise ExportError("the model calls MYLINEAR nowhere; use exporter.MyLinear in place of torch.nn.Linear")
    complete_biases(proto)
    proto.ir_version = _ir_version(opset)
    attach_function(proto)
    onnx.helper.set_model_props(proto, dict(metadata))
    MYLINEAR.register_schema()
    if file is not None:
        file.write_bytes(proto.SerializeToString())
    try:
        onnx.checker.check_model(str(file) if file else proto, full_check=file is None, check_custom_domain=True)
    except Exception as error:
        raise ExportError(f"the exported model does not pass onnx.checker: {root_cause(error)}") from error


def _choose_opset(engine: str, opset: int | None, target: str | None) -> int:
    """Return the opset that was asked for, or the target's newest, or the default; checked."""
    if target is None:
        chosen = DEFAULT_OPSET if opset is None else opset
    else:
        newest, _ = newest_versions(target)
        if opset is not None and opset > newest:
            raise TargetError(f"opset {opset} is too new for onnxruntime {target}, which loads {newest} and older")
        chosen = min(newest, _MAX_OPSET.get(engine, newest)) if opset is None else opset
    _check_engine(engine, chosen)
    return chosen


def _has_inner_graphs(proto: onnx.ModelProto) -> bool:
    return len(list(all_nodes(proto))) > len(proto.graph.node)


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


def _check_count(found: int, job: _Job, *, has_inner_graphs: bool) -> None:
    if found >= job.expected_nodes or (has_inner_graphs and found):  # a node in a loop's body stands for many calls
        return
    expected = job.expected_nodes if job.program else min(job.expected_nodes, _num_live_calls(job.example))
    if found < expected:
        raise ExportError(
            f"the model calls MYLINEAR {expected} times and the exported graph has {found} nodes of it; "
            "call exporter.linear or MyLinear directly, not through torch.jit.script or a fused fast path"
        )


def _num_live_calls(example: Example) -> int:
    """Count the calls that an output depends on; exporters leave the others out, such as a pooler that nobody reads."""
    parameters = [p for p in example.model.parameters() if p.is_floating_point()]
    before = [p.requires_grad for p in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            outputs = flatten_outputs(example.model(*example.tensors))
    finally:
        for parameter, needs_grad in zip(parameters, before, strict=True):
            parameter.requires_grad_(needs_grad)
    waiting = [output.grad_fn for output in outputs if output.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        for function, _ in waiting.pop().next_functions:
            if function is not None and function not in seen:
                seen.add(function)
                waiting.append(function)
    return sum(function.name() in AUTOGRAD_NODE_NAMES for function in seen)


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


_ASKED_FOR = (
    r".*The axis name: \w+ will not be used",  # two inputs with one name for their batch dimension
    "Exporting a model while it is in training mode",
    "Exporting a model to ONNX with a batch_size other than 1",  # other sizes are compared
    r"The tensor attributes? .* assigned during export",
    r"The \.grad attribute of a Tensor that is not a leaf Tensor",
)
"""What torch's exporters warn of, though it is asked for, checked, or their own doing."""


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
            for message in _ASKED_FOR:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        logger.setLevel(level)
