"""Describe a training file: what it trains, by which optimizer, and which output becomes which input of a next run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper

from ort_ops.errors import ModelError
from ort_ops.inspection.nodes import NodeInfo
from ort_ops.models.validation.tensors import tensor_nbytes
from ort_ops.opdef.element_types import element_type_name
from ort_ops.opdef.shapes import format_shape
from ort_ops.training.check import check_training
from ort_ops.training.file_format import FUNCTION_DOMAIN, TrainingMetadata, find_metadata

PARAMETER, BUFFER, SLOT, SUM = "parameter", "buffer", "optimizer", "sum of gradients"
STEP_COUNT, RATE, FROZEN = "steps done", "learning rate", "frozen"
IN_WORDS = {
    "step": "a whole step: forward, loss, backward and optimizer",
    "grad": "the gradients of one batch, added to their sums",
    "apply": "the update of the optimizer from sums of gradients",
    "gradients": "outputs and their gradients, without an optimizer",
}


@dataclass(frozen=True)
class StateInfo:
    """One tensor that a training file holds.

    Attributes:
        role: `PARAMETER`, `BUFFER`, `SLOT`, `SUM`, `STEP_COUNT`, `RATE` or `FROZEN`.
        dtype, shape: in words.
        nbytes: of its first value.
        next: the output that becomes this input of the next run; empty for one that stays.
        group: which group of the optimizer it belongs to, from 0; None for none.
    """

    name: str
    role: str
    dtype: str
    shape: str
    nbytes: int
    next: str = ""
    group: int | None = None


@dataclass(frozen=True)
class TrainingInfo:
    """What a training file says of itself, checked against its graph.

    Attributes:
        kind, loss, inputs, targets, outputs, of, cotangents, gradients, inference, accumulate, accumulated, apply,
            count: as in `ort_ops.training.file_format.TrainingMetadata`.
        feeds: name of the input that each output becomes, by the output.
        optimizer: torch's class; empty for none.
        groups: options of each of its groups, with ``parameters``.
        steps_done, lr: as stored; None where the file has none, or they lie beside it.
        state: every tensor of the state, then those that are frozen.
        apply_is_there: whether the file of the update lies beside this one; None where there is no such file.
    """

    kind: str
    loss: str
    inputs: tuple[str, ...]
    targets: tuple[str, ...]
    outputs: tuple[str, ...]
    of: tuple[str, ...]
    cotangents: dict[str, str]
    gradients: dict[str, str]
    feeds: dict[str, str]
    optimizer: str
    groups: list[dict[str, Any]]
    steps_done: int | None
    lr: float | list[float] | None
    state: list[StateInfo]
    inference: str
    accumulate: int | None
    accumulated: int
    apply: str
    apply_is_there: bool | None
    count: str

    def nbytes(self, role: str) -> int:
        """Return how many bytes the tensors of a role have."""
        return sum(info.nbytes for info in self.state if info.role == role)


def describe_training(model: onnx.ModelProto, path: str | Path) -> TrainingInfo | None:
    """Describe a training file; None for a model that is none.

    Args:
        model: validated; its large tensors need not be read.

    Raises: ModelError for one whose metadata is damaged, or not what the graph is.
    """
    try:
        metadata = find_metadata(model)
        if metadata is None:
            return None
        check_training(model, metadata)
    except ModelError as error:
        raise ModelError(f"'{path}'{error}") from None
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    optimizer = metadata.optimizer
    groups = () if optimizer is None else optimizer.groups
    stored_step, stored_lr = (_small_value(tensors.get(name)) for name in (metadata.step, metadata.lr))
    return TrainingInfo(
        kind=metadata.kind,
        loss=metadata.loss,
        inputs=metadata.inputs,
        targets=metadata.targets,
        outputs=metadata.outputs,
        of=metadata.of,
        cotangents=dict(metadata.cotangents),
        gradients=dict(metadata.gradients),
        feeds=dict(metadata.feeds),
        optimizer="" if optimizer is None else optimizer.name,
        groups=[{"parameters": list(group.parameters), **group.options} for group in groups],
        steps_done=stored_step,
        lr=stored_lr,
        state=_state(model, metadata, tensors),
        inference=metadata.inference,
        accumulate=metadata.accumulate,
        accumulated=metadata.accumulated,
        apply=metadata.apply,
        apply_is_there=Path(path).with_name(metadata.apply).is_file() if metadata.apply else None,
        count=metadata.count,
    )


def table(info: TrainingInfo) -> tuple[list[str], list[list[str]]]:
    """Return the state as a table: header and rows."""
    has_groups = len(info.groups) > 1
    header = ["state", "name", "type", "bytes", "next value", *(["group"] if has_groups else [])]
    rows = []
    for entry in info.state:
        row = [entry.role, entry.name, f"{entry.dtype} {entry.shape}", str(entry.nbytes), entry.next or "stays"]
        rows.append([*row, *(["" if entry.group is None else str(entry.group)] if has_groups else [])])
    return header, rows


def lines(info: TrainingInfo) -> list[str]:
    """Return what the table of the state does not say, a line each."""
    found = [f"training   {info.kind}: {IN_WORDS[info.kind]}"]
    if info.loss:
        found.append(f"loss       {info.loss}, of inputs {_listed(info.inputs)} and targets {_listed(info.targets)}")
    if info.outputs:
        found.append(f"outputs    {_listed(info.outputs)}")
    if info.kind == "gradients":
        cotangents = {output: name for name, output in info.cotangents.items()}
        found += [f"of         {name}, {_seed(cotangents.get(name))}" for name in info.of]
        found += [f"gradient   {gradient}, by {name}" for gradient, name in info.gradients.items()]
    for number, group in enumerate(info.groups):
        options = ", ".join(f"{key} {value}" for key, value in group.items() if key != "parameters")
        where = f" group {number}, {len(group['parameters'])} parameters:" if len(info.groups) > 1 else ":"
        found.append(f"optimizer  {info.optimizer}{where} {options}")
    if info.steps_done is not None:
        found.append(f"done       {info.steps_done} steps; learning rate now {info.lr}")
    if info.accumulate is not None:
        found.append(f"accumulate {_accumulation(info)}")
    sizes = [(role, info.nbytes(role)) for role in (PARAMETER, BUFFER, SLOT, SUM, FROZEN)]
    held = ", ".join(f"{role} {nbytes / 2**20:.2f} MiB" for role, nbytes in sizes if nbytes)
    if held:
        found.append(f"holds      {held}")
    if info.inference:
        found.append(f"inference  function '{info.inference}' is the model in eval mode")
    return found


def operators(info: TrainingInfo, nodes: Sequence[NodeInfo]) -> str:
    """Say how many nodes of registered operators a run has, and the model in eval mode."""
    parts = []
    where = f"function '{info.inference}'"
    for is_inside, suffix in ((False, ""), (True, f" in {where}")):
        counts = Counter(
            node.operator.rpartition("::")[2]
            for node in nodes
            if (bool(info.inference) and node.where.endswith(where)) == is_inside
        )
        if counts:
            parts.append(", ".join(f"{count} {name}" for name, count in counts.items()) + suffix)
    return "; ".join(parts) or "none registered"


def _seed(cotangent: str | None) -> str:
    return "the sum of its numbers" if cotangent is None else f"weighted by {cotangent}"


def _accumulation(info: TrainingInfo) -> str:
    each = f"{info.accumulate} runs, then one of the update"
    if info.kind == "grad":
        beside = "" if info.apply_is_there else ", which does not lie beside this one"
        return f"{each} by '{info.apply}'{beside}; {info.accumulated} are in the sums"
    return f"{info.accumulate} runs of the gradients, then one of this; '{info.count}' divides their sums"


def _state(
    model: onnx.ModelProto, metadata: TrainingMetadata, tensors: Mapping[str, onnx.TensorProto]
) -> list[StateInfo]:
    """Describe all inputs but the user's, and the initializers that the model in eval mode takes as they are."""
    groups = () if metadata.optimizer is None else metadata.optimizer.groups
    of_group = {name: number for number, group in enumerate(groups) for name in group.parameters}
    nexts = {name: output for output, name in metadata.feeds.items()}
    roles = dict.fromkeys(metadata.parameters, PARAMETER) | dict.fromkeys(metadata.buffers, BUFFER)
    roles |= dict.fromkeys(metadata.optimizer_state, SLOT)
    if metadata.kind != "gradients":
        roles |= dict.fromkeys(metadata.gradients, SUM)
    roles |= {name: role for name, role in ((metadata.step, STEP_COUNT), (metadata.lr, RATE)) if name}
    values = {value.name: value for value in model.graph.input}
    found = []
    for name, role in roles.items():
        tensor_type = values[name].type.tensor_type
        dims = [dim.dim_value for dim in tensor_type.shape.dim]
        owner = metadata.gradients.get(name, name.rpartition("/")[0] if role == SLOT else name)
        nbytes = tensor_nbytes(onnx.TensorProto(data_type=tensor_type.elem_type, dims=dims))
        dtype = element_type_name(tensor_type.elem_type)
        found.append(StateInfo(name, role, dtype, format_shape(dims), nbytes, nexts.get(name, ""), of_group.get(owner)))
    for name in _frozen(model, metadata):
        if name in tensors and name not in values:
            tensor = tensors[name]
            dtype, shape = element_type_name(tensor.data_type), format_shape(list(tensor.dims))
            found.append(StateInfo(name, FROZEN, dtype, shape, tensor_nbytes(tensor)))
    return found


def _frozen(model: onnx.ModelProto, metadata: TrainingMetadata) -> list[str]:
    """Return what the model in eval mode takes beside the state and the user's inputs."""
    for function in model.functions:
        if metadata.inference and (function.domain, function.name) == (FUNCTION_DOMAIN, metadata.inference):
            known = {*metadata.parameters, *metadata.buffers, *metadata.inputs}
            return [name for name in function.input if name not in known]
    return []


def _small_value(tensor: onnx.TensorProto | None) -> Any:
    """Return a stored scalar or short list as Python's numbers; None for none, and for one that was not read."""
    if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL:
        return None
    return numpy_helper.to_array(tensor).tolist()


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "none"
