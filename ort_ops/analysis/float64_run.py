"""Run a whole model in float64, and bound how far any right runtime may be from it, at any depth.

The result of each node is rounded; `local_error` gives the size of each rounding error. To first order the
error of an output is the sum of all of them, each multiplied by the derivative of the output by that number. Multiplied
absolute values would bound that sum too, but they grow exponentially with depth, and soon allow anything. Here the
derivatives act with their signs: the graph is run again with every node's result perturbed, and what arrives at the
outputs is measured.

**The factor.** Let delta_i be the most that rounding i can be off, J_i the derivative of an output by it, and
sigma^2 = sum (J_i delta_i)^2. Random numbers of variance delta_i^2 give the output exactly that variance, and so the
root mean square of what arrives estimates sigma. Where roundings are independent and spread evenly over
[-delta_i, delta_i], the output's error is sub-Gaussian with variance proxy sigma^2 / 3, and so it exceeds `FACTOR`
sigma with a probability of at most 2 exp(-3 FACTOR^2 / 2), which is 8e-11 for 4. Even for roundings that are always at
their worst, with random signs, it is 7e-4 (Hoeffding). The perturbations are `FACTOR` times the sizes to begin with:
second-order effects at that distance are then in the result.

**What levels off.** g / (|g| + 1e-8), as Adam has it, is almost 1 for any g that is large, and so for one that should
be 0 and is a rounding error. What `FACTOR` times the error does to it is no larger than what the error itself does, and
any smaller perturbation among them would make the root mean square too small. Some runs therefore perturb by less than
`FACTOR`, and what arrives is scaled up. Where the derivative is the same at both distances nothing changes by that.

**Errors that are not independent.** Equal layers round equal numbers equally, and what is added up over and over may
be rounded in one direction. Beside `independent` runs there are `tied` ones, with the same numbers in all nodes of one
shape, and one that lets every number `drift` outwards by one unit roundoff. Of the three kinds the largest counts. In a
network without such structure they arrive alike; where errors add up instead of averaging out, they do so here too.

**Few samples.** Eight runs estimate one element's sigma coarsely: for one in 80,000 they are all below a quarter of it.
Each element therefore has at least the variance that its row and its column have, as a product of the two (exact where
the sizes of rows and columns are independent, as where one output is in other units, and never the whole tensor's).

**Decisions.** A comparison, an ArgMax, a Round or a number at the edge of overflow changes in steps, which no
derivative shows. In the perturbed runs all decisions are those of the exact run. Where one would have turned, the run
is made once more with the decisions free. What that changes by more than the bound is `undecided`: neither right nor
wrong. What it changes by less is added to the bound. NaN and infinities are not perturbed; they must be where they are
exactly. A bound that is larger than the values themselves is infinite here: nothing would follow from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ort_ops.analysis.evaluation import Evaluation, Value
from ort_ops.analysis.float64.evaluator import make_float64_evaluator
from ort_ops.analysis.float64.perturbation import FLOAT64_SCALE, Perturbation
from ort_ops.analysis.float64.tracker import Tracker
from ort_ops.analysis.rows import thinned
from ort_ops.analysis.single_node import with_fallback
from ort_ops.errors import ModelError, MylinearError
from ort_ops.models.nodes import element_types, operator_nodes
from ort_ops.numerics.bound import IN_STEPS, ROUNDED, Arithmetic
from ort_ops.numerics.sums import FACTOR
from ort_ops.opdef.call import Call
from ort_ops.opdef.element_types import ElementType
from ort_ops.opdef.kit import OperatorKit

Array = NDArray[Any]
RUNS = (
    *(("independent", part) for part in (1.0, 1.0, 1.0, 0.5, 0.25)),
    *(("tied", part) for part in (1.0, 0.5)),
    ("drift", 1.0),
)
"""The perturbed runs, each with the part of `FACTOR` that it perturbs by, for each of: float64 nodes, and others."""
MAX_CALLS = 3
"""Calls to keep of a node that runs more than once, as in the body of a Loop; the last replaces the rest."""
BOUND_IN_WORDS = "the rounding errors of every node, as they arrive at the outputs (float64, to first order)"


class Float64Run:
    """A model prepared to be run in float64 on several inputs."""

    def __init__(
        self, model: onnx.ModelProto, folder: str | Path | None = None, arithmetic: Arithmetic = ROUNDED
    ) -> None:
        """Prepare the model, without copying or widening it.

        Args:
            folder: of its external data, for a model that was read without it.
            arithmetic: of the runtimes to be bounded.

        Raises: ModelError for a model that onnx's evaluator cannot read.
        """
        self._nodes = operator_nodes(model)
        self._paths = {id(found.node): found.path for found in self._nodes}
        self._outputs = [output.name for output in model.graph.output]
        self._calls: dict[str, list[Call]] = {}
        self._shown: dict[str, tuple[Any, ElementType | None]] = {}
        self._tracker = Tracker(self._record, arithmetic)

        def fallback(node: onnx.NodeProto, opsets: Mapping[str, int], implementation: Any) -> Any:
            return with_fallback(node, opsets, implementation, lambda: self._tracker.input_types)

        place = None if folder is None else Path(folder)
        try:
            self._evaluator = make_float64_evaluator(model, self._tracker, fallback, place)
        except MylinearError:
            raise
        except Exception as error:  # it requires more of a model than onnxruntime does
            raise ModelError(f"the model cannot be run in float64: {_first_line(error)}") from error

    def __call__(self, feed: Mapping[str, Array], *, keep_values: bool = False) -> Evaluation:
        """Evaluate one input: the exact outputs, the bound of each, and what each operator node received.

        Args:
            feed: by name, in the model's own dtypes.
            keep_values: whether to return all values of the main graph too, which takes six times their memory.

        Raises: ModelError for a node that cannot be run here; ContractError for shapes that break an operator's
            contract.
        """
        self._calls = {}
        self._tracker.reset(self._show if keep_values else None)
        exact = self._run(feed, None)
        calls = [call for received in self._calls.values() for call in received]
        spreads = {name: _Spread(value, element_type) for name, (value, element_type) in exact.items()}
        del exact
        for is_wide in sorted(self._tracker.found_types):
            for seed, (kind, part) in enumerate(RUNS):
                self._perturb(feed, Perturbation(kind, seed, is_wide, FACTOR * part), part, spreads)
            for spread in spreads.values():
                spread.finish_group(FLOAT64_SCALE if is_wide else 1.0)
        values = {name: spread.value() for name, spread in spreads.items()}
        return Evaluation({name: values[name] for name in self._outputs}, calls, values if keep_values else {})

    def exact(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Return the exact outputs alone, which takes one run; floating-point inputs may come in float64.

        Raises: as the call itself.
        """
        self._calls = {}
        self._tracker.reset(None, is_exact_alone=True)
        return {name: value for name, (value, _) in self._run(feed, None).items()}

    def _perturb(
        self, feed: Mapping[str, Array], perturbation: Perturbation, part: float, spreads: Mapping[str, _Spread]
    ) -> None:
        frozen = {name: value for name, (value, _) in self._run(feed, perturbation).items()}
        for name, value in frozen.items():
            spreads[name].add(perturbation.kind, value, part)
        if self._tracker.has_flips:
            free = replace(perturbation, is_frozen=False)
            found = self._run(feed, free)
            for name, spread in spreads.items():
                spread.add_turned(found[name][0] if name in found else None, frozen[name])

    def _run(
        self, feed: Mapping[str, Array], perturbation: Perturbation | None
    ) -> dict[str, tuple[Any, ElementType | None]]:
        self._shown = {}
        self._tracker.start(perturbation)
        try:
            with np.errstate(all="ignore"):
                outputs = self._evaluator.run(None, dict(feed))
        except MylinearError:
            raise
        except Exception as error:
            raise ModelError(f"the model cannot be run in float64: {_first_line(error)}") from error
        found = {name: (value, self._tracker.type_of(value)) for name, value in self._shown.items()}
        for name, value in zip(self._outputs, outputs, strict=True):
            found[name] = value, self._tracker.type_of(value)
        self._shown = {}
        return {name: pair for name, pair in found.items() if isinstance(pair[0], np.ndarray)}

    def _show(self, name: str, value: Any) -> None:
        self._shown[name] = value

    def _record(self, kit: OperatorKit, node: onnx.NodeProto, call: Call) -> None:
        path = self._paths.get(id(node), call.label)
        calls = self._calls.setdefault(path, [])
        del calls[MAX_CALLS - 1 :]
        calls.append(replace(thinned(kit, call), label=path))


