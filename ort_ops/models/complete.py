"""Give nodes without a bias one that changes nothing, where the model-local function or a kernel takes three inputs."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ort_ops.errors import ModelError
from ort_ops.models.graphs import NodeContainer, Scope, is_linear, node_label, scopes
from ort_ops.operators.mylinear.contract import ABSENT_BIAS


def complete_biases(model: onnx.ModelProto) -> int:
    """Give every MYLINEAR node without a bias one that changes nothing, and return how many that were.

    The model-local function and kernels of onnxruntime-extensions take exactly three inputs. A second function under
    an overload name would do for the first, but onnxruntime mistakes one overload for the other up to 1.24 at least
    (``tests/opdef/test_function_body.py`` shows it), and it does not help the second. The added bias is -0.0, which
    leaves every number as it is. The time is linear in the model.

    Raises: ModelError for a computed weight without bias below opset 15.
    """
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    return sum(_Completion(scope, opset).complete() for scope in scopes(model))


class _Completion:
    """The nodes of one graph or function, while they get their biases."""

    def __init__(self, scope: Scope, opset: int) -> None:
        self._container: NodeContainer = scope.container
        self._opset = opset
        self._used = {name for node in scope.container.node for name in (*node.input, *node.output)}
        self._stored: dict[str, onnx.TensorProto] = {}
        if isinstance(scope.container, onnx.GraphProto):
            self._stored = {tensor.name: tensor for tensor in scope.container.initializer}
            self._used |= {*self._stored, *(value.name for value in scope.container.input)}

    def complete(self) -> int:
        """Add what is missing and return the number of nodes that got a bias."""
        count = 0
        added: dict[int, list[onnx.NodeProto]] = {}
        for index, node in enumerate(self._container.node):
            if not is_linear(node) or (len(node.input) > 2 and node.input[2]):
                continue
            count += 1
            name = self._unused_name(f"{node_label(node)}_absent_bias")
            weight = node.input[1]
            del node.input[2:]
            node.input.append(name)
            if weight in self._stored:
                self._store(name, self._stored[weight])
            else:
                added[index] = self._computed(name, weight, node)
        if added:
            self._insert(added)
        return count

    def _store(self, name: str, weight: onnx.TensorProto) -> None:
        assert isinstance(self._container, onnx.GraphProto)
        dtype = helper.tensor_dtype_to_np_dtype(weight.data_type)
        bias = np.full(weight.dims[0], ABSENT_BIAS, dtype)
        self._container.initializer.append(numpy_helper.from_array(bias, name))

    def _computed(self, name: str, weight: str, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Make the nodes that compute the bias of a weight whose size is known only when the model runs."""
        if self._opset < 15:
            raise ModelError(
                f"node '{node_label(node)}' has a computed weight and no bias, which takes opset 15 or newer; "
                f"the model has opset {self._opset}"
            )
        index, shape, size, zeros = (
            self._unused_name(f"{name}_{part}") for part in ("index", "shape", "size", "float")
        )
        first = helper.make_tensor("index", onnx.TensorProto.INT64, [1], [0])
        zero = helper.make_tensor("value", onnx.TensorProto.FLOAT, [1], [ABSENT_BIAS])
        return [
            helper.make_node("Constant", [], [index], value=first),
            helper.make_node("Shape", [weight], [shape]),
            helper.make_node("Gather", [shape, index], [size], axis=0),
            helper.make_node("ConstantOfShape", [size], [zeros], value=zero),
            helper.make_node("CastLike", [zeros, weight], [name]),
        ]

    def _insert(self, added: dict[int, list[onnx.NodeProto]]) -> None:
        """Put nodes before those at the given places; not one by one, as each moves all that follow."""
        nodes = [n for index, node in enumerate(self._container.node) for n in (*added.get(index, ()), node)]
        copies = onnx.GraphProto(node=nodes)
        del self._container.node[:]
        self._container.node.extend(copies.node)

    def _unused_name(self, wanted: str) -> str:
        names = itertools.chain([wanted], (f"{wanted}_{number}" for number in itertools.count(1)))
        name = next(name for name in names if name not in self._used)
        self._used.add(name)
        return name
