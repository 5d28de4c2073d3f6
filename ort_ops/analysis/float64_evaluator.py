"""onnx's reference evaluator in float64 for any model, and with every node's result perturbed. No torch.

The model is neither widened nor copied: a weight becomes float64 when a node takes it, and a value goes when no node
needs it any more. Each value carries the element type that the model holds it in, and what overflows there is infinity.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, defs, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpFunction, OpRun

from ort_ops.analysis.evaluator import Erf, GatherElements, Gelu
from ort_ops.analysis.local_error import STEPS, local_error, sum_size
from ort_ops.opdef.element_types import ElementType
from ort_ops.operators.mylinear.contract import DOMAIN, MYLINEAR, NAME
from ort_ops.operators.mylinear.error_bound import linear_bound
from ort_ops.operators.mylinear.reference import linear_float64
from ort_ops.operators.mylinear.scaled_sum import largest_finite

Array = NDArray[Any]
_BY_NAME = {element_type.name: element_type for element_type in MYLINEAR.element_types}
_BY_ONNX_TYPE = {element_type.onnx_type: element_type for element_type in MYLINEAR.element_types}
_FLOAT64 = _BY_NAME["float64"]
FLOAT64_SCALE = 2.0**20
"""Float64 nodes are perturbed so much more, and what arrives divided by it: float64 cannot show their errors else."""
_SIZES_NBYTES = 2**28
"""What the kept error sizes of sums may take in memory; those beyond it are computed in each run."""


@dataclass(frozen=True)
class Perturbation:
    """How the results of nodes are perturbed in one run.

    Attributes:
        kind: ``independent`` for random numbers; ``tied`` for random numbers that are the same in all nodes of one
            shape, as the errors of equal layers are; ``drift`` for one rounding of each result, all outwards.
        seed: of the random numbers.
        is_wide: whether float64 nodes are perturbed, `FLOAT64_SCALE` times as much; else those of all other types.
        factor: the perturbation in units of the node's error size.
        is_frozen: whether decisions stay as they were without perturbation.
    """

    kind: str
    seed: int
    is_wide: bool
    factor: float
    is_frozen: bool = True

    def scale(self, element_type: ElementType) -> float:
        """Return the perturbation of a node's result in units of its error size."""
        if (element_type is _FLOAT64) is not self.is_wide:
            return 0.0
        # The exact run makes errors of the same size in float64.
        return self.factor * (FLOAT64_SCALE * 2**0.5 if self.is_wide else 1.0)


@dataclass(frozen=True)
class Stored:
    """A tensor of the model, read when it is needed."""

    tensor: TensorProto
    folder: Path | None = None

    def load(self) -> Array:
        """Return its numbers in their own dtype."""
        if self.tensor.data_location != TensorProto.EXTERNAL:
            return numpy_helper.to_array(self.tensor)
        header = TensorProto()  # onnx puts the numbers into the tensor, where they would stay
        header.CopyFrom(self.tensor)
        return numpy_helper.to_array(header, base_dir=str(self.folder or ""))


OnLinear = Callable[[onnx.NodeProto, Array, "Array | Stored", "Array | Stored | None", ElementType], None]
OnValue = Callable[[str, Any], None]