def in_steps(model: onnx.ModelProto, folder: str | Path | None, otherwise: Float64Run) -> Float64Run:
    """Return the run that bounds torch, which rounds between the steps of an operator; ``otherwise`` if none does."""
    has_narrow = bool({"float16", "bfloat16"} & element_types(model))
    needs = has_narrow and any(found.kit.has_steps for found in operator_nodes(model))
    return Float64Run(model, folder, IN_STEPS) if needs else otherwise


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@dataclass
class _Spread:
    """One value, and its changes in the perturbed runs."""

    exact: Array
    element_type: ElementType | None
    variance: Any = 0.0
    turned: Any = 0.0
    undecided: Any = False
    kinds: dict[str, tuple[Array, int]] = field(default_factory=dict)

    def add(self, kind: str, value: Any, part: float) -> None:
        """Take the value of a run with decisions as they were, which perturbed by a part of `FACTOR`."""
        change, is_lost = _change(value, self.exact)
        self.undecided = self.undecided | is_lost
        if change is not None and self.element_type is not None:
            squares, count = self.kinds.get(kind, (0.0, 0))
            self.kinds[kind] = squares + np.square(change / part), count + 1

    def add_turned(self, value: Any, frozen: Any) -> None:
        """Take the value of the same run with free decisions."""
        change, is_lost = _change(value, frozen)
        self.undecided = self.undecided | is_lost
        if change is not None:
            self.turned = np.maximum(self.turned, np.abs(change))

    def finish_group(self, scale: float) -> None:
        """Take the runs so far as one group of errors, which are independent of those of others."""
        found = [pooled(squares / count) for squares, count in self.kinds.values()]
        if found:
            self.variance = self.variance + np.max(found, axis=0) / scale**2
        self.kinds = {}

    def value(self) -> Value:
        """Return the value with its bound."""
        shape = self.exact.shape
        if self.element_type is None:
            undecided = np.broadcast_to(self.undecided | (np.asarray(self.turned) != 0), shape)
            return Value(self.exact, np.zeros(shape), None, undecided)
        bound = np.broadcast_to(np.sqrt(self.variance), shape)
        undecided = np.broadcast_to(self.undecided | (self.turned > bound), shape)
        bound = np.where(undecided, bound, bound + self.turned)
        if is_vacuous(bound, self.exact, ~undecided):
            return Value(self.exact, np.full(shape, np.inf), self.element_type, undecided, bound)
        return Value(self.exact, bound, self.element_type, undecided)


