"""Nodes of registered operators in onnx's reference evaluator."""

from __future__ import annotations

import numpy as np

from ort_ops.analysis.operator_op import make_operator_op
from ort_ops.opdef import registry
from ort_ops.opdef.onnx_objects import make_node
from tests.verification.small_operator import KIT, OPERATOR


def test_attributes_are_python_s_own_numbers() -> None:
    """The evaluator holds NumPy's, and torch.compile would take one for a tensor, which no library op accepts."""
    registry.add(KIT)
    try:
        node = make_node(OPERATOR, ["x"], ["y"], scale=0.5)
        found = make_operator_op(node, {OPERATOR.domain: 1})
        assert found is not None
        op = found(node, {"log": lambda *_: None, "opsets": {"": 20}, "verbose": 0, "new_ops": None})
    finally:
        registry.remove(KIT)
    (scale,) = op.converted({"scale": np.float32(0.1)}).values()
    assert type(scale) is float
    assert scale == float(np.float32(0.1))
