"""Version 2 as a function body: standard operators, in which one body serves nodes of every activation.

A function knows its attributes only by reference, so the body has all activations, and an If for each asks whether the
attribute names it: ``TfIdfVectorizer`` counts words. onnxruntime inlines the function, computes the conditions when it
loads the model, and keeps the one branch that is taken: relu becomes FusedGemm, none becomes Gemm. That was seen from
1.17 to 1.32, for opset 12 and newer. In opset 11 a text attribute can only be the default of a LabelEncoder, which
onnxruntime computes at each call. (``Equal`` of texts, which opset 19 brought, is refused by onnx's own evaluator where
their lengths differ; and a LabelEncoder from text to a number is not computed in advance.)

The activations are written as the contract has them: x / (1 + exp(-x)) rather than x times Sigmoid(x), which is no NaN
at -infinity in onnxruntime. An activation that the contract does not know gives NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from ort_ops.numerics.error_function import erf_formula
from ort_ops.opdef.element_types import ElementType
from ort_ops.opdef.onnx_objects import single_type, widest_accumulator
from ort_ops.operators.mylinear.contract import transpose_weight
from ort_ops.operators.mylinear.version_2.activations import TANH_CUBE, TANH_SCALE
from ort_ops.operators.mylinear.version_2.contract import ACTIVATIONS

if TYPE_CHECKING:
    import onnx

_ML = "ai.onnx.ml"


def make_body(opset_version: int, types: Mapping[str, tuple[ElementType, ...]]) -> list[onnx.NodeProto]:
    """Write ``Y = f(X W^T + B)`` in standard operators; see `ort_ops.opdef.operator.Operator`.

    Everything is computed in the widest accumulator of the types, and rounded once.
    """
    return list(_nodes(opset_version, types["T"], types["TW"]))


@cache  # a few combinations, and hundreds of nodes; whoever puts them into a function or model copies them
def _nodes(
    opset_version: int, types: tuple[ElementType, ...], weight_types: tuple[ElementType, ...]
) -> Sequence[onnx.NodeProto]:
    from onnx import helper

    accumulator, element_type = widest_accumulator(types), single_type(types)
    nodes: list[onnx.NodeProto] = []
    names = {}
    for name, own in (("X", element_type), ("W", single_type(weight_types)), ("B", element_type)):
        names[name] = name if own == accumulator else f"{name}_cast"
        if own != accumulator:
            nodes.append(helper.make_node("Cast", [name], [names[name]], to=accumulator.onnx_type))
    nodes += [
        *transpose_weight(names["W"], opset_version, accumulator),
        helper.make_node("MatMul", [names["X"], "W_transposed"], ["product"]),
        helper.make_node("Add", ["product", names["B"]], ["sum"]),
        *_conditions(opset_version),
    ]
    result = "Y" if element_type == accumulator else "activated"
    nodes.append(_choice(ACTIVATIONS, result, accumulator))
    if element_type is None:
        nodes.append(helper.make_node("CastLike", [result, "X"], ["Y"]))
    elif element_type != accumulator:
        nodes.append(helper.make_node("Cast", [result], ["Y"], to=element_type.onnx_type))
    return nodes


def _conditions(opset_version: int) -> list[onnx.NodeProto]:
    """Return the nodes that compute ``is_relu`` and the like, each a boolean scalar."""
    from onnx import AttributeProto, helper, numpy_helper

    def number(value: Sequence[int], name: str) -> onnx.NodeProto:
        import numpy as np

        tensor = numpy_helper.from_array(np.array(value, np.int64))
        return helper.make_node("Constant", [], [name], value=tensor)

    if opset_version < 12:  # Constant holds no text, and no other operator of opset 11 has a text attribute of its own
        text = helper.make_node("LabelEncoder", ["no_key"], ["word"], domain=_ML, keys_int64s=[0], values_strings=[""])
        text.attribute.append(
            AttributeProto(name="default_string", type=AttributeProto.STRING, ref_attr_name="activation")
        )
        nodes = [number([1], "no_key"), text]
    else:
        text = helper.make_node("Constant", [], ["activation_name"])
        text.attribute.append(
            AttributeProto(name="value_string", type=AttributeProto.STRING, ref_attr_name="activation")
        )
        nodes = [text, number([1], "one_word"), helper.make_node("Reshape", ["activation_name", "one_word"], ["word"])]
    for name in ACTIVATIONS:
        nodes += [
            helper.make_node(
                "TfIdfVectorizer",
                ["word"],
                [f"count_{name}"],
                mode="TF",
                min_gram_length=1,
                max_gram_length=1,
                max_skip_count=0,
                ngram_counts=[0],
                ngram_indexes=[0],
                pool_strings=[name],
            ),
            helper.make_node("Cast", [f"count_{name}"], [f"has_{name}"], to=9),
            helper.make_node("Squeeze", [f"has_{name}"], [f"is_{name}"]),
        ]
    return nodes


def _choice(names: Sequence[str], result: str, element_type: ElementType) -> onnx.NodeProto:
    """Return the If that applies the first activation where it is meant, and otherwise chooses among the others."""
    from onnx import helper

    first, *others = names
    if others:
        inner = f"not_{first}"
        other = _graph(inner, [_choice(others, inner, element_type)], inner, element_type)
    else:
        builder = _Builder("unknown", element_type)
        builder.result(builder.Mul("sum", builder.number(math.nan)))
        other = builder.graph()
    builder = _Builder(first, element_type)
    builder.result(_FORMULAS[first]("sum", builder, builder.number))
    return helper.make_node("If", [f"is_{first}"], [result], then_branch=builder.graph(), else_branch=other)


def _graph(name: str, nodes: Sequence[onnx.NodeProto], output: str, element_type: ElementType) -> onnx.GraphProto:
    from onnx import helper

    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(output, element_type.onnx_type, None)])


class _Builder:
    """Collect the nodes of one activation; each operator is a method, from names of values to that of its result."""

    def __init__(self, name: str, element_type: ElementType) -> None:
        self.element_type = element_type
        self._name = name
        self._nodes: list[onnx.NodeProto] = []
        self._numbers: dict[str, str] = {}

    def __getattr__(self, op_type: str) -> Callable[..., str]:
        return lambda *inputs: self._add(op_type, inputs, {})

    def number(self, value: float) -> str:
        """Return the name of a constant of the element type."""
        from onnx import helper

        if repr(value) not in self._numbers:
            tensor = helper.make_tensor("", self.element_type.onnx_type, [], [value])
            self._numbers[repr(value)] = self._add("Constant", (), {"value": tensor})
        return self._numbers[repr(value)]

    def result(self, name: str) -> None:
        """State the value that the graph returns, the last that was made."""
        assert self._nodes[-1].output[0] == name
        self._nodes[-1].output[0] = self._name

    def graph(self) -> onnx.GraphProto:
        """Return the nodes as the branch of an If."""
        return _graph(self._name, self._nodes, self._name, self.element_type)

    def _add(self, op_type: str, inputs: Sequence[str], attributes: Mapping[str, Any]) -> str:
        from onnx import helper

        name = f"{self._name}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(op_type, list(inputs), [name], **attributes))
        return name


Number = Callable[[float], str]


def _gelu(x: str, op: _Builder, number: Number) -> str:
    scaled = op.Mul(x, number(math.sqrt(0.5)))
    erf = erf_formula(scaled, op, number) if op.element_type.name == "float64" else op.Erf(scaled)
    return op.Mul(op.Mul(x, number(0.5)), op.Add(erf, number(1.0)))


def _gelu_tanh(x: str, op: _Builder, number: Number) -> str:
    cube = op.Mul(op.Mul(op.Mul(x, x), x), number(TANH_CUBE))
    tanh = op.Tanh(op.Mul(op.Add(x, cube), number(TANH_SCALE)))
    return op.Mul(op.Mul(x, number(0.5)), op.Add(tanh, number(1.0)))


def _silu(x: str, op: _Builder, number: Number) -> str:
    return op.Div(x, op.Add(op.Exp(op.Neg(x)), number(1.0)))


_FORMULAS: dict[str, Callable[[str, _Builder, Number], str]] = {
    "none": lambda x, op, number: op.Identity(x),
    "relu": lambda x, op, number: op.Relu(x),
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": _silu,
    "sigmoid": lambda x, op, number: op.Sigmoid(x),
    "tanh": lambda x, op, number: op.Tanh(x),
}
