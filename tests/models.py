"""Small models for tests; neither torch nor pytest, so that they also serve beside the oldest onnxruntime."""

from __future__ import annotations

from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ort_ops.contract import DOMAIN, MYLINEAR, NAME
from ort_ops.model import attach_function, complete_biases

Array = NDArray[Any]
OPSET = 20
IR_VERSION = 9


def make_model(
    x_shape: list[int | str], weight: Array, bias: Array | None, *, with_function: bool = True
) -> onnx.ModelProto:
    """A model of one MYLINEAR node, ``x`` to ``y``, with the weights inside."""
    element_type = MYLINEAR.element_type(weight.dtype.name).onnx_type
    initializers = [numpy_helper.from_array(weight, "weight")]
    if bias is not None:
        initializers.append(numpy_helper.from_array(bias, "bias"))
    node = helper.make_node(NAME, ["x", *(tensor.name for tensor in initializers)], ["y"], name="linear", domain=DOMAIN)
    graph = helper.make_graph(
        [node],
        "one_linear",
        [helper.make_tensor_value_info("x", element_type, x_shape)],
        [helper.make_tensor_value_info("y", element_type, [*x_shape[:-1], weight.shape[0]])],
        initializers,
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, MYLINEAR.since_version)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    if with_function:
        complete_biases(model)
        attach_function(model)
    return model
