"""A model in float64 whose large weights are inputs: a run holds them once, and widens each when it is needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ort_ops.analysis.widen import FLOATS, widen_to_float64
from ort_ops.models.complete import complete_outputs
from ort_ops.models.graphs import all_nodes, scopes
from ort_ops.models.nodes import operator_nodes
from ort_ops.models.validation.node_order import sort_nodes

Array = NDArray[Any]
_MIN_LARGE = 1024  # elements; operators may need smaller tensors as constants
_RANDOM = {
    "RandomNormal": 0.0, "RandomNormalLike": 0.0, "RandomUniform": 0.0, "RandomUniformLike": 0.0, "Multinomial": 0.0,
    "Bernoulli": 0.0, "Dropout": 0,
}  # fmt: skip
"""Operators that draw numbers, with a seed of the kind that each takes."""


@dataclass(frozen=True)
class WideModel:
    """A model to be run in float64.

    Its nodes are in order, and random operators have a seed, so that two models draw the same numbers.

    Attributes:
        proto: without the large floating-point weights of the main graph, which are inputs.
    """

    proto: onnx.ModelProto
    _readers: dict[str, Callable[[], Array]]

    @classmethod
    def of_proto(cls, model: onnx.ModelProto, folder: Path) -> WideModel:
        """Take a model as it was read; its external data lies in ``folder``."""
        light = onnx.ModelProto()
        for kind, value in model.ListFields():
            if kind.name == "graph":
                continue
            if hasattr(value, "extend"):
                getattr(light, kind.name).extend(value)
            else:
                setattr(light, kind.name, value)
        kept = {output.name for output in model.graph.output}
        large = {}
        for kind, value in model.graph.ListFields():
            if kind.name == "initializer":
                for tensor in value:
                    if tensor.name not in kept and _is_large(tensor.data_type, tensor.dims):
                        large[tensor.name] = tensor
                    else:
                        light.graph.initializer.add().CopyFrom(tensor)
            elif hasattr(value, "extend"):
                getattr(light.graph, kind.name).extend(value)
            else:
                setattr(light.graph, kind.name, value)
        onnx.load_external_data_for_model(light, str(folder))
        readers = {name: _reader(tensor, folder) for name, tensor in large.items()}
        return cls._of(light, {name: list(tensor.dims) for name, tensor in large.items()}, readers)

    @classmethod
    def of_model(cls, model: ir.Model) -> WideModel:
        """Take a model in memory; its tensors are read when it runs."""
        light = model.clone()
        shapes: dict[str, list[int]] = {}
        readers: dict[str, Callable[[], Array]] = {}
        for graph in light.graphs():
            for name, value in graph.initializers.items():
                tensor = value.const_value
                if tensor is None:
                    continue
                is_own = graph is light.graph and not value.is_graph_output()
                shape = list(tensor.shape.numpy())
                if is_own and _is_large(tensor.dtype.value, shape):
                    shapes[name], readers[name] = shape, _reader_of(tensor)
                    value.const_value = ir.ExternalTensor(
                        "nowhere", None, None, tensor.dtype, shape=ir.Shape(shape), name=name
                    )
                elif isinstance(tensor, ir.ExternalTensor):
                    value.const_value = ir.Tensor(tensor.numpy().copy(), name=name)  # no view keeps the file open
        proto = ir.to_proto(light)
        complete_outputs(operator_nodes(proto))  # onnx_ir leaves out empty names at the end
        kept = [tensor for tensor in proto.graph.initializer if tensor.name not in shapes]
        del proto.graph.initializer[:]
        proto.graph.initializer.extend(kept)
        return cls._of(proto, shapes, readers)

    @classmethod
    def _of(
        cls, light: onnx.ModelProto, shapes: dict[str, list[int]], readers: dict[str, Callable[[], Array]]
    ) -> WideModel:
        inputs = {value.name for value in light.graph.input}
        for name, shape in shapes.items():
            if name not in inputs:
                light.graph.input.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
        stated = [value for value in light.graph.value_info if value.name not in shapes]
        del light.graph.value_info[:]
        light.graph.value_info.extend(stated)
        wide = widen_to_float64(light)
        sort_nodes(wide.graph)
        for node in all_nodes(wide):
            is_seeded = any(attribute.name == "seed" for attribute in node.attribute)
            if node.domain in ("", "ai.onnx") and node.op_type in _RANDOM and not is_seeded:
                node.attribute.append(helper.make_attribute("seed", _RANDOM[node.op_type]))
        return cls(wide, readers)

    @property
    def draws(self) -> bool:
        """Whether it draws random numbers, other ones in each runtime."""
        return any(node.domain in ("", "ai.onnx") and node.op_type in _RANDOM for node in all_nodes(self.proto))

    def with_numbers(self, changes: Mapping[str, Callable[[Array], Array]]) -> WideModel:
        """Return the model with other numbers in stored tensors: initializers and results of Constant nodes, by name.

        Args:
            changes: each takes the tensor in float64, and returns one of that shape.
        """
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        for scope in scopes(proto):
            if isinstance(scope.container, onnx.GraphProto):
                for tensor in scope.container.initializer:
                    if tensor.name in changes:
                        _change(tensor, changes[tensor.name], tensor.name)
            for node in scope.container.node:
                if node.op_type != "Constant" or node.output[0] not in changes:
                    continue
                for attribute in node.attribute:
                    if attribute.HasField("t"):
                        _change(attribute.t, changes[node.output[0]], attribute.t.name)
        readers = {
            name: (lambda r=read, c=changes[name]: c(r())) if name in changes else read
            for name, read in self._readers.items()
        }
        return WideModel(proto, readers)

    def weights(self) -> dict[str, Array]:
        """Return the large weights in float64, to be fed."""
        return {name: read() for name, read in self._readers.items()}


def _change(tensor: onnx.TensorProto, change: Callable[[Array], Array], name: str) -> None:
    """Put other numbers into a tensor of float64."""
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(change(numpy_helper.to_array(tensor))), name))


def _is_large(onnx_type: int, shape: Any) -> bool:
    return onnx_type in FLOATS and int(np.prod(tuple(shape), dtype=np.int64)) > _MIN_LARGE


def _reader(tensor: onnx.TensorProto, folder: Path) -> Callable[[], Array]:
    return lambda: numpy_helper.to_array(tensor, str(folder)).astype(np.float64)


def _reader_of(tensor: ir.TensorProtocol) -> Callable[[], Array]:
    return lambda: tensor.numpy().astype(np.float64)