def is_vacuous(bound: Array, exact: Array, where: Array) -> bool:
    """Whether a bound is larger than the values themselves, in the mean, so that it proves nothing."""
    where = where & np.isfinite(exact)
    if not where.any():
        return False
    largest = float(np.max(np.abs(exact), where=where, initial=0.0)) or 1.0
    with np.errstate(all="ignore"):
        allowed, size = (float(np.mean(np.square(values[where] / largest))) for values in (bound, exact))
    return not allowed <= size


def _change(value: Any, exact: Array) -> tuple[Array | None, Any]:
    """Return how much two values differ, and where the difference is not a number; None for another shape."""
    if not isinstance(value, np.ndarray) or value.shape != exact.shape:
        return None, True
    if exact.dtype != np.float64:
        is_other = value != exact
        return is_other.astype(np.float64), False
    with np.errstate(all="ignore"):
        same = (value == exact) | (np.isnan(value) & np.isnan(exact))
        change = np.where(same, 0.0, value - exact)
    is_number = np.isfinite(change)
    return np.where(is_number, change, 0.0), ~is_number


def pooled(variance: Array) -> Array:
    """Return each element's variance, and at least what its row and its column (the last axis) let expect."""
    if variance.ndim < 2 or not variance.size:
        return variance
    rows = variance.reshape(-1, variance.shape[-1])
    mean = rows.mean()
    if not mean:
        return variance
    expected = rows.mean(axis=1, keepdims=True) * (rows.mean(axis=0, keepdims=True) / mean)
    pooled: Array = np.maximum(rows, expected).reshape(variance.shape)
    return pooled
