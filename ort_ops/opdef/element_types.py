"""Element types of tensors: their names, sizes and precision.

Only the standard library is imported; ``bfloat16`` is NumPy's dtype of that name from `ml_dtypes`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ElementType:
    """An element type of ONNX tensors.

    Attributes:
        name: NumPy's and torch's name, such as ``float16``.
        onnx_type: the value in ``onnx.TensorProto.DataType``, part of the ONNX standard.
        nbytes: size of one element.
        accumulator: name of the element type that sums are held in.
        unit_roundoff: half the distance from 1 to the next number; the error of one rounding. 0 for integers.
        smallest: the smallest positive (subnormal) number; twice the absolute error of one underflow.
        largest: the largest finite number.
    """

    name: str
    onnx_type: int
    nbytes: int
    accumulator: str
    unit_roundoff: float
    smallest: float
    largest: float

    @property
    def onnx_name(self) -> str:
        """The name in ONNX type strings: ``tensor(double)``, ``tensor(float)``, and so on."""
        return f"tensor({ {'float64': 'double', 'float32': 'float'}.get(self.name, self.name) })"

    @property
    def is_floating(self) -> bool:
        """Whether it holds floating-point numbers."""
        return self.unit_roundoff > 0


def _integer(name: str, onnx_type: int, num_bits: int, is_signed: bool) -> ElementType:
    largest = float(2 ** (num_bits - is_signed) - 1)
    return ElementType(name, onnx_type, max(1, num_bits // 8), name, 0.0, 1.0, largest)


FLOATS = (
    ElementType("float64", 11, 8, "float64", 2.0**-53, 2.0**-1074, (2 - 2.0**-52) * 2.0**1023),
    ElementType("float32", 1, 4, "float32", 2.0**-24, 2.0**-149, (2 - 2.0**-23) * 2.0**127),
    ElementType("float16", 10, 2, "float32", 2.0**-11, 2.0**-24, 65504.0),
    ElementType("bfloat16", 16, 2, "float32", 2.0**-8, 2.0**-133, (2 - 2.0**-7) * 2.0**127),
)
INTEGERS = (
    _integer("int64", 7, 64, True),
    _integer("int32", 6, 32, True),
    _integer("int16", 5, 16, True),
    _integer("int8", 3, 8, True),
    _integer("uint64", 13, 64, False),
    _integer("uint32", 12, 32, False),
    _integer("uint16", 4, 16, False),
    _integer("uint8", 2, 8, False),
)
BOOL = _integer("bool", 9, 1, False)

ELEMENT_TYPES: dict[str, ElementType] = {t.name: t for t in (*FLOATS, *INTEGERS, BOOL)}
"""Every element type that operators may declare, by name."""
BY_ONNX_TYPE: dict[int, ElementType] = {t.onnx_type: t for t in ELEMENT_TYPES.values()}
ONNX_TYPES: dict[str, int] = {name: t.onnx_type for name, t in ELEMENT_TYPES.items()}
"""``onnx.TensorProto.DataType`` by NumPy's name."""


def element_type_name(onnx_type: int) -> str:
    """Return the name of any of ONNX's element types: NumPy's name where NumPy has the type."""
    if onnx_type in BY_ONNX_TYPE:
        return BY_ONNX_TYPE[onnx_type].name
    from onnx import TensorProto, helper

    if onnx_type not in TensorProto.DataType.values():
        return f"the unknown element type {onnx_type}"
    if onnx_type in (TensorProto.UNDEFINED, TensorProto.STRING):
        return str(TensorProto.DataType.Name(onnx_type).lower())
    return str(helper.tensor_dtype_to_np_dtype(onnx_type).name)
