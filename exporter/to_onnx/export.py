"""Export a torch model to ONNX by either of torch's exporters, each call of an operator as one node, and check it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from exporter.errors import ExportError, NoOperatorWarning
from exporter.to_onnx.checks.narrow import narrow_and_compare
from exporter.to_onnx.checks.node_counts import count_in_model, count_in_program
from exporter.to_onnx.dynamo import export_dynamo, symbolic_only
from exporter.to_onnx.example_call import DynamicShapes, flatten_outputs, is_plain_output, kind_of, make_example
from exporter.to_onnx.finish import finish
from exporter.to_onnx.job import Job, check_names, check_value_names, default_output_names, dynamic_axes
from exporter.to_onnx.surroundings import prepared
from exporter.to_onnx.torchscript import export_torchscript
from exporter.to_onnx.versions import choose_opset
from exporter.torch_ops.counting import count_calls
from exporter.torch_ops.kit import torch_kits
from exporter.torch_ops.tensors import to_numpy
from ort_ops.analysis.float64_run import Float64Run
from ort_ops.console.shown import Shown, Table
from ort_ops.files.atomic import check_output, open_atomically, temporary_folder
from ort_ops.models.narrow_weights import Narrowed
from ort_ops.models.runtimes import TargetError, run_elsewhere
from ort_ops.numerics.compare import Comparison
from ort_ops.numerics.narrow import NARROW_TYPES
from ort_ops.opdef import registry
from ort_ops.rewrite.files import MAX_NBYTES_INSIDE, read_model, write_model


@dataclass(frozen=True, repr=False)
class ExportResult(Shown):
    """The result of `export`.

    Attributes:
        path: the file.
        num_nodes: number of nodes of each registered operator that the model calls, by ``domain::NAME``; empty for
            none. The number of one operator may also have a name of its own, `TorchKit.count_name`.
        opset, ir_version: of the model.
        comparisons: onnxruntime's outputs beside the exact ones, by output name; the worst of the batch sizes.
        weights: which weights were rounded to ``weight_dtype``, and how far that changed them; None where it was not
            asked for. The outputs are then compared with those of the model as it was, and the bound has room for it.
    """

    path: Path
    num_nodes: dict[str, int]
    opset: int
    ir_version: int
    comparisons: dict[str, Comparison]
    weights: Narrowed | None = None

    def __getattr__(self, name: str) -> int:
        """Return the number of nodes of the operator whose ``count_name`` it is."""
        for kit in torch_kits() if not name.startswith("_") else ():
            if kit.count_name == name:
                return self.num_nodes.get(kit.operator.op_type, 0)
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")

    def shown(self) -> list[str | Table]:
        """Return the file, and how far onnxruntime's outputs are from the exact ones."""
        told = f"{self.path}: {self.nodes_in_words}, opset {self.opset}, IR version {self.ir_version}"
        rounded = [] if self.weights is None else [str(self.weights)]
        return [told, *rounded, *comparison_tables(self.comparisons)]

    @property
    def nodes_in_words(self) -> str:
        """The numbers of nodes: ``2 SOFTSIGN nodes and 1 SCALE node``."""
        parts = [f"{n} {op_type.rpartition(':')[2]} node{'s' * (n != 1)}" for op_type, n in self.num_nodes.items()]
        return " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:]))) or "no node of a registered operator"


