"""How large the rounding errors of one node are, from what it computes and the element type that holds its result.

Each error is given as a size: the square root of the sum of the squares of all roundings that the node makes for one
element of its result, each at its worst. Where the roundings are independent of each other and as often up as down,
their sum is then sub-Gaussian with the size as its parameter, which is what `float64_run` needs (N. Higham and
T. Mary, "A New Approach to Probabilistic Rounding Error Analysis", 2019, take the same model).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from ort_ops.opdef.element_types import ELEMENT_TYPES, ElementType

Array = NDArray[Any]
FUNCTION_ROUNDINGS = 8
"""Of an elementwise function. Runtimes evaluate Tanh, Sigmoid, Erf and the like by polynomials that promise a few units
in the last place; a test compares onnxruntime and torch with this."""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


EXACT = _names("""
    Abs And ArgMax ArgMin BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Ceil CenterCropPad Clip Col2Im
    Compress Concat ConcatFromSequence Constant ConstantOfShape DepthToSpace Dropout Equal Expand EyeLike Flatten
    Floor Gather GatherElements GatherND GlobalMaxPool Greater GreaterOrEqual Hardmax Identity If IsInf IsNaN Less
    LessOrEqual Loop Max MaxPool MaxUnpool Min Neg NonZero Not OneHot Optional OptionalGetElement OptionalHasElement
    Or Pad ReduceMax ReduceMin Relu Reshape ReverseSequence Round Scan Scatter ScatterElements ScatterND SequenceAt
    SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength SequenceMap Shape Sign Size Slice
    SpaceToDepth Split SplitToSequence Squeeze TensorScatter Tile TopK Transpose Trilu Unique Unsqueeze Upsample
    Where Xor
""")
"""Operators that move, choose or compare numbers, or take steps, and make no rounding error."""
STEPS = _names("Ceil Floor Hardmax Round Sign")
"""Operators whose floating-point result changes in steps: decisions, as integers and booleans are."""
HAVE_AGREED_EDGES = _names(
    "Add Cast CastLike Constant Div Flatten Identity MatMul Mul Relu Reshape Sigmoid Sub Tanh Transpose"
)
"""Operators that all runtimes let act alike on infinities and NaN."""
_ONE_ROUNDING = _names("Add Cast CastLike DequantizeLinear Div LeakyRelu Mod Mul PRelu Range Sqrt Sub")
_GATED = _names("FastGelu Gelu HardSwish Mish QuickGelu Softplus Swish")
"""Elementwise functions of the kind x g(x) with a cancellation in g for negative x: their error is that of x there."""
_FROM_ONE = _names("Celu Elu HardSigmoid Selu Sigmoid")
"""Elementwise functions with a constant about 1 in them for negative x, as in e^x - 1."""
_FUNCTIONS = _names("""
    Acos Acosh Asin Asinh Atan Atanh Cos Cosh Erf Exp Log Mean Pow Reciprocal Shrink Sin Sinh
    Softsign Sum Tan Tanh ThresholdedRelu
