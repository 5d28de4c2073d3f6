"""Does a rewritten model mean what it meant? Layer by layer, and as a whole, in float64. No torch.

A layer is compared by what its operators are defined to do with the stored numbers, so that nothing of a large model
but one weight at a time is read. The whole model is run by onnx's reference evaluator with every floating-point tensor
widened to float64: there, what is equal differs by about 1e-15 of its size, and what is not, by much more.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from exporter.evaluator import make_evaluator
from exporter.rewrite_constants import Computed, Constant, resolve
from exporter.rewrite_files import bring_inside, weights_nbytes
from exporter.rewrite_match import LinearLayer
from exporter.rewrite_report import Check, Extent, Rewrite
from exporter.widen import widen_to_float64
from ort_ops.error_bound import gamma
from ort_ops.errors import MylinearError
from ort_ops.model_inputs import InputDrawer, model_inputs, read_examples
from ort_ops.skeleton import sort_nodes

Array = NDArray[Any]
_MAX_NBYTES_WHOLE = 2**28
_CHUNK = 2**22  # weights that are widened to float64 at a time
_TOLERANCE = 1e-9
"""Of the largest number of a tensor: far above float64's rounding, far below that of float32."""


class RewriteError(MylinearError, RuntimeError):
    """A rewrite that would change what the model computes, or a model that cannot be rewritten; nothing is written."""


def check_layer(layer: LinearLayer, weight: ir.Value, bias: ir.Value, name: str) -> None:
    """Compare MYLINEAR with its new weight and bias with the definition of what it replaces, on random x in float64.

    A weight that is computed is the same value before and after; its bias is compared.
    Raises: RewriteError naming the layer's output.
    """
    if layer.factor is not None:
        assert weight.const_value is not None
        new_weight, old = weight.const_value.numpy(), layer.factor.array()
        old = old.T if layer.is_transposed else old
        old = old.reshape(old.shape[-2:])
    else:
        out_features = 1 if bias.const_value is None else bias.const_value.size
        new_weight = np.random.default_rng(1).standard_normal((out_features, 2))
        old = new_weight.T
    old_bias = new_bias = np.zeros(1)
    if not isinstance(layer.bias, Computed):
        assert bias.const_value is not None
        new_bias = bias.const_value.numpy()
    if isinstance(layer.bias, Constant):
        old_bias = layer.beta * layer.bias.array().astype(np.float64)
    _compare_sums(old, old_bias, layer.alpha, new_weight, new_bias, name)


def check_lowered(
    product: ir.Node, added: ir.Value | None, weight: Constant | None, bias: Constant | None, name: str
) -> bool:
    """Compare what became of a MYLINEAR node with the weight and bias that it had, in the same way.

    Args:
        product: the Gemm or MatMul that stands for it now.
        added: the bias of that, or of the Add behind it.
        weight, bias: that the node had; None for a computed one, or for no bias.

    Returns: whether it was compared; what is computed is compared with the model as a whole only.
    """
    factor, new_bias = product.inputs[1], resolve(added)
    if weight is None or factor is None or factor.const_value is None or (added is not None and new_bias is None):
        return False
    new = factor.const_value.numpy()
    old_numbers, new_numbers = (np.zeros(1) if b is None else b.array() for b in (bias, new_bias))
    new = new if product.op_type == "Gemm" else new.T
    _compare_sums(weight.array().T, old_numbers.astype(np.float64), 1.0, new, new_numbers, name)
    return True


