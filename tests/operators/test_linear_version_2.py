"""MYLINEAR of version 2: its contract."""

from __future__ import annotations

import pytest

from ort_ops import ContractError
from ort_ops.operators.mylinear.contract import MYLINEAR
from ort_ops.operators.mylinear.version_2.contract import ACTIVATIONS, MYLINEAR_2, check_arguments


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["float32", "float64", None], "weight must be float32, float16 or bfloat16 (x is float32), got float64"),
        (["float64", "float32", None], "weight must be float64 (x is float64), got float32"),
        (["float16", "bfloat16", None], "weight must be float16 (x is float16), got bfloat16"),
        (["int32", "int32", None], "x must be float64, float32, float16 or bfloat16, got int32"),
        (["float32", "int8", None], "weight must be float64, float32, float16 or bfloat16, got int8"),
        (["float32", "bfloat16", "bfloat16"], "bias must be float32 (the dtype of x), got bfloat16"),
    ],
)
def test_a_wrong_element_type_is_one_clear_error(names: list[str | None], words: str) -> None:
    with pytest.raises(ContractError) as caught:
        check_arguments([[2, 3], [4, 3], [4]], names)
    assert str(caught.value) == f"MYLINEAR: {words}"


def test_an_unknown_activation_is_one_clear_error() -> None:
    with pytest.raises(ContractError) as caught:
        check_arguments([[2, 3], [4, 3], None], ["float32", "float32", None], "swish")
    listed = "none, relu, gelu, gelu_tanh, silu, sigmoid or tanh"
    assert str(caught.value) == f"MYLINEAR: attribute activation must be {listed}, got swish"


def test_it_is_version_1_and_more() -> None:
    assert (MYLINEAR_2.domain, MYLINEAR_2.name) == (MYLINEAR.domain, MYLINEAR.name)
    assert [(p.name, p.argument, p.is_optional, p.absent) for p in (*MYLINEAR_2.inputs, *MYLINEAR_2.outputs)] == [
        (p.name, p.argument, p.is_optional, p.absent) for p in (*MYLINEAR.inputs, *MYLINEAR.outputs)
    ]
    for dtype in MYLINEAR.inputs[0].type.dtypes:  # every call of version 1 is one of version 2
        assert (dtype, dtype) in MYLINEAR_2.allowed
    assert MYLINEAR_2.defaults == {"activation": ACTIVATIONS[0]}
    assert check_arguments([[2, 3], [4, 3], [4]], ["float32", "bfloat16", "float32"], "gelu") == [2, 4]
    with pytest.raises(ContractError, match=r"weight must be .* is it transposed"):
        check_arguments([[2, 3], [3, 4], None], ["float32", "float32", None])
