"""Store the weights of operators' nodes in 16 bits, where an operator takes such ones beside wider inputs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from onnx.external_data_helper import load_external_data_for_tensor, set_external_data

from ort_ops.models.graphs import all_nodes
from ort_ops.models.nodes import OperatorNode, has_all_types, operator_nodes, with_shapes
from ort_ops.numerics.narrow import largest_change, narrow
from ort_ops.opdef import registry
from ort_ops.opdef.element_types import ELEMENT_TYPES, element_type_name
from ort_ops.opdef.operator import ContractError

_FLOAT32 = TensorProto.FLOAT
_ALIGNMENT = 4096  # of weights in a file, as onnx_ir has it


@dataclass(frozen=True)
class Narrowed:
    """What `narrow_weights` did.

    Attributes:
        dtype: name of the element type.
        names: of the weights that have it now.
        change: the largest change of a number, relative to it; 1 for one that became 0.
        left: weights of these nodes that stay as they are, and why.
    """

    dtype: str
    names: tuple[str, ...]
    change: float
    left: dict[str, str]

    def __str__(self) -> str:
        told = f"{len(self.names)} weight{'s' * (len(self.names) != 1)} in {self.dtype}"
        told += f", changed by {self.change:.3g} of a number at most"
        return "; ".join([told, *(f"'{name}' stays: {reason}" for name, reason in self.left.items())])


def narrow_weights(model: onnx.ModelProto, dtype: str, data: Path | None = None) -> Narrowed:
    """Round float32 weights to ``dtype`` where the operators of all nodes that take them have that; changes the model.

    A weight that several nodes take is stored once, as before. The versions of the domains that the model imports stay:
    `ort_ops.models.nodes.import_oldest_versions` finds those that it then needs.

    Args:
        dtype: ``bfloat16`` or ``float16``.
        data: a new file in the folder of the model's external data, for those of its weights that are rounded. They
            are read and written one at a time.

    Raises: ContractError for a number that ``dtype`` does not hold.
    """
    nodes = operator_nodes(model)
    if not all(map(has_all_types, nodes)):
        nodes = operator_nodes(with_shapes(model))
    taken = Counter(name for found in nodes for name in _narrowable(found, dtype))
    uses = Counter(name for node in all_nodes(model) for name in node.input)
    fixed = {value.name for value in (*model.graph.input, *model.graph.output)}
    names, left, change = [], {}, 0.0
    for tensor in model.graph.initializer:
        if not taken[tensor.name] or tensor.data_type != _FLOAT32:
            continue
        if tensor.name in fixed or uses[tensor.name] > taken[tensor.name]:
            left[tensor.name] = "others take it as it is"
            continue
        if tensor.data_location != TensorProto.EXTERNAL:
            change = max(change, _round(tensor, dtype))
        else:
            assert data is not None
            change = max(change, _round_outside(tensor, dtype, data))
        names.append(tensor.name)
    others = [value for value in model.graph.value_info if value.name not in names]
    del model.graph.value_info[:]
    model.graph.value_info.extend(others)
    return Narrowed(dtype, tuple(names), change, left)


def rounded(array: NDArray[np.float32], dtype: str) -> NDArray[np.float32]:
    """Return float32 numbers as they are after they were stored in a narrower type: to nearest, ties to even."""
    result: NDArray[np.float32] = narrow(array, dtype).astype(np.float32)
    return result


def _narrowable(found: OperatorNode, dtype: str) -> list[str]:
    """Return the float32 inputs of a node that some version of its operator takes in a narrower type."""
    numbers = [found.scope.element_type_of(name) if name else None for name in found.inputs]
    names = [None if number is None else element_type_name(number) for number in numbers]
    operator, result = found.operator, []
    for index, name in enumerate(found.inputs):
        if numbers[index] != _FLOAT32:
            continue
        then = [*names[:index], dtype, *names[index + 1 :]]
        if registry.oldest(operator.domain, operator.name, found.attributes, then) is not None:
            result.append(name)
    return result


def _round(tensor: TensorProto, dtype: str) -> float:
    """Round a stored tensor in place, and return the largest relative change."""
    element_type = ELEMENT_TYPES[dtype]
    array = numpy_helper.to_array(tensor)
    change, largest = largest_change(array, dtype)
    if largest > element_type.largest:
        raise ContractError(
            f"weight '{tensor.name}' must be at most {element_type.largest:g} in size to be stored in {dtype}, got "
            f"{largest:g}; bfloat16 has the range of float32"
        )
    stored = TensorProto(name=tensor.name, data_type=element_type.onnx_type, dims=tensor.dims)
    stored.raw_data = np.ascontiguousarray(narrow(array, dtype)).tobytes()
    tensor.CopyFrom(stored)
    return change


def _round_outside(tensor: TensorProto, dtype: str, data: Path) -> float:
    """Round a tensor whose numbers lie in another file of the folder, and append them to ``data``."""
    whole = TensorProto()
    whole.CopyFrom(tensor)
    load_external_data_for_tensor(whole, str(data.parent))
    change = _round(whole, dtype)
    with data.open("ab") as file:
        offset = -(-file.tell() // _ALIGNMENT) * _ALIGNMENT
        file.write(bytes(offset - file.tell()))
        length = file.write(whole.raw_data)
    set_external_data(whole, data.name, offset, length)
    whole.ClearField("raw_data")
    tensor.CopyFrom(whole)
    return change
