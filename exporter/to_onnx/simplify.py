"""Simplify an exported graph by steps that change no bit of what it computes.

``ONNXProgram.optimize`` does more, and not exactly: its rewrite rules take ``x + c`` for ``x`` where c is within 1e-8
of 0, and ``x * c`` for ``x`` where c is within 1e-5 of 1. That deletes the 1e-8 by which a model keeps away from 0 / 0.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import Sequential, common
from onnxscript import optimizer

_MOVES = frozenset({"Concat", "Expand", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators that move elements and compute none: onnx's reference evaluator gives what every runtime gives."""


def simplify(model: ir.Model) -> None:
    """Inline functions, fold constants, merge equal nodes, and drop unused ones; in place."""
    declared = [(output.type, output.shape) for output in model.graph.outputs]
    optimizer.inline(model)
    optimizer.fold_constants(model, should_fold=_may_fold)
    Sequential(
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        common.RemoveUnusedOpsetsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.LiftSubgraphInitializersToMainGraphPass(),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.IdentityEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    )(model)
    for output, (value_type, shape) in zip(model.graph.outputs, declared, strict=True):
        # An output that was merged with an equal value is now that value, of which no type may be known.
        output.type = output.type or value_type
        output.shape = output.shape or shape


def _may_fold(node: ir.Node) -> bool | None:
    """Whether onnx's reference evaluator computes a node of constants as a runtime would; None for onnxscript's limits.

    It does on integers. On floating-point numbers it rounds otherwise, some functions through float32.
    """
    constants = [value.const_value for value in node.inputs if value is not None]
    is_exact = node.op_type in _MOVES or not any(c is not None and c.dtype.is_floating_point() for c in constants)
    makes_numbers = node.op_type in ("Cast", "CastLike") and _output_is_small(node)
    return None if is_exact and not makes_numbers else False


def _output_is_small(node: ir.Node) -> bool:
    """Whether a cast makes numbers of fewer bits than float32, which the evaluator may round twice."""
    output = node.outputs[0]
    return output.dtype is None or (output.dtype.is_floating_point() and output.dtype.itemsize < 4)
