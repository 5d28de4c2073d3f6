"""What cannot be an operator is refused in one line that names it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import exporter
from ort_ops import ContractError, DefinitionError, Float
from ort_ops.models.make import make_model
from ort_ops.opdef import registry

from .functions import DOMAIN, Defined, W, X, floor_sum


def flat(x: Float) -> Float:
    return x.reshape(x.shape[0], -1).sum(1) if x.dim() == 2 else x.sum()


def cast(x: Float) -> Float:
    return (x.float() * 1.1).to(x.dtype)


def along(x: Float, *, axis: int = 0) -> Float:
    return x.sum(axis)


def optional(x: Float, w: Float | None = None) -> Float:
    return x if w is None else x * w


def of_layer(x: Float) -> Float:
    return exporter.linear(x, torch.eye(4, dtype=x.dtype), None)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (flat, r"gives another y than the function for inputs \[2, 3, 4\]: the shape is \[\] instead of \[2\]"),
        (along, r"cannot be exported \(one of axis decides what is computed\): "),
        (optional, "would need to have input w, which is optional"),
        (of_layer, "must be of standard operators alone, and the function calls mylinear::MYLINEAR"),
    ],
)
def test_a_body_that_is_not_the_function_is_refused(
    define: Defined, function: Callable[..., Any], message: str
) -> None:
    op = define("Refused", function, examples=[X])
    assert op.kit is not None
    with pytest.raises(
        DefinitionError, match=f"^{DOMAIN}::Refused: the body made by exporting the function ({message})"
    ):
        make_model(op.operator, [["n", 4]], types={"Float": "float32"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"examples": []}, "Bad: examples must be calls of the function, to export its body of, got none"),
        ({"examples": [X]}, "each of examples must be tensors for x, w, and perhaps a dict of attributes, got Tensor"),
        ({"examples": [(X, W, {"size": 1})]}, "the attributes must be among floor, got size"),
        ({"jvp": lambda ctx, x, w: x}, "jvp must come with a backward, got none"),
        ({"kernel": lambda x: x}, r"Bad: kernel must take \(x, w, \*, floor\), got \(x\)"),
        ({"library_op": "mylinear::linear"}, "library_op must be a name that torch has no op of"),
        ({"function": lambda x: x}, "Bad: input x must be annotated with a tensor type such as ort_ops.Float"),
    ],
)
def test_a_definition_that_is_wrong_is_named(define: Defined, options: dict[str, Any], message: str) -> None:
    with pytest.raises((DefinitionError, ContractError), match=message):
        define("Bad", **options)
    assert registry.find(DOMAIN, "Bad") is None


@pytest.mark.parametrize("op_type", ["mylinear::X", "ai.onnx::X", "NoDomain", "my.ops::not a name"])
def test_names_are_those_of_operators_of_one_s_own(op_type: str) -> None:
    with pytest.raises(DefinitionError, match=r"the domain must be one of your own|must be named 'domain::Name'"):
        exporter.operator(op_type, examples=[(X, W)])(floor_sum)
