"""Does a rewritten model mean what it meant, as a whole? Two witnesses run it before and after, in float64. No torch.

onnx's reference evaluator takes every model of operators that it knows; onnxruntime is what models run in, and takes
those for which it has float64 kernels. Each compares the two models by itself: what is equal differs by about 1e-15 of
its size, and what is not, by much more. Two, because a witness that misreads an operator as the rewriter does sees
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray
from onnx import helper

from ort_ops.analysis.evaluator import make_evaluator
from ort_ops.analysis.wide_model import WideModel
from ort_ops.models.inputs.draw import InputDrawer, NoExampleError, model_inputs, read_examples
from ort_ops.rewrite.files import ModelFile, weights_nbytes
from ort_ops.rewrite.reasons import RewriteError
from ort_ops.rewrite.report import Check, Extent, Rewrite

Array = NDArray[Any]
Run = Callable[[Mapping[str, Array]], dict[str, Any]]
_MAX_NBYTES = 2**28
_TOLERANCE = 1e-9
"""Of the largest number of a tensor: far above float64's rounding, far below that of float32."""


def check_whole(before: ModelFile, after: ir.Model, result: Rewrite, examples: str | Path | None = None) -> Check:
    """Run both models on the same inputs, compare every tensor that both have, and say what was done.

    One model at a time is run. Memory: the weights of one model in float64, and all tensors of two runs.

    Args:
        before: the model as it was read, not as onnx_ir understood it.
        examples: an .npz file to read the inputs from; None to draw such as the graph can take.

    Raises: RewriteError naming the first tensor that differs, ExampleError for examples that are not the model's.
    """
    if not result.rewritten:
        return Check(Extent.NOTHING)
    if weights_nbytes(after) > _MAX_NBYTES:
        return Check(Extent.TOO_LARGE, limit_mib=_MAX_NBYTES >> 20)
    feeds = _feeds(before, examples)
    old, new = WideModel.of_proto(before.proto, before.folder), WideModel.of_model(after)
    outputs, others = ([output.name for output in model.proto.graph.output] for model in (old, new))
    if outputs != others:
        raise RewriteError(f"the rewritten model would have the outputs {others} instead of {outputs}")
    accounts = [_hear(witness, old, new, feeds) for witness in _WITNESSES]
    heard = [account for account in accounts if account.count]
    if heard:
        most = max(heard, key=lambda account: account.count)
        return Check(Extent.WHOLE, most.count, num_blank=most.num_blank, by=tuple(account.name for account in heard))
    extent = min((account.extent for account in accounts), key=[Extent.NOT_DRAWN, Extent.NOT_RUN].index)
    details = {account.name: account.detail for account in accounts if account.extent is extent}
    detail = "; ".join(f"{name} says: {text}" for name, text in details.items())
    if extent is Extent.NOT_DRAWN:
        detail = next(iter(details.values()))
    return Check(extent, detail=detail)


@dataclass(frozen=True)
class _Witness:
    """One way to run a model in float64. ``load`` raises whatever it likes for a model that it cannot run."""

    name: str
    load: Callable[[onnx.ModelProto], Run]


@dataclass
class _Account:
    """What one witness found: the tensors that it compared, those of them without any number, or why it compared none.

    Attributes:
        detail: what the witness says where it compared none.
    """

    name: str
    count: int = 0
    num_blank: int = 0
    extent: Extent = Extent.NOT_RUN
    detail: str = field(default="")


def _hear(
    witness: _Witness, old: WideModel, new: WideModel, feeds: Sequence[Callable[[], dict[str, Array]]]
) -> _Account:
    """Compare both models by one witness, on the first inputs on which the old one runs. Raises: RewriteError."""
    account = _Account(witness.name)
    try:
        run_old = witness.load(old.proto)
    except Exception as error:
        account.detail = _first_line(error)
        return account
    for make_feed in feeds:
        try:
            feed = make_feed()
            expected = run_old({**feed, **old.weights()})
        except Exception as error:
            if not account.detail:
                account.extent = Extent.NOT_DRAWN if isinstance(error, NoExampleError) else Extent.NOT_RUN
                account.detail = _first_line(error)
            continue
        try:
            got = witness.load(new.proto)({**feed, **new.weights()})
        except Exception as error:
            raise RewriteError(f"the rewritten model does not run in {witness.name}: {_first_line(error)}") from error
        account.count, account.num_blank = _compare(expected, got, witness.name)
        return account
    return account


