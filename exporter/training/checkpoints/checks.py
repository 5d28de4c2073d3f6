"""Check the content of a checkpoint before anything is built from it: every value's type, every tensor's shape.

Sizes are compared with the tensors in the file, so that a false size takes no memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from exporter.torch_ops.workloads.network import Architecture, statistics
from exporter.training.checkpoints.typed_fields import convert
from exporter.training.data.dataset import DataDescription
from exporter.training.history import EpochRecord
from exporter.training.options import TrainingOptions
from ort_ops.prediction.columns import feature_names

_PARTS = ("train", "validation")


def check_data(data: DataDescription, architecture: Architecture, options: TrainingOptions) -> None:
    """Raise ValueError if data, architecture and options do not fit together."""
    outputs = None if data.class_names is None else len(data.class_names)
    for what, is_right in (
        ("the columns do not give the features", feature_names(data.columns) == data.feature_names),
        ("the features are not the network's inputs", len(data.feature_names) == architecture.num_inputs),
        ("the classes are not the network's outputs", outputs in (None, architecture.num_outputs)),
        ("the task does not go with the classes", (data.task == "classification") == (outputs is not None)),
        ("the hidden layers are not those of the options", options.hidden == architecture.hidden),
        ("the dtype is not that of the options", options.dtype == architecture.dtype),
    ):
        if not is_right:
            raise ValueError(what)


def check_network_state(state: object, architecture: Architecture) -> dict[str, Tensor]:
    """Return the network's state if it is finite and fits the architecture. Raises: TypeError, ValueError."""
    shapes = dict(state_shapes(architecture))
    if not isinstance(state, Mapping) or state.keys() != shapes.keys():
        raise ValueError("network_state does not have the architecture's tensors")
    dtype = getattr(torch, architecture.dtype)
    checked = {}
    for name, shape in shapes.items():
        tensor = checked[name] = check_tensor(f"network_state {name}", state[name], shape, dtype)
        if not tensor.isfinite().all():
            raise ValueError(f"network_state {name} must be finite")
    return checked


def state_shapes(architecture: Architecture) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield name and shape of each tensor in the state of a network, the parameters first, in their order."""
    yield from architecture.parameter_shapes()
    for name, size, is_present in statistics(architecture):
        if is_present:
            yield f"{name}_mean", (size,)
            yield f"{name}_std", (size,)


def check_tensor(what: str, value: object, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return the value if it is a complete tensor of this shape and dtype. Raises: TypeError, ValueError."""
    if type(value) is not Tensor and type(value) is not torch.nn.Parameter:
        raise TypeError(f"{what} must be a tensor, got {type(value).__name__}")
    if tuple(value.shape) != tuple(shape) or value.dtype != dtype:
        raise ValueError(f"{what} must be {dtype} {list(shape)}, got {value.dtype} {list(value.shape)}")
    is_plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
    if not is_plain or not value.is_contiguous() or value.is_neg() or value.is_conj():
        raise ValueError(f"{what} must be a plain tensor on the CPU")
    return value.detach()


def check_optimizer_state(state: object, architecture: Architecture, options: TrainingOptions) -> dict[str, Any]:
    """Return the optimizer's state of each parameter if it is complete; the rest follows from the options.

    Raises: TypeError, ValueError.
    """
    if not isinstance(state, Mapping) or not isinstance(state.get("state"), Mapping):
        raise TypeError("optimizer_state must have the state of each parameter")
    shapes = [shape for _, shape in architecture.parameter_shapes()]
    of_parameters: Mapping[Any, Any] = state["state"]
    needed = {"exp_avg", "exp_avg_sq"} if options.optimizer == "adamw" else {"momentum_buffer"} - _unused(options)
    if needed and set(of_parameters) != set(range(len(shapes))):
        raise ValueError("optimizer_state does not have the network's parameters")
    dtype = getattr(torch, architecture.dtype)
    checked: dict[int, dict[str, Any]] = {}
    for index, shape in enumerate(shapes if needed else ()):
        values = of_parameters[index]
        if not isinstance(values, Mapping) or not needed <= values.keys() <= needed | {"step"}:
            raise ValueError(f"optimizer_state of parameter {index} must have {' and '.join(sorted(needed))}")
        what = f"optimizer_state of parameter {index},"
        checked[index] = {name: check_tensor(f"{what} {name}", values[name], shape, dtype) for name in sorted(needed)}
        if options.optimizer == "adamw":
            step = values.get("step")
            checked[index]["step"] = check_tensor(f"{what} step", step, (), torch.float32)
            if not checked[index]["step"].item() >= 1:
                raise ValueError(f"{what} step must be 1 or more")
    return {"state": checked}


def _unused(options: TrainingOptions) -> set[str]:
    return {"momentum_buffer"} if options.momentum == 0 else set()


def check_generator_state(state: object) -> Tensor:
    """Return the state of the random stream if a generator accepts it. Raises: TypeError, ValueError, RuntimeError."""
    generator = torch.Generator()
    tensor = check_tensor("generator_state", state, generator.get_state().shape, torch.uint8)
    generator.set_state(tensor)
    return tensor


def check_history(history: object, epoch: int) -> tuple[EpochRecord, ...]:
    """Return a record for each epoch done. Raises: TypeError, ValueError."""
    if epoch < 1:
        raise ValueError(f"epoch must be 1 or more, got {epoch}")
    if not isinstance(history, list | tuple) or len(history) != epoch:
        raise ValueError("history must have a record for each epoch")
    records = []
    for number, record in enumerate(history, 1):
        if not isinstance(record, list | tuple) or len(record) != 4:
            raise TypeError(f"the history's record {number} must have 4 values")
        own = convert("epoch", record[0], int)
        losses = [convert("loss", record[1], float), *(convert("loss", value, float | None) for value in record[2:])]
        if own != number:
            raise ValueError(f"the history's record {number} is of epoch {own}")
        records.append(EpochRecord(own, *losses))
    return tuple(records)


def check_metrics(metrics: object) -> dict[str, dict[str, float]]:
    """Return the metrics by part and name. Raises: TypeError, ValueError."""
    if not isinstance(metrics, Mapping) or not metrics.keys() <= set(_PARTS):
        raise TypeError(f"metrics must be of {' and '.join(_PARTS)}")
    checked: dict[str, dict[str, float]] = {}
    for part, values in metrics.items():
        if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
            raise TypeError(f"the metrics of {part} must have names")
        checked[part] = {name: convert(name, value, float) for name, value in values.items()}
    return checked