def comparison_tables(comparisons: Mapping[str, Comparison]) -> list[Table]:
    """Return a table with a row for each output; none if nothing was compared."""
    rows = [
        [name, f"{found.max_error:.3g}", f"{found.max_in_bounds:.3f}", found.text]
        for name, found in comparisons.items()
    ]
    return [(["output", "max abs error", "error / bound", "verdict"], rows)] if rows else []


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
    weight_dtype: str | None = None,
) -> ExportResult:
    """Write ``model`` as an ONNX file in which every call of a registered operator is one node.

    The file carries the definitions of these operators as model-local functions, so that it runs in any onnxruntime
    from 1.17 on; a kernel that is registered runs instead. A model without any is exported too, with a
    `NoOperatorWarning`. Before this returns, the file's bytes pass onnx's checker
    and give in onnxruntime what the model gives in torch, for the example's sizes and for others. Weights of more
    than 1.5 GiB lie beside the file, in ``<path>.data``.

    Args:
        model: a module, compiled or not, left in the mode that it was in, or an exported program.
        args: example input, or a tuple of the arguments of ``forward``; tensors may stand in tuples, lists, dicts, and
            classes that torch's pytree knows. An exported program has an example of its own.
        path: where to write; an existing file is replaced, and only by a complete one. Devices, FIFOs and ``-``, which
            is standard output, are written to.
        kwargs: further arguments by name. Arguments other than tensors become constants of the file.
        engine: ``dynamo`` (opset 18 to 25) or ``torchscript`` (opset 9 to 20).
        opset: version of ONNX's own operators; 20 by default.
        target: an onnxruntime that must load the file, such as ``1.17``; picks the newest opset that it has, and the
            IR version.
        target_python: a Python that has the target installed; the file is run there too, and compared.
        input_names: by default ``x`` for one tensor by position, else names of forward's parameters, and keys within.
        output_names: by default ``y``, or ``y0``, ``y1``, ... where there are several; ``output`` where those are
            taken.
        dynamic_shapes: ``{input name: {dimension: its name}}``; by default the first dimension of every input of
            rank 2 or more is ``batch``. ``{}`` for none.
        metadata: entries for the model's metadata_props.
        training: whether to export as in training, with dropout and batch statistics; otherwise in eval mode. Random
            outputs are not compared.
        weight_dtype: ``bfloat16`` or ``float16`` to store float32 weights in, of operators that take them so: rounded
            to nearest, and computed in float32. The result says how far they changed; the outputs are compared with
            those of the model as it is, within a bound that includes that.

    Raises: ExportError, TargetError, OutputError, and ContractError for shapes, dtypes and opsets that an operator
        does not have.
    """
    if not isinstance(path, str | Path):
        hint = "; are args and path swapped? The call is export(model, args, path)" * isinstance(path, Tensor)
        raise ExportError(f"path must be the name of a file, got {kind_of(path)}{hint}")
    check_output(path)
    if weight_dtype is not None and weight_dtype not in NARROW_TYPES:
        raise ExportError(f"weight_dtype must be {' or '.join(NARROW_TYPES)}, got {weight_dtype!r}")
    opset = choose_opset(engine, opset, target)
    torch_kits()  # each registers its operator with torch's exporters
    module, program = _module_of(model, engine, is_copied=training)
    if program is not None:
        args, kwargs = _arguments_of(program, args, kwargs)
    with prepared(module, None if program else training):
        with torch.no_grad(), count_calls() as calls:
            example = make_example(module, args, kwargs)
            raw = example.call(*example.tensors)
            expected_nodes = calls if program is None else count_in_program(program)
        outputs = flatten_outputs(raw)
        if not outputs:
            raise ExportError(f"the model must return tensors, in tuples, lists or dicts; it returns {kind_of(raw)}")
        if program is None and not example.is_wrapped and not is_plain_output(raw):
            example = make_example(module, args, kwargs, must_wrap=True)
        inputs = list(input_names or example.names)
        results = list(output_names or default_output_names(len(outputs), {*inputs, *_state_names(module)}))
        check_names(inputs, len(example.tensors), "input")
        check_names(results, len(outputs), "output")
        axes = dynamic_axes(inputs, example.tensors, dynamic_shapes)
        if program is not None:
            axes = symbolic_only(program, inputs, axes)
        gives_float64 = any(output.dtype == torch.float64 for output in outputs)
        job = Job(example, program, opset, inputs, results, axes, expected_nodes, training, gives_float64)
        is_large = sum(t.nbytes for t in (*module.parameters(), *module.buffers())) > MAX_NBYTES_INSIDE
        write = _export_large if is_large else _export_small
        proto, comparisons, narrowed = write(job, engine, path, metadata or {}, target, target_python, weight_dtype)
    num_nodes = dict(count_in_model(proto))
    if not num_nodes:
        warnings.warn(NoOperatorWarning(_no_operator()), stacklevel=2)
    return ExportResult(Path(path), num_nodes, opset, proto.ir_version, comparisons, narrowed)


def _no_operator() -> str:
    known = ", ".join(sorted(f"{domain}::{name}" for domain, name in registry.names()))
    advice = [kit.advice for kit in torch_kits() if kit.advice]
    hints = [*advice, "`mylinear adopt` makes nodes of standard operators in an ONNX file"]
    return f"the model calls no registered operator ({known}), so the file has none; {'; '.join(hints)}"