def _compare(expected: dict[str, Any], got: dict[str, Any], name_of_witness: str) -> tuple[int, int]:
    """Compare the tensors of two runs; return how many, and how many had not one finite number.

    Raises: RewriteError naming the first tensor that differs.
    """
    count = num_blank = 0
    for name, value in expected.items():
        if name not in got or not isinstance(value, np.ndarray | np.generic):
            continue
        value, other = np.asarray(value), np.asarray(got[name])
        if value.shape != other.shape:
            raise RewriteError(f"tensor '{name}' would be {list(other.shape)} instead of {list(value.shape)}")
        count += 1
        if value.dtype.kind != "f":
            if not np.array_equal(value, other):
                raise RewriteError(f"tensor '{name}' would change, says {name_of_witness}")
            continue
        tolerance = max(_TOLERANCE, 2 * float(np.finfo(value.dtype).eps))  # some operators give float32 whatever comes
        finite = np.isfinite(value)
        num_blank += bool(value.size) and not finite.any()
        with np.errstate(all="ignore"):
            size = np.max(np.abs(value), initial=0.0, where=finite)
            same = (np.abs(value - other) <= tolerance * size) | (value == other)
        same |= np.isnan(value) & np.isnan(other)
        if not same.all():
            index = tuple(int(i) for i in np.unravel_index(int(np.argmin(same)), same.shape))
            raise RewriteError(
                f"tensor '{name}' would change, first at {list(index)}: {other[index]:.9g} instead of "
                f"{value[index]:.9g}, says {name_of_witness}"
            )
    return count, num_blank


def _load_evaluator(model: onnx.ModelProto) -> Run:
    evaluator = make_evaluator(model)
    names = _computed(model)

    def run(feed: Mapping[str, Array]) -> dict[str, Any]:
        with np.errstate(all="ignore"):
            results = evaluator.run(None, dict(feed), intermediate=True)
        assert isinstance(results, dict)
        return {name: results[name] for name in names if name in results}

    return run


def _computed(model: onnx.ModelProto) -> list[str]:
    """Return the names of what the nodes of the main graph give, and of outputs that no node gives."""
    names = [name for node in model.graph.node for name in node.output if name]
    return list(dict.fromkeys([*names, *(output.name for output in model.graph.output)]))


def _load_onnxruntime(model: onnx.ModelProto) -> Run:
    """Load a model as it is written, without optimizations, with every tensor of the main graph as an output."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    outputs = {output.name for output in shown.graph.output}
    hidden = [name for name in _computed(model) if name not in outputs]
    shown.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in hidden)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(shown.SerializeToString(), options, ["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda feed: dict(zip(names, session.run(names, dict(feed)), strict=True))


_WITNESSES = (_Witness("onnx's evaluator", _load_evaluator), _Witness("onnxruntime", _load_onnxruntime))


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def _feeds(file: ModelFile, examples: str | Path | None) -> list[Callable[[], dict[str, Array]]]:
    """Return what makes each feed to try, floating-point numbers in float64; examples are read at once."""
    model = file.proto
    floats = {value.name for value in model_inputs(model) if value.is_floating}

    def widened(feed: dict[str, Array]) -> dict[str, Array]:
        return {name: array.astype(np.float64) if name in floats else array for name, array in feed.items()}

    if examples is not None:
        feed = widened(read_examples(examples, model))
        return [lambda: feed]
    drawer = InputDrawer(model)
    sizes: list[tuple[int, int | None]] = [(2, None), (1, None), (2, 64)]
    return [lambda s=s: widened(drawer.draw(s[0], np.random.default_rng(0), others=s[1])) for s in sizes]  # type: ignore[misc]
