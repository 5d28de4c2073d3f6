"""Check that a rewritten model as a whole means what it meant: two witnesses run both in float64. No torch.

Each witness compares the two models by itself. Most tensors are equal bit by bit. Where one is not, each of the two
runs may be off by the rounding errors of float64 as they arrive there, which `ort_ops.analysis.float64_run` derives, so
the two may differ by twice that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ort_ops.analysis.evaluation import Value
from ort_ops.analysis.float64_run import Float64Run
from ort_ops.analysis.wide_model import WideModel
from ort_ops.errors import MylinearError
from ort_ops.models.inputs.draw import InputDrawer, NoExampleError, model_inputs, read_examples
from ort_ops.numerics.compare import Comparison, Verdict, compare, compare_exactly
from ort_ops.numerics.narrow import narrow
from ort_ops.opdef import registry
from ort_ops.opdef.element_types import ELEMENT_TYPES
from ort_ops.rewrite.files import ModelFile, weights_nbytes
from ort_ops.rewrite.graph.walk import graphs_of
from ort_ops.rewrite.proof.witnesses import WITNESSES, Witness, with_definitions
from ort_ops.rewrite.reasons import RewriteError
from ort_ops.rewrite.report import Check, Extent, Rewrite
from ort_ops.training.file_format import find_metadata

Array = NDArray[Any]
_MAX_NBYTES = 2**28


def check_whole(before: ModelFile, after: ir.Model, result: Rewrite, examples: str | Path | None = None) -> Check:
    """Run both models on the same inputs, compare every tensor that both have, and report what was compared.

    One model runs at a time. Memory: the weights of one model in float64, and all tensors of two runs.

    Args:
        before: the model as it was read, not as onnx_ir sees it.
        examples: an .npz file to read the inputs from; None to draw such as the graph can take.

    Raises: RewriteError naming the first tensor that differs, ExampleError for examples that are not the model's.
    """
    if not result.rewritten:
        return Check(Extent.NOTHING)
    if (refusal := too_large(after)) is not None:
        return refusal
    old = WideModel.of_proto(with_definitions(before.proto), before.folder)
    return compare_models(old, widened(after, before.folder), result, make_feeds(before, examples))


def too_large(model: ir.Model) -> Check | None:
    """Return the check that says that a model is not run for its size; None if it is small enough."""
    return Check(Extent.TOO_LARGE, limit_mib=_MAX_NBYTES >> 20) if weights_nbytes(model) > _MAX_NBYTES else None


def compare_models(
    old: WideModel, new: WideModel, result: Rewrite, feeds: Sequence[Callable[[], dict[str, Array]]]
) -> Check:
    """Compare two models; see `check_whole`.

    Where the result says that stored numbers are rounded, or stand for others, both models have the new numbers in
    their place: what is proved is all that was done beside changing them.
    """
    if changes := _changes(result):
        old, new = old.with_numbers(changes), new.with_numbers(changes)
    outputs, others = ([output.name for output in model.proto.graph.output] for model in (old, new))
    if outputs != others:
        raise RewriteError(f"the rewritten model would have the outputs {others} instead of {outputs}")
    bounds = _Bounds(old)
    is_only_proof = not all(entry.is_compared for entry in result.rewritten)
    accounts = [_hear(witness, old, new, feeds, bounds, is_only_proof) for witness in WITNESSES]
    heard = [account for account in accounts if account.has_run]
    if heard:
        most = max(heard, key=lambda account: account.count)
        return Check(
            Extent.WHOLE,
            most.count,
            num_blank=most.num_blank,
            num_undecided=most.num_undecided,
            num_unbounded=most.num_unbounded,
            by=tuple(account.name for account in heard),
        )
    extent = min((account.extent for account in accounts), key=[Extent.NOT_DRAWN, Extent.NOT_RUN].index)
    details = {account.name: account.detail for account in accounts if account.extent is extent}
    detail = "; ".join(f"{name} says: {text}" for name, text in details.items())
    if extent is Extent.NOT_DRAWN:
        detail = next(iter(details.values()))
    return Check(extent, detail=detail)


def _changes(result: Rewrite) -> dict[str, Callable[[Array], Array]]:
    """Return what the step did to stored numbers, by their name."""
    changes: dict[str, Callable[[Array], Array]] = {}
    for name, number in result.constants.items():
        changes[name] = lambda array, n=number: np.full_like(array, n)  # type: ignore[misc]
    for name, dtype in result.rounded.items():
        changes[name] = lambda array, d=dtype: narrow(array, d).astype(np.float64)  # type: ignore[misc]
    return changes


def widened(model: ir.Model, folder: Path) -> WideModel:
    """Return a rewritten model to be run in float64; ``folder`` is that of its external data."""
    defined, names = {identifier[:2] for identifier in model.functions}, registry.names()
    used = {(node.domain, node.op_type) for _, graph in graphs_of(model) for node in graph}
    if used & names <= defined:
        return WideModel.of_model(model)
    return WideModel.of_proto(with_definitions(ir.to_proto(model)), folder)


@dataclass
class _Account:
    """The account of one witness.

    Attributes:
        is_only_proof: whether a tensor that differs must have a bound.
        has_run: whether it could run both models.
        count: of the tensors that are equal, or within their bound.
        num_blank: of those, tensors without any finite number.
        num_undecided: tensors with elements that hang on decisions which rounding errors may turn.
        num_unbounded: tensors with elements for which no bound is known, and that are not equal.
        detail: why the witness could not run the models.
    """

    name: str
    is_only_proof: bool = False
    has_run: bool = False
    count: int = 0
    num_blank: int = 0
    num_undecided: int = 0
    num_unbounded: int = 0
    extent: Extent = Extent.NOT_RUN
    detail: str = ""


class _Bounds:
    """How far each tensor of the old model may be from exact arithmetic; computed when first needed."""

    def __init__(self, model: WideModel) -> None:
        self._model = model
        self._found: dict[int, Mapping[str, Value]] = {}

    def of(self, name: str, number: int, feed: Mapping[str, Array]) -> Value | None:
        """Return the tensor's bound on one feed; None where there is none, as for a model that cannot be run.

        Args:
            number: of the feed; feeds of one number are equal.
        """
        if number not in self._found:
            try:
                run = Float64Run(self._model.proto)
                self._found[number] = run({**feed, **self._model.weights()}, keep_values=True).values
            except MylinearError:  # then nothing is proved of unequal tensors, and the check says so
                self._found[number] = {}
        return self._found[number].get(name)


def _hear(
    witness: Witness,
    old: WideModel,
    new: WideModel,
    feeds: Sequence[Callable[[], dict[str, Array]]],
    bounds: _Bounds,
    is_only_proof: bool,
) -> _Account:
    """Compare both models by one witness, on the first inputs on which the old one runs. Raises: RewriteError.

    Args:
        is_only_proof: whether some node was not compared by itself. Then a tensor that differs must have a bound.
    """
    account = _Account(witness.name, is_only_proof)
    has_bounds = witness.draws_as_bounds or not old.draws

    def find_bound(name: str, number: int, feed: Mapping[str, Array]) -> Value | None:
        return bounds.of(name, number, feed) if has_bounds else None

    try:
        run_old = witness.load(old.proto)
    except Exception as error:
        account.detail = _first_line(error)
        return account
    for number, make_feed in enumerate(feeds):
        try:
            feed = make_feed()
            expected = run_old({**feed, **old.weights()})
        except Exception as error:
            if not account.detail:
                account.extent = Extent.NOT_DRAWN if isinstance(error, NoExampleError) else Extent.NOT_RUN
                account.detail = _first_line(error)
            continue
        if not witness.takes(new.proto):
            account.detail = "the rewritten model has operators that only a kernel runs"
            return account
        try:
            got = witness.load(new.proto)({**feed, **new.weights()})
        except Exception as error:
            raise RewriteError(f"the rewritten model does not run in {witness.name}: {_first_line(error)}") from error
        _compare(expected, got, lambda name, n=number, f=feed: find_bound(name, n, f), account)  # type: ignore[misc]
        return account
    return account


def _compare(
    expected: Mapping[str, Any],
    got: Mapping[str, Any],
    find_bound: Callable[[str], Value | None],
    account: _Account,
) -> None:
    """Compare the tensors of two runs, and note how many are proved equal. Raises: RewriteError naming the first other.

    Args:
        find_bound: returns how far a tensor may be from exact arithmetic in each run.
    """
    account.has_run = True
    for name, value in expected.items():
        if name not in got or not isinstance(value, np.ndarray | np.generic):
            continue
        before, after = np.asarray(value), np.asarray(got[name])
        comparison = _compare_tensor(before, after, lambda name=name: find_bound(name))  # type: ignore[misc]
        if comparison.verdict is Verdict.VIOLATED:
            raise RewriteError(f"tensor '{name}' would change, says {account.name}: {comparison.complaint}")
        if comparison.verdict is Verdict.UNBOUNDED and account.is_only_proof:
            raise RewriteError(
                f"tensor '{name}' would differ, says {account.name}, and no bound tells how far it may: "
                f"{comparison.text}; give other inputs by --inputs file.npz"
            )
        if comparison.verdict is Verdict.UNBOUNDED:
            account.num_unbounded += 1
        elif comparison.verdict is Verdict.UNDECIDED:
            account.num_undecided += 1
        else:
            account.count += 1
            account.num_blank += before.dtype.kind == "f" and bool(before.size) and not np.isfinite(before).any()


def _compare_tensor(before: Array, after: Array, find_bound: Callable[[], Value | None]) -> Comparison:
    """Compare one tensor of two runs: bit by bit, or within twice its bound where it is not equal."""
    if before.shape != after.shape or before.dtype.kind != "f":
        comparison = compare_exactly(after, before)
        if comparison.verdict is Verdict.OK or before.shape != after.shape:
            return comparison
        bound = find_bound()
        return comparison if bound is None else compare_exactly(after, before, bound.undecided)
    if np.array_equal(before, after, equal_nan=True):
        return Comparison(0.0, 0.0, None, before.size)
    bound = find_bound()
    if bound is None or bound.element_type is None or bound.exact.shape != before.shape:
        return compare(after, before, np.full(before.shape, np.inf), ELEMENT_TYPES[before.dtype.name])
    return compare(after, before, 2 * bound.error, bound.element_type, bound.undecided)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def make_feeds(file: ModelFile, examples: str | Path | None) -> list[Callable[[], dict[str, Array]]]:
    """Return what makes each feed to try, floating-point numbers in float64; examples are read at once."""
    model = file.proto
    floats = {value.name for value in model_inputs(model) if value.is_floating}

    def as_float64(feed: dict[str, Array]) -> dict[str, Array]:
        return {name: array.astype(np.float64) if name in floats else array for name, array in feed.items()}

    if examples is not None:
        feed = as_float64(read_examples(examples, model))
        return [lambda: feed]
    training = find_metadata(model)
    drawer = InputDrawer(model, None if training is None else training.ranges)
    sizes: list[tuple[int, int | None]] = [(2, None), (1, None), (2, 64)]
    return [lambda s=s: as_float64(drawer.draw(s[0], np.random.default_rng(0), others=s[1])) for s in sizes]  # type: ignore[misc]