def _compare_sums(old: Array, old_bias: Array, alpha: float, new_weight: Array, new_bias: Array, name: str) -> None:
    """Compare ``alpha x old + old_bias`` with ``x new_weight^T + new_bias``, some features at a time."""
    in_features, out_features = old.shape
    if new_weight.shape != (out_features, in_features):
        raise RewriteError(f"the weight of '{name}' would be {list(new_weight.shape)}")
    x = np.random.default_rng(0).standard_normal((3, in_features))
    old_bias, new_bias = (np.broadcast_to(b.astype(np.float64), (out_features,)) for b in (old_bias, new_bias))
    rows = max(1, _CHUNK // max(1, in_features))
    with np.errstate(all="ignore"):
        for start in range(0, out_features, rows):
            part = slice(start, start + rows)
            widened = old[:, part].astype(np.float64)
            expected = alpha * (x @ widened) + old_bias[part]
            got = x @ new_weight[part].T.astype(np.float64) + new_bias[part]
            magnitude = np.abs(x) @ np.abs(widened) * abs(alpha) + np.abs(expected)
            allowed = 2 * gamma(in_features + 2, 2.0**-53) * magnitude
            same = (np.abs(got - expected) <= allowed) | (got == expected) | (np.isnan(got) & np.isnan(expected))
            if not same.all() and np.isfinite(magnitude).all():
                raise RewriteError(f"the output of '{name}' would change by {np.nanmax(np.abs(got - expected)):.3g}")


def check_whole(before: ir.Model, after: ir.Model, result: Rewrite, examples: str | Path | None = None) -> Check:
    """Run both models in float64 on the same inputs, compare every tensor that both have, and say what was done.

    Args:
        examples: an .npz file to read the inputs from; None to draw such as the graph can take.

    Raises: RewriteError naming the first tensor that differs, ExampleError for examples that are not the model's.
    """
    if not result.rewritten:
        return Check(Extent.NOTHING)
    if weights_nbytes(before) > _MAX_NBYTES_WHOLE:
        return Check(Extent.TOO_LARGE, limit_mib=_MAX_NBYTES_WHOLE >> 20)
    for model in (before, after):
        bring_inside(model)
    feeds = _feeds(ir.to_proto(before), examples)
    old, new = (widen_to_float64(ir.to_proto(model)) for model in (before, after))
    for proto in (old, new):
        sort_nodes(proto.graph)
    reasons = []
    for make_feed in feeds:
        try:
            feed = make_feed()
            expected = evaluate_all(old, feed)
        except Exception as error:
            reasons.append(str(error).splitlines()[0][:120] if str(error) else type(error).__name__)
            continue
        try:
            got = evaluate_all(new, feed)
        except Exception as error:
            raise RewriteError(f"the rewritten model does not run: {error}") from error
        _compare(expected, got)
        return Check(Extent.WHOLE, len(expected.keys() & got.keys()))
    remedy = "" if examples else "; give real inputs by --inputs file.npz"
    return Check(Extent.NOT_RUN, detail=f"{reasons[0]}{remedy}")


def _compare(expected: dict[str, Any], got: dict[str, Any]) -> None:
    for name, value in expected.items():
        if name not in got or not isinstance(value, np.ndarray):
            continue
        other = np.asarray(got[name])
        if value.shape != other.shape:
            raise RewriteError(f"tensor '{name}' would be {list(other.shape)} instead of {list(value.shape)}")
        if value.dtype != np.float64:
            if not np.array_equal(value, other):
                raise RewriteError(f"tensor '{name}' would change")
            continue
        with np.errstate(all="ignore"):
            size = np.max(np.abs(value), initial=0.0, where=np.isfinite(value))
            same = (np.abs(value - other) <= _TOLERANCE * size) | (value == other)
        same |= np.isnan(value) & np.isnan(other)
        if not same.all():
            index = tuple(int(i) for i in np.unravel_index(int(np.argmin(same)), same.shape))
            raise RewriteError(
                f"tensor '{name}' would change, first at {list(index)}: "
                f"{other[index]:.9g} instead of {value[index]:.9g}"
            )


def evaluate_all(model: onnx.ModelProto, feed: dict[str, Array]) -> dict[str, Any]:
    """Return every tensor of the main graph by name, in the order in which they are computed."""
    with np.errstate(all="ignore"):
        results = make_evaluator(model).run(None, dict(feed), intermediate=True)
    assert isinstance(results, dict)
    return results


def _feeds(model: onnx.ModelProto, examples: str | Path | None) -> list[Callable[[], dict[str, Array]]]:
    """Return what makes each feed to try, floating-point numbers in float64; examples are read at once."""

    def widened(feed: dict[str, Array]) -> dict[str, Array]:
        floats = {value.name for value in model_inputs(model) if value.is_floating}
        return {name: array.astype(np.float64) if name in floats else array for name, array in feed.items()}

    if examples is not None:
        feed = widened(read_examples(examples, model))
        return [lambda: feed]
    drawer = InputDrawer(model)
    sizes: list[tuple[int, int | None]] = [(2, None), (1, None), (2, 64)]
    return [lambda s=s: widened(drawer.draw(s[0], np.random.default_rng(0), others=s[1])) for s in sizes]  # type: ignore[misc]