def _module_of(
    model: nn.Module | torch.export.ExportedProgram, engine: str, *, is_copied: bool
) -> tuple[nn.Module, torch.export.ExportedProgram | None]:
    """Return the module to call, and the exported program that it came from. Raises: ExportError."""
    if isinstance(model, torch.export.ExportedProgram):
        if engine != "dynamo":
            raise ExportError("an exported program takes engine='dynamo'")
        return model.module(), model
    if isinstance(model, torch.jit.ScriptModule):
        raise ExportError(
            "model is a torch.jit.ScriptModule, in which no operator can be found any more; export the module that "
            "it was made from"
        )
    if not isinstance(model, nn.Module):
        is_args = any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(model))
        hint = "; are model and args swapped? The call is export(model, args, path)" * is_args
        raise ExportError(f"model must be a torch.nn.Module or an ExportedProgram, got {kind_of(model)}{hint}")
    while isinstance(original := getattr(model, "_orig_mod", None), nn.Module):  # what torch.compile returns
        model = original
    return copy.deepcopy(model) if is_copied else model, None


def _arguments_of(program: torch.export.ExportedProgram, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Return the program's own example where none is given; keywords in the program's order, which its inputs have."""
    if kwargs is None and isinstance(args, tuple | list) and not args:
        return program.example_inputs or ((), {})
    if isinstance(kwargs, Mapping):
        order = program.call_spec.in_spec.child(1).context if program.call_spec.in_spec is not None else []
        kwargs = {**{key: kwargs[key] for key in order if key in kwargs}, **kwargs}
    return args, kwargs


def _state_names(module: nn.Module) -> set[str]:
    return {name for name, _ in (*module.named_parameters(), *module.named_buffers())}


def _export_small(
    job: Job,
    engine: str,
    path: str | Path,
    metadata: Mapping[str, str],
    target: str | None,
    target_python: str | Path | None,
    weight_dtype: str | None,
) -> tuple[onnx.ModelProto, dict[str, Comparison], Narrowed | None]:
    proto = export_dynamo(job) if engine == "dynamo" else export_torchscript(job)
    check_value_names(proto, job.inputs, job.outputs)
    raw = proto.SerializeToString() if weight_dtype else b""
    finish(proto, job.opset, metadata)
    comparisons = job.compare(proto)
    narrowed = None
    if weight_dtype is not None:
        original, proto = proto, onnx.load_model_from_string(raw)
        narrowed, comparisons = narrow_and_compare(job, original, proto, metadata, weight_dtype)
    with open_atomically(path) as temporary:
        onnx.save(proto, temporary)
        if target is not None and target_python is not None:
            _run_on_target(job, proto, temporary, target, target_python)
    return proto, comparisons, narrowed


def _export_large(
    job: Job,
    engine: str,
    path: str | Path,
    metadata: Mapping[str, str],
    target: str | None,
    target_python: str | Path | None,
    weight_dtype: str | None,
) -> tuple[onnx.ModelProto, dict[str, Comparison], Narrowed | None]:
    """Export by way of files, so that the weights are never in one message of protobuf."""
    with temporary_folder(beside=path) as folder:
        file = folder / "model.onnx"
        proto = export_dynamo(job, file) if engine == "dynamo" else export_torchscript(job, file)
        check_value_names(proto, job.inputs, job.outputs)
        raw = proto.SerializeToString()
        finish(proto, job.opset, metadata, file)
        comparisons = job.compare(proto, file)
        narrowed = None
        if weight_dtype is not None:
            original, proto, file = proto, onnx.load_model_from_string(raw), folder / "narrow.onnx"
            narrowed, comparisons = narrow_and_compare(job, original, proto, metadata, weight_dtype, file)
        if target is not None and target_python is not None:
            _run_on_target(job, proto, file, target, target_python)
        write_model(read_model(file).load(), path, external=True)
    return proto, comparisons, narrowed


def _run_on_target(job: Job, proto: onnx.ModelProto, file: Path, target: str, python: str | Path) -> None:
    """Run the file in the target's onnxruntime, and compare with float64 within the bound. Raises: TargetError."""
    feed = {name: to_numpy(tensor) for name, tensor in zip(job.inputs, job.example.tensors, strict=True)}
    theirs = run_elsewhere(python, file, feed, target)
    if not job.is_comparable():
        return
    exact = Float64Run(proto, file.parent)(feed).outputs
    for name, output in zip(job.outputs, theirs, strict=True):
        comparison = exact[name].compare(output)
        if not comparison.is_within_bound:
            raise TargetError(
                f"onnxruntime {target} gives another output '{name}' than the graph in float64: {comparison.complaint}"
            )