""")
_FEW_TERMS = _names("AffineGrid BatchNormalization GridSample Resize RotaryEmbedding")


@dataclass(frozen=True)
class LocalError:
    """The sizes of a node's errors, relative to its numbers.

    Attributes:
        of_inputs: as if each number that comes in were rounded so much more. By a node's own weights this reaches its
            result as an error of its sums does, whatever the operator.
        of_result: relative to the result, or to ``floor`` where this is larger and the input negative.
        floor: a function of the size of the input.
    """

    of_inputs: float
    of_result: float
    floor: Callable[[Array], Array] | None = None

    def size(self, result: Array, inputs: Sequence[Any], element_type: ElementType) -> Array:
        """Return the error size of each number; 0 for what one rounding leaves as it is, as sums of integers are.

        In float64 the result is rounded before it comes here, and so no rounding changes it: there, what is computed
        from whole numbers and is a whole number itself counts as exact, and nothing else.
        """
        with np.errstate(all="ignore"):
            size = np.abs(result)
            if self.floor is not None and inputs[0].shape == result.shape:
                size = np.where(inputs[0] < 0, np.maximum(size, self.floor(np.abs(inputs[0]))), size)
            found = self.of_result * size + np.where(result == 0, 0.0, element_type.smallest)
            if self.of_result != element_type.unit_roundoff:
                return found
            if element_type.name == "float64":
                return np.where(_is_of_integers(result, inputs), 0.0, found)
            rounded = result.astype(helper.tensor_dtype_to_np_dtype(element_type.onnx_type)).astype(np.float64)
        return np.where(rounded == result, 0.0, found)


NONE = LocalError(0.0, 0.0)


def _is_of_integers(result: Array, inputs: Sequence[Any]) -> NDArray[np.bool_]:
    """Whether a result and the elements that it comes of are whole, and small enough for float64 to hold all such."""
    limit = 2.0**53
    whole: NDArray[np.bool_] = (np.rint(result) == result) & (np.abs(result) < limit)
    for value in inputs:
        if isinstance(value, np.ndarray) and value.dtype == np.float64:
            is_whole = (np.rint(value) == value) & (np.abs(value) < limit)
            try:
                whole = whole & np.broadcast_to(is_whole, whole.shape)
            except ValueError:  # no elementwise operator
                whole = whole & is_whole.all()
    return whole


def local_error(
    op_type: str, attributes: Mapping[str, Any], inputs: Sequence[Any], element_type: ElementType
) -> LocalError:
    """Return the error sizes of a node of any operator that is neither registered nor a product of matrices.

    Those have their own: `ort_ops.opdef.kit.OperatorKit.error_sizes`, and `ort_ops.numerics.sums.sum_size`.

    Args:
        op_type: whatever the domain; one that is not known counts as a sum over its longest axis.
        attributes: by name.
        inputs: arrays, or None for an absent one.
        element_type: that holds the result.
    """
    unit = element_type.unit_roundoff
    if op_type in EXACT or (op_type in ("Cast", "CastLike") and element_type.name == "float64"):
        return NONE
    if op_type in _ONE_ROUNDING:
        return LocalError(0.0, unit)
    if op_type in _FUNCTIONS:
        return LocalError(0.0, FUNCTION_ROUNDINGS * unit)
    if op_type in _GATED:
        return LocalError(0.0, FUNCTION_ROUNDINGS * unit, lambda size: np.minimum(size, 2.0))
    if op_type in _FROM_ONE:
        return LocalError(0.0, FUNCTION_ROUNDINGS * unit, np.ones_like)
    accumulator = ELEMENT_TYPES[element_type.accumulator]
    summing = math.sqrt(_num_terms(op_type, attributes, inputs)) * accumulator.unit_roundoff
    return LocalError(summing + (unit if unit > accumulator.unit_roundoff else 0.0), summing + unit)


def _num_terms(op_type: str, attributes: Mapping[str, Any], inputs: Sequence[Any]) -> int:
    """Return how many terms the sums of an operator have; for one that is not known, its longest axis."""
    shapes: list[tuple[int, ...]] = [a.shape for a in inputs if isinstance(a, np.ndarray) and a.dtype.kind == "f"]
    if op_type in _FEW_TERMS:
        return 4
    if op_type in ("Conv", "ConvTranspose", "DeformConv", "FusedConv") and len(shapes) > 1:
        return 1 + math.prod(shapes[1][1:])
    if op_type.startswith("Reduce") and shapes:
        return max(1, math.prod(shapes[0]))
    if "Pool" in op_type and attributes.get("kernel_shape"):
        return math.prod(map(int, attributes["kernel_shape"]))
    if op_type in ("GlobalAveragePool", "GlobalLpPool", "InstanceNormalization", "GroupNormalization") and shapes:
        return max(1, math.prod(shapes[0][1:]))
    return max((size for shape in shapes for size in shape), default=1)
