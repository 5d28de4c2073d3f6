"""Read and write models for the rewriter: lazily, atomically, of any size. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from ort_ops.errors import ModelError
from ort_ops.files.atomic import (
    OutputError,
    check_output,
    is_stream,
    open_atomically,
    output_error,
    replace_atomically,
    temporary_folder,
)
from ort_ops.files.inputs import first_line
from ort_ops.models.checks import check_shapes, function_difference
from ort_ops.models.complete import complete_outputs
from ort_ops.models.external_data import data_files, data_in_use, free_data_file, remove_quietly
from ort_ops.models.files import load_model, look_at_model
from ort_ops.models.nodes import check_operator_nodes, operator_nodes
from ort_ops.opdef.operator import ContractError

MAX_NBYTES_INSIDE = 3 * 2**29
"""Weights of more than 1.5 GiB go to a file beside the model: protobuf ends at 2 GiB."""
_MIN_NBYTES_OUTSIDE = 1024


@dataclass(frozen=True)
class ModelFile:
    """A model that was read, without its external weights.

    Attributes:
        proto: without the external data.
        folder: that the external data is relative to.
        is_external: whether there is any.
    """

    proto: onnx.ModelProto
    folder: Path
    is_external: bool

    def load(self) -> ir.Model:
        """Make a new model, whose external tensors are memory-mapped when they are read."""
        model = ir.from_proto(self.proto)
        for graph in model.graphs():
            ir.external_data.set_base_dir(graph, self.folder)
        for function in self.proto.functions:  # onnx_ir leaves out what the model states of their inputs
            known = {value.name: value for value in function.value_info}
            for value in model.functions[function.domain, function.name, function.overload].inputs:
                if value.name in known:
                    ir.serde.deserialize_value_info_proto(known[value.name], value)
        return model


def read_model(source: str | Path) -> ModelFile:
    """Read a model and check what onnx_ir assumes. Raises: ModelError, ContractError."""
    proto = load_model(source, external_data=False)
    if check_operator_nodes(proto):
        check_shapes(proto)
        difference = function_difference(proto)
        if difference is not None:
            raise ContractError(f"'{source}': {difference}")
    if proto.graph.sparse_initializer or proto.training_info:
        raise ModelError(f"'{source}' has sparse initializers or training information, which would be lost")
    try:
        model = ir.from_proto(proto)
        tensors = [value.const_value for graph in model.graphs() for value in graph.initializers.values()]
    except Exception as error:  # onnx_ir raises errors of many types, with notes of several lines
        raise ModelError(f"'{source}' is damaged: {first_line(error)}") from error
    return ModelFile(proto, Path(source).parent, any(isinstance(tensor, ir.ExternalTensor) for tensor in tensors))


def write_model(model: ir.Model, target: str | Path, *, external: bool = False) -> int:
    """Write a model completely or not at all; its weights beside it on request, or if they are too large.

    They lie in ``<target>.data``, or ``<target>.data2`` and so on where such a file is there already. So a kill at any
    moment leaves the old model or the new one, each with its own weights, and no other model loses its own.

    Returns: the number of bytes of its weights.
    Raises: OutputError.
    """
    nbytes = weights_nbytes(model)
    if not external and nbytes <= MAX_NBYTES_INSIDE:
        bring_inside(model)
        with open_atomically(target) as temporary:
            temporary.write_bytes(_completed(ir.to_proto(model)).SerializeToString())
        return nbytes
    check_output(target)
    if is_stream(target) or Path(target).is_symlink():
        raise OutputError(
            f"'{target}' must be a regular file, and no symbolic link: {nbytes / 2**20:.0f} MiB of weights lie in a "
            "file beside it"
        )
    path = Path(target)
    used = _data_in_use(path)
    data = free_data_file(path)
    with temporary_folder(beside=path) as folder:
        try:
            ir.save(
                model,
                folder / path.name,
                format="protobuf",
                external_data=data.name,
                size_threshold_bytes=_MIN_NBYTES_OUTSIDE,
                alignment=4096,  # lets a runtime map the weights into memory
            )
            proto = _completed(onnx.load(folder / path.name, load_external_data=False))
            (folder / path.name).write_bytes(proto.SerializeToString())
        except OSError as error:
            raise output_error(target, error) from error
        if (folder / data.name).exists():
            replace_atomically(folder / data.name, data)
        replace_atomically(folder / path.name, path)
    remove_quietly(used)
    return nbytes


def _data_in_use(path: Path) -> list[Path]:
    """Return the files with the weights of the model that is to be replaced; none if it is no model."""
    if not data_files(path):
        return []
    try:
        return data_in_use(path, look_at_model(path))
    except ModelError:
        return []


def _completed(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model with the empty names at the end of nodes' outputs, which onnx_ir leaves out; in place."""
    complete_outputs(operator_nodes(proto))
    return proto


def weights_nbytes(model: ir.Model) -> int:
    """Return the number of bytes of all initializers."""
    tensors = [value.const_value for graph in model.graphs() for value in graph.initializers.values()]
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def bring_inside(model: ir.Model) -> None:
    """Read the weights that lie beside the model into memory."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value = ir.Tensor(value.const_value.numpy(), name=value.name)