class Tracker:
    """What one run of the evaluator knows: how it is perturbed, the types of values, and decisions of the exact run."""

    def __init__(self, on_linear: OnLinear) -> None:
        self.on_linear = on_linear
        self._types: dict[int, tuple[Any, ElementType]] = {}
        self.reset(None)

    def reset(self, on_value: OnValue | None) -> None:
        """Forget everything, for another input.

        Args:
            on_value: called with name and value of each result in the main graph.
        """
        self.on_value = on_value
        self.perturbation: Perturbation | None = None
        self.has_flips = False
        self.found_types: set[bool] = set()
        self.input_types: list[ElementType | None] = []
        self._sizes: dict[int, Array] = {}
        self._decisions: list[Array] = []
        self._overflows: dict[int, Array] = {}
        self._doubts: dict[int, Array] = {}
        self._decided = self._count = self._sizes_nbytes = 0

    def start(self, perturbation: Perturbation | None) -> None:
        """Begin a run; the first is the exact one."""
        self.perturbation, self.has_flips = perturbation, perturbation is not None and bool(self._doubts)
        self._decided = self._count = 0

    def type_of(self, value: Any) -> ElementType | None:
        """Return the element type that the model holds a value in; None for integers, booleans and what is no array."""
        if not isinstance(value, np.ndarray):
            return None
        known = self._types.get(id(value))
        return known[1] if known is not None else _BY_NAME.get(value.dtype.name)

    def step(self, node: OpRun, values: Sequence[Any], run: Callable[..., Any], declared: Sequence[Any]) -> list[Any]:
        """Run one node on its values, which may be stored tensors, in float64, perturb its results and return them."""
        self._count += 1
        inputs = [value.load() if isinstance(value, Stored) else value for value in values]
        self.input_types = types = [self.type_of(value) for value in inputs]
        inputs = [_widen(value) for value in inputs]
        proto = node.onnx_node
        if (proto.domain, proto.op_type) == (DOMAIN, NAME):
            return [self._linear(proto, inputs, types, values)]
        if isinstance(node, OpFunction) or node.has_subgraph:
            inputs = [self._remember(v, t) if t is not None else v for v, t in zip(inputs, types, strict=True)]
            return [self._typed(result, types, known) for result, known in zip(run(*inputs), declared, strict=False)]
        attributes = {a.name: helper.get_attribute_value(a) for a in proto.attribute if a.type != a.GRAPH}
        result_types = [self._result_type(proto, i, types, known) for i, known in enumerate(declared)]
        held = next((t for t in result_types if t is not None), None) or next((t for t in types if t is not None), None)
        factors = None if held is None else _factors(proto, attributes, inputs)
        if self.perturbation is None and factors is not None and held is not None:
            self._keep_size(*factors, held)
        scale = 0.0 if self.perturbation is None or held is None else self.perturbation.scale(held)
        if not scale or held is None:
            results = [_as_array(result) for result in run(*inputs)]
            return [self._settle(proto, r, t, inputs) for r, t in zip(results, result_types, strict=False)]
        if factors is not None:
            result, size = self._sum(*factors, held)
            result = self._perturbed(result, size * scale, held, 0)
            return [self._settle(proto, result, result_types[0], inputs)]
        error = local_error(proto.op_type, attributes, inputs, held)
        if error.of_inputs and self.perturbation is not None and self.perturbation.kind != "drift":
            noisy = [self._noisy(value, error.of_inputs * scale, i) for i, value in enumerate(inputs)]
        else:
            noisy = inputs
        results = []
        for i, (result, element_type) in enumerate(zip(run(*noisy), result_types, strict=False)):
            result = _widen(_as_array(result))
            if error.of_result and element_type is not None and _is_float(result):
                size = scale * error.size(result, inputs, element_type)
                result = self._perturbed(result, size, element_type, 100 + i)
            results.append(self._settle(proto, result, element_type, inputs))
        return results

    def _linear(self, proto: onnx.NodeProto, inputs: list[Any], types: list[Any], values: Sequence[Any]) -> Array:
        x, weight, bias = (*inputs, None)[:3]
        element_type = types[0] or _FLOAT64
        if self.perturbation is None:
            stored = [v if isinstance(v, Stored) else a for v, a in zip(values, inputs, strict=True)]
            self.on_linear(proto, x, stored[1], (*stored, None)[2], element_type)
            result: Array = linear_float64(x, weight, bias)
            self._keep_size(x, weight.T, bias, element_type)
            if _may_overflow(x, weight, bias, element_type):
                bound = linear_bound(x, weight, bias, element_type)
                limit = _overflow_limit(element_type)
                doubt = np.where(result <= -limit, bound.above, bound.above | bound.below)
                doubt = np.where(result >= limit, bound.below, doubt) & ~np.isnan(result)
                if doubt.any():
                    self._doubts[self._count] = doubt
        elif scale := self.perturbation.scale(element_type):
            MYLINEAR.infer_shape([x.shape, weight.shape, None if bias is None else bias.shape], {})
            result, size = self._sum(x, weight.T, bias, element_type)
            result = self._perturbed(result, size * scale, element_type, 0)
        else:
            result = linear_float64(x, weight, bias)
        return self._settle(proto, result, element_type, inputs)  # type: ignore[no-any-return]

    def _keep_size(self, a: Array, b: Array, bias: Array | None, element_type: ElementType) -> None:
        """Keep the size of a sum's error for the perturbed runs, which change it to second order only; if it fits."""
        nbytes = 8 * (a.size // max(1, a.shape[-1])) * b.shape[-1]
        if self._sizes_nbytes + nbytes <= _SIZES_NBYTES:
            self._sizes[self._count] = sum_size(a, b, element_type, bias)[1]
            self._sizes_nbytes += self._sizes[self._count].nbytes

    def _sum(self, a: Array, b: Array, bias: Array | None, element_type: ElementType) -> tuple[Array, Array]:
        """Return ``a @ b + bias`` and the size of its error, which is that of the exact run where it was kept."""
        assert self.perturbation is not None
        # With free decisions, nodes may run in another number, and a count is then that of another node.
        size = self._sizes.get(self._count) if self.perturbation.is_frozen else None
        if size is None:
            return sum_size(a, b, element_type, bias)
        with np.errstate(all="ignore"):
            total = np.matmul(a, b)
            return total if bias is None else total + bias, size

    def _random(self, shape: tuple[int, ...], salt: int) -> Array:
        """Return random signs and sizes of variance 1: numbers spread evenly, as roundings are."""
        assert self.perturbation is not None
        key = shape if self.perturbation.kind == "tied" else (self._count,)
        rng = np.random.default_rng([self.perturbation.seed, salt, *key])
        return rng.uniform(-(3**0.5), 3**0.5, shape)

    def _noisy(self, value: Any, relative: float, index: int) -> Any:
        if not _is_float(value):
            return value
        with np.errstate(all="ignore"):
            return np.where(np.isfinite(value), value * (1 + relative * self._random(value.shape, 1 + index)), value)

    def _perturbed(self, result: Array, size: Array, element_type: ElementType, salt: int) -> Array:
        assert self.perturbation is not None
        with np.errstate(all="ignore"):
            if self.perturbation.kind == "drift":
                unit = element_type.unit_roundoff * self.perturbation.scale(element_type) / self.perturbation.factor
                change = np.where(size > 0, unit * result, 0.0)
            else:
                change = size * self._random(result.shape, salt)
            return np.where(np.isfinite(change) & np.isfinite(result), result + change, result)

    def _settle(self, proto: onnx.NodeProto, result: Any, element_type: ElementType | None, inputs: list[Any]) -> Any:
        """Let a result overflow as its type does, keep or note decisions, and remember its type."""
        if not isinstance(result, np.ndarray):
            return self._typed(result, [element_type], None)
        result = _widen(result)
        is_floating = _is_float(result)
        if any(map(_is_float, inputs)) and (not is_floating or proto.op_type in STEPS):
            result = self._decide(result)
        if is_floating and element_type is not None:
            result = self._overflow(result, element_type)
            self.found_types.add(element_type is _FLOAT64)
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
        if not _is_same(result, exact):
            self.has_flips = True
        return exact

    def _overflow(self, result: Array, element_type: ElementType) -> Array:
        with np.errstate(invalid="ignore"):
            natural = (np.abs(result) >= _overflow_limit(element_type)) & np.isfinite(result)
        mask = natural
        if self.perturbation is None:
            if natural.any():
                self._overflows[self._count] = natural
        elif self.perturbation.is_frozen:
            kept = self._overflows.get(self._count)
            mask = np.zeros(result.shape, bool) if kept is None or kept.shape != result.shape else kept
            self.has_flips |= not np.array_equal(natural, mask)
        else:
            doubt = self._doubts.get(self._count)
            if doubt is not None and doubt.shape == result.shape:
                result, mask = np.where(doubt, np.nan, result), mask & ~doubt
        return np.where(mask, np.copysign(np.inf, result), result) if mask.any() else result

    def _typed(self, result: Any, types: Sequence[Any], declared: ElementType | None) -> Any:
        """Remember the type of what came out of a body or a function, where it has none yet."""
        if isinstance(result, list):
            return [self._typed(part, types, declared) for part in result]
        if not isinstance(result, np.ndarray) or id(result) in self._types:
            return result
        element_type = _BY_NAME.get(result.dtype.name) if result.dtype != np.float64 else None
        element_type = element_type or declared or next((t for t in types if t is not None), _FLOAT64)
        result = _widen(result)
        return self._remember(result, element_type) if _is_float(result) else result

    def _remember(self, value: Array, element_type: ElementType) -> Array:
        known = self._types.get(id(value))
        if known is not None:
            if known[1] is element_type:
                return value
            value = value.copy()
        key, types = id(value), self._types
        types[key] = weakref.ref(value, lambda _: types.pop(key, None)), element_type
        return value

    def _result_type(
        self, proto: onnx.NodeProto, index: int, types: Sequence[Any], declared: ElementType | None
    ) -> ElementType | None:
        """Return the type of a floating-point result: as cast, as declared, or that of the inputs of its kind."""
        if proto.op_type == "Cast":
            return _BY_ONNX_TYPE.get(next(a.i for a in proto.attribute if a.name == "to"))
        if proto.op_type == "CastLike":
            return cast("ElementType | None", types[1])
        if declared is not None:
            return declared
        if proto.op_type in ("Constant", "ConstantOfShape"):
            tensor = next((a.t for a in proto.attribute if a.name == "value"), None)
            return _BY_ONNX_TYPE.get(TensorProto.FLOAT if tensor is None else tensor.data_type)
        for letter, element_type in zip(_letters(proto, len(types)), types, strict=True):
            if element_type is not None and letter == _letter_of_result(proto, index):
                return cast("ElementType", element_type)
        return next((t for t in types if t is not None), None)


def _factors(
    proto: onnx.NodeProto, attributes: Mapping[str, Any], inputs: list[Any]
) -> tuple[Array, Array, Array | None] | None:
    """Return the matrices that a node multiplies, and what it adds; None for a node that does not, or for vectors."""
    if proto.domain not in ("", "ai.onnx") or proto.op_type not in ("MatMul", "Gemm"):
        return None
    a, b, c = (*inputs, None)[:3]
    if min(a.ndim, b.ndim) < 2 or not (_is_float(a) and _is_float(b)):
        return None
    if proto.op_type == "MatMul":
        return a, b, None
    a, b = (m.T if attributes.get(key) else m for m, key in ((a, "transA"), (b, "transB")))
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    return a if alpha == 1 else alpha * a, b, c if c is None or beta == 1 else beta * c


def _letters(proto: onnx.NodeProto, count: int) -> list[str | None]:
    schema = _schema(proto)
    if schema is None or not schema.inputs:
        return [None] * count
    return [schema.inputs[min(i, len(schema.inputs) - 1)].type_str for i in range(count)]


def _letter_of_result(proto: onnx.NodeProto, index: int) -> str | None:
    schema = _schema(proto)
    if schema is None or not schema.outputs:
        return ""
    letter: str = schema.outputs[min(index, len(schema.outputs) - 1)].type_str
    return letter


def _schema(proto: onnx.NodeProto) -> Any:
    try:
        return defs.get_schema(proto.op_type, domain=proto.domain)
    except Exception:  # an operator that onnx does not know
        return None


def _may_overflow(x: Array, weight: Array, bias: Array | None, element_type: ElementType) -> bool:
    """Whether the largest numbers would let a partial sum overflow, if they came together."""
    largest = MYLINEAR.element_type(element_type.accumulator).largest
    bias_size = 0.0 if bias is None else largest_finite(bias)
    return bool((x.shape[-1] + 1) * 2 * largest_finite(x) * largest_finite(weight) + bias_size >= largest / 2)


def _is_same(a: Array, b: Array) -> bool:
    return bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))


