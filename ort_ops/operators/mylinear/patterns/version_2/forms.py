"""Recognize an activation that is one node, or x times Sigmoid(x). No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from ort_ops.operators.mylinear.patterns.version_2.causes import Cause
from ort_ops.rewrite.graph.constants import is_standard, refers_to_function
from ort_ops.rewrite.reasons import Reason

_MICROSOFT = "com.microsoft"
_PLAIN = {"Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh"}
_OTHERS = frozenset(
    {
        *("Celu", "Clip", "Elu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "PRelu", "Selu", "Softplus"),
        *("Softsign", "ThresholdedRelu"),
    }
)


@dataclass(frozen=True)
class Form:
    """An activation in a graph.

    Attributes:
        activation: its name.
        value: what it is applied to.
        nodes: that compute it, in their order in the graph; the last gives the result.
        constants: names of constants that are rounded, with the number that each stands for.
    """

    activation: str
    value: ir.Value
    nodes: tuple[ir.Node, ...]
    constants: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Lookalike:
    """What looks like an activation that MYLINEAR has.

    Attributes:
        value: what it is applied to.
    """

    reason: Reason
    value: ir.Value


def find_form(node: ir.Node) -> Form | Lookalike | None:
    """Return the activation whose last node this is, or the reason where MYLINEAR lacks it; None where it is none."""
    (value, *others) = (*node.inputs, None)
    if value is None or refers_to_function(node):
        return None
    if is_standard(node, *_PLAIN):
        return Form(_PLAIN[node.op_type], value, (node,))
    if is_standard(node, "Gelu"):
        return _gelu(node, value)
    if is_standard(node, "Swish"):
        return _swish(node, value, 1.0)
    if node.domain == _MICROSOFT and node.op_type == "Gelu":
        return Form("gelu", value, (node,))
    if node.domain == _MICROSOFT and node.op_type == "FastGelu" and not any(others):
        return Form("gelu_tanh", value, (node,))
    if node.domain == _MICROSOFT and node.op_type == "QuickGelu":
        return _swish(node, value, 1.702)
    if is_standard(node, "Mul"):
        return _silu(node)
    if is_standard(node, *_OTHERS):
        return Lookalike(Reason(Cause.OTHER_ACTIVATION, {"op_type": node.op_type}), value)
    return None


def _gelu(node: ir.Node, value: ir.Value) -> Form | Lookalike:
    approximate = node.attributes.get_string("approximate", "none")
    if approximate not in ("none", "tanh"):
        return _other_parameter(node, value, "approximate", "none or tanh", approximate)
    return Form("gelu" if approximate == "none" else "gelu_tanh", value, (node,))


def _swish(node: ir.Node, value: ir.Value, default: float) -> Form | Lookalike:
    alpha = node.attributes.get_float("alpha", default)
    return Form("silu", value, (node,)) if alpha == 1.0 else _other_parameter(node, value, "alpha", "1", f"{alpha:g}")


def _other_parameter(node: ir.Node, value: ir.Value, name: str, wanted: str, got: str) -> Lookalike:
    fields = {"op_type": node.op_type, "name": name, "wanted": wanted, "got": got}
    return Lookalike(Reason(Cause.OTHER_PARAMETER, fields), value)


def _silu(node: ir.Node) -> Form | None:
    for value, gate in (node.inputs, node.inputs[::-1]):
        producer = None if gate is None else gate.producer()
        if (
            value is not None
            and producer is not None
            and is_standard(producer, "Sigmoid")
            and producer.inputs[0] is value
        ):
            return Form("silu", value, (producer, node))
    return None


def is_part_of_silu(form: Form) -> bool:
    """Whether a Sigmoid is the gate of an ``x Sigmoid(x)``, which the product stands for."""
    (gate,) = form.nodes[-1].outputs
    users = [use.node for use in gate.uses()]
    return form.activation == "sigmoid" and len(users) == 1 and form.value in users[0].inputs
