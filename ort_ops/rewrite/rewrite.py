"""Rewrite any ONNX graph: `adopt` puts operators in for what they can stand for, `lower` standard operators for them.

No torch is needed. Weights are read from where they are (memory-mapped, if they lie beside the model), one at a time,
and what is done to them is done when the file is written, never when it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import onnx
import onnx_ir as ir

from ort_ops.errors import ModelError
from ort_ops.files.atomic import check_output
from ort_ops.models.checks import function_difference
from ort_ops.numerics.narrow import NARROW_TYPES
from ort_ops.rewrite.adoption import adopt_model, change_adopted
from ort_ops.rewrite.choices import Choices
from ort_ops.rewrite.files import read_model, write_model
from ort_ops.rewrite.graph.shapes import light_proto
from ort_ops.rewrite.lowering import lower_model
from ort_ops.rewrite.proof.step import check_step
from ort_ops.rewrite.proof.whole import check_whole
from ort_ops.rewrite.reasons import RewriteError
from ort_ops.rewrite.report import Rewrite
from ort_ops.rewrite.selection import SelectionError
from ort_ops.training.check import check_training
from ort_ops.training.file_format import KEY, find_metadata

__all__ = ["Rewrite", "RewriteError", "adopt", "adopt_model", "lower", "lower_model"]


def adopt(
    source: str | Path,
    target: str | Path,
    *,
    inputs: str | Path | None = None,
    operators: Sequence[str] | None = None,
    fuse_activations: bool = False,
    weight_dtype: str | None = None,
) -> Rewrite:
    """Write the model with registered operators in place of what their patterns find that they can stand for.

    In the main graph, in bodies of If, Loop and Scan and in model-local functions. What is not adopted although it
    looks like it is in the result, with the reason. Nodes that can be compared alone and, where it can be evaluated,
    the whole model are compared in float64 with what was there, before anything is written.

    Args:
        source: the model; its external data is read where it lies.
        target: the file to write; may be ``source``. Weights lie beside it (``<target>.data``) if they did before or
            if the model is too large for one file. Devices, FIFOs and ``-``, which is standard output, are written to.
        inputs: an .npz file with an array for each input, to compare the whole model on; None for drawn numbers.
        operators: those to adopt, each ``domain::NAME``; None for all that are registered.
        fuse_activations: whether an operator takes in the activation that follows it, in any of its spellings. Written
            out with rounded constants, an activation is taken for what it stands for.
        weight_dtype: ``bfloat16`` or ``float16`` to store float32 weights in, rounded to nearest even; the result says
            how much a weight changed, and, where the model is run, an output. The model is compared with one that has
            the rounded weights. None to leave them as they are.

    Raises: ModelError for a file that is no model or is damaged; RewriteError if the rewritten model would differ,
        naming the first tensor that does; ContractError for an opset that is too old; SelectionError; OutputError.
    """
    if weight_dtype not in (None, *NARROW_TYPES):
        raise SelectionError(f"the dtype of the weights must be {' or '.join(NARROW_TYPES)}, got '{weight_dtype}'")
    choices = Choices(fuse_activations, weight_dtype or "")
    return _rewrite(source, target, lambda model: adopt_model(model, operators), inputs, choices, operators)


def lower(
    source: str | Path,
    target: str | Path,
    *,
    inputs: str | Path | None = None,
    operators: Sequence[str] | None = None,
) -> Rewrite:
    """Write the model with standard operators in place of registered ones, for tools that know only those.

    Each node becomes what its operator has a form for, or else the operator's body: with the node's attributes,
    with the optional inputs that it lacks, and without the outputs that nobody takes.

    Args:
        operators: those to lower, each ``domain::NAME``; None for all that are registered.

    Other arguments, Raises: as `adopt`; ContractError for nodes that break their operator's contract.
    """
    return _rewrite(source, target, lambda model: lower_model(model, operators), inputs)


def _rewrite(
    source: str | Path,
    target: str | Path,
    change: Callable[[ir.Model], Rewrite],
    inputs: str | Path | None = None,
    choices: Choices | None = None,
    operators: Sequence[str] | None = None,
) -> Rewrite:
    check_output(target)
    file = read_model(source)
    model = file.load()
    result = change(model)
    result.checks.append(check_whole(file, model, result, inputs))
    if choices:
        before = model.clone()
        later = change_adopted(model, choices, operators)
        later.checks.append(check_step(file, before, model, later, inputs))
        result.add(later)
    _check_definitions(model)
    _check_still_trains(file.proto, model)
    result.nbytes = write_model(model, target, external=file.is_external)
    return result


def _check_definitions(model: ir.Model) -> None:
    """Check the definitions inside the model: the comparison of whole models has those for float64 in their place.

    Raises: RewriteError for a definition that is not the one of the version that the model imports.
    """
    difference = function_difference(light_proto(model))
    if difference is not None:
        raise RewriteError(f"the rewritten model would be wrong: {difference}")


def _check_still_trains(before: onnx.ModelProto, after: ir.Model) -> None:
    """Check that a training file is one still: its metadata says what inputs, outputs and first values there are.

    Raises: RewriteError; ModelError for a file whose metadata was damaged before.
    """
    metadata = find_metadata(before)
    if metadata is None:
        return
    found = onnx.ModelProto()
    found.graph.input.extend(ir.serde.serialize_value(value) for value in after.graph.inputs)
    found.graph.output.extend(ir.serde.serialize_value(value) for value in after.graph.outputs)
    for name, value in after.graph.initializers.items():
        tensor = value.const_value
        assert tensor is not None
        found.graph.initializer.add(name=name, data_type=int(tensor.dtype), dims=tensor.shape.numpy())
    found.functions.extend(ir.to_proto(function) for function in after.functions.values())
    try:
        check_training(found, metadata)
        if after.metadata_props.get(KEY) != next(entry.value for entry in before.metadata_props if entry.key == KEY):
            raise ModelError(" has lost its metadata")
    except ModelError as error:
        raise RewriteError(f"the rewritten training file{error}") from error
