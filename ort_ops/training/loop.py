"""Many steps in one call of onnxruntime: the step as the body of an ONNX ``Loop``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper

from ort_ops.files.inputs import first_line
from ort_ops.models.graphs import declared_shape
from ort_ops.training.errors import TrainingError
from ort_ops.training.file_format import TrainingMetadata
from ort_ops.training.graph.session_model import make_session_model
from ort_ops.training.memory import Tensor
from ort_ops.training.sessions import is_of_onnxruntime, open_session
from ort_ops.training.storage.training_file import Skeleton

Array = NDArray[Any]

_PREFIX = "mylinear.loop/"  # of the values around the body, whose names the body must not have


class Loop:
    """A session of the step in a loop. It reads the state that it is given, and makes a new one."""

    def __init__(
        self,
        skeleton: Skeleton,
        metadata: TrainingMetadata,
        options: onnxruntime.SessionOptions,
        kernels: str,
        has_python_kernels: bool,
    ) -> None:
        """Make the session. Raises: TrainingError if onnxruntime cannot run it."""
        model, _ = make_session_model(skeleton.model(), options, kernels)
        self._metadata = metadata
        self._has_python_kernels = has_python_kernels
        loop = loop_model(model, metadata)
        self._session, _ = open_session(loop.SerializeToString(), options, kernels, with_graph=False)

    def run(
        self, state: Mapping[str, Tensor], arrays: Sequence[Array], rates: Array
    ) -> tuple[Array, dict[str, Tensor]]:
        """Run a step for each row of the arrays.

        Args:
            state: of before; it is not changed.
            arrays: what the user gives, ``[steps, ...]``.
            rates: ``[steps]``, or ``[steps, groups]``.

        Returns: the losses ``[steps]``, and the state of after.
        Raises: TrainingError, and what a Python kernel raises.
        """
        metadata = self._metadata
        binding = self._session.io_binding()
        for name, tensor in state.items():
            binding.bind_ortvalue_input(_PREFIX + name, tensor.value)
        for name, array in (*zip(metadata.given, arrays, strict=True), (metadata.lr, rates)):
            binding.bind_cpu_input(_PREFIX + name, array)
        for name in (metadata.loss, *metadata.feeds):
            binding.bind_output(_PREFIX + name)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:
            if not is_of_onnxruntime(error, self._has_python_kernels):
                raise
            raise TrainingError(
                f"the steps failed in onnxruntime: {first_line(error)}; the state is that of before them"
            ) from error
        losses, *values = binding.get_outputs()
        new = {
            name: Tensor.of(value, state[name].array.dtype) for name, value in zip(metadata.fed, values, strict=True)
        }
        return np.array(losses.numpy(), np.float64), new


def loop_model(step: onnx.ModelProto, metadata: TrainingMetadata) -> onnx.ModelProto:
    """Return a model that runs a step for each row of what the user gives and of the learning rates."""
    graph = step.graph
    inputs = {value.name: value for value in graph.input}
    outputs = {value.name: value for value in graph.output}
    node = helper.make_node
    index, going = f"{_PREFIX}index", f"{_PREFIX}going"
    body = onnx.GraphProto(name="step", initializer=graph.initializer)
    body.node.extend(node("Gather", [_PREFIX + name, index], [name], axis=0) for name in (*metadata.given, metadata.lr))
    body.node.extend(graph.node)
    body.node.append(node("Identity", [going], [f"{going}_on"]))
    body.input.append(helper.make_tensor_value_info(index, onnx.TensorProto.INT64, []))
    body.input.append(helper.make_tensor_value_info(going, onnx.TensorProto.BOOL, []))
    body.input.extend(inputs[name] for name in metadata.fed)
    body.output.append(helper.make_tensor_value_info(f"{going}_on", onnx.TensorProto.BOOL, []))
    body.output.extend(outputs[name] for name in metadata.feeds)
    body.output.append(outputs[metadata.loss])
    body.value_info.extend(graph.value_info)
    results = [_PREFIX + name for name in (*metadata.feeds, metadata.loss)]
    nodes = [
        node("Shape", [_PREFIX + metadata.lr], [f"{_PREFIX}shape"]),
        node("Gather", [f"{_PREFIX}shape", f"{_PREFIX}zero"], [f"{_PREFIX}count"], axis=0),
        node("Loop", [f"{_PREFIX}count", "", *(_PREFIX + name for name in metadata.fed)], results, body=body),
    ]
    model = onnx.ModelProto()
    model.CopyFrom(step)
    model.ClearField("graph")
    model.graph.name = "loop"
    model.graph.node.extend(nodes)
    model.graph.initializer.append(helper.make_tensor(f"{_PREFIX}zero", onnx.TensorProto.INT64, [], [0]))
    model.graph.input.extend(_renamed(inputs[name]) for name in metadata.fed)
    model.graph.input.extend(_renamed(inputs[name], stacked=True) for name in (*metadata.given, metadata.lr))
    model.graph.output.append(_renamed(outputs[metadata.loss], stacked=True))
    model.graph.output.extend(_renamed(outputs[name]) for name in metadata.feeds)
    return model


def _renamed(value: onnx.ValueInfoProto, *, stacked: bool = False) -> onnx.ValueInfoProto:
    shape = [*(declared_shape(value) or [])]
    if stacked:
        shape = [f"{_PREFIX}steps", *shape]
    return helper.make_tensor_value_info(_PREFIX + value.name, value.type.tensor_type.elem_type, shape)