def _as_array(value: Any) -> Any:
    return np.asarray(value) if isinstance(value, np.generic) else value


def _is_float(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.float64


def _overflow_limit(element_type: ElementType) -> float:
    """Return the smallest number that rounds to infinity."""
    return element_type.largest * (1 + element_type.unit_roundoff / 2)


def _widen(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.name in _BY_NAME and value.dtype != np.float64:
        return value.astype(np.float64)
    return [_widen(part) for part in value] if isinstance(value, list) else value


class Cast(OpRun):
    """Leaves numbers as they are where they stay floating-point: the element type is known beside them."""

    op_domain = ""

    def _run(self, x: Any, to: Any = 0, **attributes: Any) -> tuple[Any]:
        from onnx.reference.ops.op_cast import cast_to

        if to in _BY_ONNX_TYPE and x.dtype.kind in "fiub":
            return (x.astype(np.float64),)
        with np.errstate(all="ignore"):
            return (cast_to(x, to, attributes.get("saturate", 1)),)


class CastLike(OpRun):
    """The same, to the type of another value."""

    op_domain = ""

    def _run(self, x: Any, like: Any, **attributes: Any) -> tuple[Any]:
        from onnx.reference.ops.op_cast import cast_to

        if like.dtype == np.float64 and x.dtype.kind in "fiub":
            return (x.astype(np.float64),)
        return (cast_to(x, helper.np_dtype_to_tensor_dtype(like.dtype), attributes.get("saturate", 1)),)


class Linear(OpRun):
    """Stands for MYLINEAR, which the tracker computes itself."""

    op_domain = DOMAIN

    def _run(self, *inputs: Any) -> tuple[Any]:
        raise AssertionError


Linear.__name__ = NAME


def make_float64_evaluator(
    model: onnx.ModelProto, tracker: Tracker, fallback: Callable[..., type[OpRun]], folder: Path | None = None
) -> Any:
    """Return an evaluator whose ``run(None, feed)`` gives the outputs in float64; values of the main graph are shown.

    Args:
        tracker: sees every node, of bodies and model-local functions too.
        fallback: makes an operator for a node that the evaluator does not know.
        folder: of the model's external data.
    """
    own: list[type[OpRun]] = [Linear, Cast, CastLike, Erf, Gelu, GatherElements]

    class Evaluator(ReferenceEvaluator):
        """Makes others of its own class for bodies and functions; for functions it forgets the operators."""

        def __init__(self, proto: Any, *, new_ops: Any = None, **options: Any) -> None:
            super().__init__(proto, new_ops=own, **options)

        def _init(self) -> None:
            self.stored = {t.name: Stored(t, folder) for t in self.inits_ if isinstance(t, TensorProto)}
            self.inits_ = [t for t in self.inits_ if not isinstance(t, TensorProto)]
            super()._init()
            self.bound: dict[tuple[int, bytes], OpRun] = {}
            self.gone_after = _last_uses(self.nodes_, self.output_names)
            types = self.all_types_ or {}
            self.declared = [[_declared(types.get(name)) for name in node.output] for node in self.nodes_]

        def _load_impl(self, node: onnx.NodeProto, input_types: Any = None) -> Any:
            try:
                implementation = super()._load_impl(node, input_types)
            except (NotImplementedError, RuntimeError):
                return fallback(node, dict(self.opsets), None)
            return fallback(node, dict(self.opsets), implementation)

        def run(  # type: ignore[override]  # whatever else onnx's own takes, this has no use for
            self, output_names: Any, feed_inputs: Any, attributes: Any = None, **options: Any
        ) -> Any:
            results: dict[str, Any] = {**self.rt_inits_, **self.stored, **feed_inputs, "": None}
            shown = tracker.on_value if isinstance(self.proto_, onnx.ModelProto) else None
            for index, found_node in enumerate(self.rt_nodes_):
                node = found_node
                keywords: dict[str, Any] = {}
                if node.has_linked_attribute and (node.has_subgraph or isinstance(node, OpFunction)):
                    keywords["linked_attributes"] = attributes or {}
                elif node.has_linked_attribute:
                    node = self._bind(index, node, attributes or {})
                if node.need_context():
                    keywords["context"] = results
                values = [results[name] for name in node.input]
                outputs = tracker.step(
                    node,
                    values,
                    lambda *a, node=node, keywords=keywords: node.run(*a, **keywords),
                    self.declared[index],
                )
                for name, value in zip(node.output, outputs, strict=False):
                    if name:
                        results[name] = value
                        if shown is not None:
                            shown(name, value)
                for name in self.gone_after[index]:
                    results.pop(name, None)
            found = [results[name] for name in self.output_names]
            return [value.load() if isinstance(value, Stored) else value for value in found]

        def _bind(self, index: int, node: OpRun, attributes: Mapping[str, Any]) -> OpRun:
            """Return the operator with the attributes of the call, which many of onnx's operators cannot take."""
            proto = with_attributes(node.onnx_node, attributes)
            key = index, proto.SerializeToString(deterministic=True)
            if key not in self.bound:
                self.bound[key] = self._load_impl(proto)(proto, node.run_params)
            return self.bound[key]

    return Evaluator(model)


def with_attributes(node: onnx.NodeProto, attributes: Mapping[str, Any]) -> onnx.NodeProto:
    """Return a copy of a node in a function that has the values of the call, as the evaluator holds them, for its own.

    An attribute that the call does not give is left out, as ONNX has it.
    """
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    del copy.attribute[:]
    for attribute in node.attribute:
        name = attribute.ref_attr_name
        if not name:
            copy.attribute.append(attribute)
        elif attributes.get(name) is not None:
            value = attributes[name]
            value = numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
            copy.attribute.append(helper.make_attribute(attribute.name, value, attr_type=attribute.type))
    return copy


def _declared(value_type: Any) -> ElementType | None:
    return None if value_type is None else _BY_ONNX_TYPE.get(value_type.tensor_type.elem_type)


def _last_uses(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> list[list[str]]:
    """Return for each node the values that no later one needs, in its bodies or as an output."""
    last: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in (*node.output, *_names_taken(node)):
            last[name] = index
    gone: list[list[str]] = [[] for _ in nodes]
    for name, index in last.items():
        if name and name not in outputs:
            gone[index].append(name)
    return gone


def _names_taken(node: onnx.NodeProto) -> list[str]:
    names = list(node.input)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            names += [output.name for output in graph.output]
            for inner in graph.node:
                names += _names_taken(inner)
    return names
