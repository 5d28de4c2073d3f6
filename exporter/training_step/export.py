"""Export one training step as an ONNX file: forward, loss, backward and optimizer, with the state inside."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from exporter.to_onnx.checks.node_counts import count_in_model
from exporter.to_onnx.example_call import distinct_names
from exporter.to_onnx.finish import finish
from exporter.to_onnx.surroundings import prepared
from exporter.to_onnx.versions import choose_opset
from exporter.torch_ops.kit import torch_kits
from exporter.training_step.graphs import make_model, set_first_values
from exporter.training_step.network import Loss, Network, in_training, make_network
from exporter.training_step.optimizers.read import Optimizer, read_optimizer
from exporter.training_step.trace import Program, Values, trace
from ort_ops.files.atomic import check_output, open_atomically

METADATA_KEY = "mylinear.training"


@dataclass(frozen=True)
class StepFile:
    """A file of one training step that is ready to be compared with torch, and to be written."""

    proto: onnx.ModelProto
    network: Network
    optimizer: Optimizer
    metadata: dict[str, Any]


@dataclass(frozen=True)
class TrainingExport:
    """The result of `export_training`."""

    path: Path
    num_nodes: dict[str, int]
    opset: int


def export_training(
    model: nn.Module,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    example: tuple[Any, Any],
    path: str | Path,
    *,
    opset: int | None = None,
    target: str | None = None,
    dynamic_batch: bool = True,
    input_names: Sequence[str] | None = None,
    target_names: Sequence[str] | None = None,
) -> TrainingExport:
    """Write one training step of ``model`` as an ONNX file."""
    check_output(path)
    opset = choose_opset("dynamo", opset, target)
    torch_kits()  # each registers its operator with torch's exporter
    network = make_network(
        model, loss, example, dynamic_batch=dynamic_batch, input_names=input_names, target_names=target_names
    )
    read = read_optimizer(optimizer, network.parameters)
    with prepared(network.module, None), in_training(network.module):
        step = make_step(network, read, opset)
    with open_atomically(path) as temporary:
        onnx.save(step.proto, temporary)
    return TrainingExport(Path(path), dict(count_in_model(step.proto)), opset)


def make_step(network: Network, optimizer: Optimizer, opset: int) -> StepFile:
    """Make the file of a whole step. Raises: ExportError."""
    program = Program(network)
    state = network.state
    trained = [name for name in network.parameters if name in set(optimizer.parameters)]
    frozen = [name for name in network.parameters if name not in set(trained)]
    buffers = list(network.buffers)
    users = [*network.inputs, *network.targets]
    step, lr, loss = distinct_names(["step", "lr", "loss"], {*state, *optimizer.slots, *users})
    lrs = [group.lr for group in optimizer.groups]
    first: dict[str, Tensor] = {
        **{name: state[name] for name in (*trained, *buffers)},
        **optimizer.slots,
        step: torch.tensor(optimizer.step),
        lr: torch.tensor(lrs if len(lrs) > 1 else lrs[0], dtype=torch.float64),
    }
    constants = {name: state[name] for name in frozen}
    inputs = {**first, **dict(zip(users, network.tensors, strict=True)), **constants}

    def one_step(values: Values) -> Mapping[str, Tensor]:
        value, grads, next_buffers = program.gradients(values, trained)
        with torch.no_grad():
            nexts = {**next_buffers, **update(optimizer, values, grads, values[step] + 1, values[lr])}
            nexts[step] = values[step] + 1
        return {loss: value, **{f"{name}/next": nexts[name] for name in first if name != lr}}

    proto = make_model(trace(one_step, inputs, program), opset)
    set_first_values(proto, {**first, **constants}, constants)
    metadata = {
        "format": 1,
        "kind": "step",
        "loss": loss,
        "inputs": network.inputs,
        "targets": network.targets,
        "feeds": {f"{name}/next": name for name in first if name != lr},
        "parameters": trained,
        "buffers": buffers,
        "optimizer_state": list(optimizer.slots),
        "step": step,
        "lr": lr,
        "optimizer": optimizer.describe(),
        "inference": "",
        "accumulate": None,
        "apply": "",
    }
    finish(proto, opset, {METADATA_KEY: json.dumps(metadata)})
    return StepFile(proto, network, optimizer, metadata)


def update(
    optimizer: Optimizer, values: Values, grads: Mapping[str, Tensor | None], step: Tensor, lr: Tensor
) -> dict[str, Tensor]:
    """Return the next parameters and slots; unchanged, as in torch, where there is no gradient."""
    nexts: dict[str, Tensor] = {}
    for index, group in enumerate(optimizer.groups):
        shared: dict[int, dict[str, Tensor]] = {}
        for name in group.parameters:
            slots = [f"{name}/{slot}" for slot in group.rule.slots]
            grad = grads[name]
            if grad is None:
                nexts |= {key: values[key].clone() for key in (name, *slots)}
                continue
            late = optimizer.late.get(name, 0)
            if late not in shared:
                shared[late] = group.rule.scalars(step - late if late else step, lr[index] if lr.ndim else lr)
            kept = tuple(values[slot] for slot in slots)
            is_first = name in optimizer.without_slots
            nexts[name], new_slots = group.rule.update(values[name], grad, kept, shared[late], is_first)
            nexts |= dict(zip(slots, new_slots, strict=True))
    return nexts
