"""What one run of a model in float64 knows of each value, and how it perturbs the results of nodes."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from onnx.reference.op_run import OpFunction, OpRun

from ort_ops.analysis.float64.arrays import (
    FLOAT64,
    FLOATS_BY_NAME,
    as_array,
    factors,
    is_float,
    is_product,
    is_same,
    overflow_limit,
    rounds_between,
    size_of_bound,
    takes_narrow,
    widen,
)
from ort_ops.analysis.float64.local_error import STEPS, local_error
from ort_ops.analysis.float64.perturbation import Perturbation
from ort_ops.analysis.float64.result_types import result_type
from ort_ops.analysis.operator_op import OperatorOp, element_type_of
from ort_ops.analysis.stored import Stored
from ort_ops.numerics.bound import ROUNDED, Arithmetic
from ort_ops.numerics.sums import sum_size, wide_product
from ort_ops.opdef.call import Call
from ort_ops.opdef.element_types import ElementType
from ort_ops.opdef.kit import OperatorKit

Array = NDArray[Any]
_SIZES_NBYTES = 2**28
"""What the kept error sizes may take in memory; those beyond it are computed in each run."""
OnCall = Callable[[OperatorKit, onnx.NodeProto, Call], None]
OnValue = Callable[[str, Any], None]


class Tracker:
    """What one run of the evaluator knows: how it is perturbed, the types of values, and decisions of the exact run."""

    def __init__(self, on_call: OnCall, arithmetic: Arithmetic = ROUNDED) -> None:
        self.on_call = on_call
        self._arithmetic = arithmetic
        self._types: dict[int, tuple[Any, ElementType]] = {}
        self.reset(None)

    def reset(self, on_value: OnValue | None, *, is_exact_alone: bool = False) -> None:
        """Forget everything, for another input; ``on_value`` is called with each result in the main graph.

        Where the exact run stands alone, and no perturbed one follows, it measures no errors.
        """
        self.on_value, self._measures = on_value, not is_exact_alone
        self.perturbation: Perturbation | None = None
        self.has_flips = False
        self.found_types: set[bool] = set()
        self.input_types: list[ElementType | None] = []
        self._sizes: dict[int, list[Array | None]] = {}
        self._decisions: list[Array] = []
        self._overflows: dict[tuple[int, int], Array] = {}
        self._doubts: dict[tuple[int, int], Array] = {}
        self._steps: dict[tuple[int, int], Array] = {}
        self._decided = self._count = self._sizes_nbytes = 0

    def start(self, perturbation: Perturbation | None) -> None:
        """Begin a run; the first is the exact one."""
        self.perturbation, self.has_flips = perturbation, perturbation is not None and bool(self._doubts or self._steps)
        self._decided = self._count = 0

    def type_of(self, value: Any) -> ElementType | None:
        """Return the element type that the model holds a value in; None for integers, booleans and what is no array."""
        if not isinstance(value, np.ndarray):
            return None
        known = self._types.get(id(value))
        return known[1] if known is not None else FLOATS_BY_NAME.get(value.dtype.name)

    def step(self, node: OpRun, values: Sequence[Any], run: Callable[..., Any], declared: Sequence[Any]) -> list[Any]:
        """Run one node on its values, which may be stored tensors, in float64, perturb its results and return them."""
        self._count += 1
        inputs = [value.load() if isinstance(value, Stored) else value for value in values]
        self.input_types = types = [self.type_of(value) for value in inputs]
        proto = node.onnx_node
        inputs = [v if takes_narrow(node, i, values[i]) else widen(v) for i, v in enumerate(inputs)]
        if isinstance(node, OperatorOp):
            return self._operator(node, inputs, types, values, declared)
        if isinstance(node, OpFunction) or node.has_subgraph:
            inputs = [self._remember(v, t) if t is not None else v for v, t in zip(inputs, types, strict=True)]
            return [self._typed(result, types, known) for result, known in zip(run(*inputs), declared, strict=False)]
        attributes = {a.name: helper.get_attribute_value(a) for a in proto.attribute if a.type != a.GRAPH}
        result_types = [result_type(proto, i, types, known) for i, known in enumerate(declared)]
        held = next((t for t in result_types if t is not None), None) or next((t for t in types if t is not None), None)
        products = None if held is None else factors(proto, attributes, inputs)
        if products is None and is_product(proto):  # of vectors
            inputs = [widen(value) for value in inputs]
        if self.perturbation is None and self._measures and products is not None and held is not None:
            self._keep_size(*products, held)
        perturbation = self.perturbation
        scale = 0.0 if perturbation is None or held is None else perturbation.scale(held)
        if not scale or held is None or perturbation is None:
            results = run(*inputs) if products is None else [wide_product(*products)]
            pairs = enumerate(zip(map(as_array, results), result_types, strict=False))
            return [self._settle(proto, i, result, held_in, inputs) for i, (result, held_in) in pairs]
        if products is not None:
            result, size = self._sum(*products, held)
            result = perturbation.perturbed(result, size * scale, held, 0, self._count)
            return [self._settle(proto, 0, result, result_types[0], inputs)]
        error = local_error(proto.op_type, attributes, inputs, held)
        if error.of_inputs and perturbation.kind != "drift":
            relative = error.of_inputs * scale
            noisy = [perturbation.noisy(value, relative, 1 + i, self._count) for i, value in enumerate(inputs)]
        else:
            noisy = inputs
        results = []
        for i, (result, element_type) in enumerate(zip(run(*noisy), result_types, strict=False)):
            result = widen(as_array(result))
            if error.of_result and element_type is not None and is_float(result):
                size = scale * error.size(result, inputs, element_type)
                result = perturbation.perturbed(result, size, element_type, 100 + i, self._count, keeps_sign=True)
            results.append(self._settle(proto, i, result, element_type, inputs))
        return results

    def _operator(
        self, node: OperatorOp, inputs: list[Any], types: list[Any], values: Sequence[Any], stated: Sequence[Any]
    ) -> list[Any]:
        """Run a node of a registered operator by its kit."""
        kit = node.own_kit
        call = node.make_call(inputs, [t or element_type_of(v) for t, v in zip(types, inputs, strict=True)], stated)
        if self.perturbation is None:
            stored = [v if isinstance(v, Stored) else a for v, a in zip(values, inputs, strict=True)]
            stored += [None] * (len(call.inputs) - len(stored))
            self.on_call(kit, node.own_origin, replace(call, inputs=tuple(stored)))
            results = [as_array(result) for result in kit.reference(call)]
            if self._measures:
                self._keep_sizes(kit, call, results)
        else:
            results = [as_array(result) for result in self._perturbed_results(kit, call, self.perturbation)]
            if not self.perturbation.is_frozen:
                results = [self._stepped(result, i) for i, result in enumerate(results)]
        held_in = [call.types.get(output.type.name) for output in kit.operator.outputs]
        return [
            self._settle(node.onnx_node, i, result, held if held is not None and held.is_floating else None, inputs)
            for i, (result, held) in enumerate(zip(results, held_in, strict=True))
        ]

    def _keep_sizes(self, kit: OperatorKit, call: Call, results: Sequence[Array]) -> None:
        """Keep what the exact run tells of a node's errors: their sizes if they fit, and where sums may overflow."""
        nbytes = sum(result.nbytes for result in results if is_float(result))
        fits = self._sizes_nbytes + nbytes <= _SIZES_NBYTES
        error_sizes = self._error_sizes(kit, call)
        if error_sizes is not None and fits:
            self._sizes[self._count] = [size for _, size in error_sizes(call)]
            self._sizes_nbytes += nbytes
        if error_sizes is not None and kit.may_overflow is not None and not kit.may_overflow(call):
            return
        bounds = kit.bound(call, self._arithmetic)
        if error_sizes is None and fits:
            self._sizes[self._count] = [size_of_bound(bound) for bound in bounds]
            self._sizes_nbytes += nbytes
        for i, (bound, result) in enumerate(zip(bounds, results, strict=True)):
            if bound is None:
                continue
            if not is_float(result):
                if np.any(bound.error > 0):
                    self._steps[self._count, i] = np.broadcast_to(bound.error, result.shape)
                continue
            limit = overflow_limit(call.output_type(i))
            doubt = np.where(result <= -limit, bound.above, bound.above | bound.below)
            doubt = np.where(result >= limit, bound.below, doubt) & ~np.isnan(result)
            if error_sizes is None:
                doubt = doubt | (np.isinf(bound.error) & np.isfinite(result))
            if doubt.any():
                self._doubts[self._count, i] = doubt

    def _error_sizes(self, kit: OperatorKit, call: Call) -> Callable[..., Any] | None:
        """Return the kit's sizes of errors; None where the bound is taken, which has room for further roundings."""
        return None if self._arithmetic.rounds_between and rounds_between(kit, call.types) else kit.error_sizes

    def _stepped(self, result: Array, index: int) -> Array:
        """Return integers that rounding errors within the node may change as they would change; others as they are."""
        step = self._steps.get((self._count, index))
        if step is None or step.shape != result.shape:
            return result
        other = np.where(result >= step, result - step, result + step)
        return np.where(step > 0, other, result).astype(result.dtype)

    def _perturbed_results(self, kit: OperatorKit, call: Call, perturbation: Perturbation) -> list[Array]:
        types = [call.types.get(output.type.name) for output in kit.operator.outputs]
        scales = [0.0 if t is None or not t.is_floating else perturbation.scale(t) for t in types]
        # With free decisions, nodes may run in another number, and a count is then that of another node.
        sizes = self._sizes.get(self._count) if perturbation.is_frozen else None
        error_sizes = self._error_sizes(kit, call)
        if any(scales) and sizes is None and error_sizes is not None:
            pairs = error_sizes(call)
            results, sizes = [result for result, _ in pairs], [size for _, size in pairs]
        else:
            results = [as_array(result) for result in kit.reference(call)]
            if any(scales) and sizes is None:
                sizes = [size_of_bound(bound) for bound in kit.bound(call, self._arithmetic)]
        for i, (scale, element_type) in enumerate(zip(scales, types, strict=True)):
            size = None if sizes is None else sizes[i]
            if scale and size is not None and element_type is not None:
                salt = 200 + i if i else 0
                results[i] = perturbation.perturbed(
                    results[i], size * scale, element_type, salt, self._count, keeps_sign=kit.is_elementwise
                )
        return results

    def _keep_size(self, a: Array, b: Array, bias: Array | None, element_type: ElementType) -> None:
        """Keep the size of a sum's error for the perturbed runs, which change it to second order only; if it fits."""
        nbytes = 8 * (a.size // max(1, a.shape[-1])) * b.shape[-1]
        if self._sizes_nbytes + nbytes <= _SIZES_NBYTES:
            size = sum_size(a, b, element_type, bias)[1]
            self._sizes[self._count] = [size]
            self._sizes_nbytes += size.nbytes

    def _sum(self, a: Array, b: Array, bias: Array | None, element_type: ElementType) -> tuple[Array, Array]:
        """Return ``a @ b + bias`` and the size of its error, which is that of the exact run where it was kept."""
        assert self.perturbation is not None
        # With free decisions, nodes may run in another number, and a count is then that of another node.
        kept = self._sizes.get(self._count) if self.perturbation.is_frozen else None
        if kept is None or kept[0] is None:
            return sum_size(a, b, element_type, bias)
        return wide_product(a, b, bias), kept[0]

    def _settle(
        self, proto: onnx.NodeProto, index: int, result: Any, element_type: ElementType | None, inputs: list[Any]
    ) -> Any:
        """Let a result overflow as its type does, keep or note decisions, and remember its type."""
        if not isinstance(result, np.ndarray):
            return self._typed(result, [element_type], None)
        result = widen(result)
        is_floating = is_float(result)
        if any(map(is_float, inputs)) and (not is_floating or proto.op_type in STEPS):
            result = self._decide(result)
        if is_floating and element_type is not None:
            result = self._overflow(result, element_type, index)
            self.found_types.add(element_type is FLOAT64)
            result = self._remember(result, element_type)
        return result

    def _decide(self, result: Array) -> Array:
        if self.perturbation is None:
            self._decisions.append(result)
            return result
        if not self.perturbation.is_frozen:
            return result
        exact = self._decisions[self._decided]
        self._decided += 1
        if not is_same(result, exact):
            self.has_flips = True
        return exact

    def _overflow(self, result: Array, element_type: ElementType, index: int) -> Array:
        key = self._count, index
        with np.errstate(invalid="ignore"):
            natural = (np.abs(result) >= overflow_limit(element_type)) & np.isfinite(result)
        mask = natural
        if self.perturbation is None:
            if natural.any():
                self._overflows[key] = natural
        elif self.perturbation.is_frozen:
            kept = self._overflows.get(key)
            mask = np.zeros(result.shape, bool) if kept is None or kept.shape != result.shape else kept
            self.has_flips |= not np.array_equal(natural, mask)
        else:
            doubt = self._doubts.get(key)
            if doubt is not None and doubt.shape == result.shape:
                result, mask = np.where(doubt, np.nan, result), mask & ~doubt
        return np.where(mask, np.copysign(np.inf, result), result) if mask.any() else result

    def _typed(self, result: Any, types: Sequence[Any], declared: ElementType | None) -> Any:
        """Remember the type of what came out of a body or a function, where it has none yet."""
        if isinstance(result, list):
            return [self._typed(part, types, declared) for part in result]
        if not isinstance(result, np.ndarray) or id(result) in self._types:
            return result
        element_type = FLOATS_BY_NAME.get(result.dtype.name) if result.dtype != np.float64 else None
        stated = declared if declared is not None and declared.is_floating else None
        element_type = element_type or stated or next((t for t in types if t is not None), FLOAT64)
        result = widen(result)
        return self._remember(result, element_type) if is_float(result) else result

    def _remember(self, value: Array, element_type: ElementType) -> Array:
        known = self._types.get(id(value))
        if known is not None:
            if known[1] is element_type:
                return value
            value = value.copy()
        key, types = id(value), self._types
        types[key] = weakref.ref(value, lambda _: types.pop(key, None)), element_type
        return value
