"""One step by torch itself: the real model, loss and optimizer, as copies, from any state."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from exporter.errors import ExportError
from exporter.to_onnx.checks.agreement import root_cause
from exporter.to_onnx.surroundings import every_layer
from exporter.training_step.check.randomness import KeepAll
from exporter.training_step.network import Network, named_state
from exporter.training_step.optimizers.read import Optimizer


class TorchStep:
    """A copy of a network and of its optimizer, that steps."""

    def __init__(self, network: Network, optimizer: torch.optim.Optimizer, read: Optimizer) -> None:
        """Copy them; the originals stay as they are. Raises: ExportError for a model that cannot be copied."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # torch's own, about its structures of arguments
                self._module, self._optimizer = copy.deepcopy((network.module, optimizer))
        except Exception as error:
            raise ExportError(f"comparing a step with torch needs a copy of the model: {root_cause(error)}") from error
        if not self._module.get_submodule("model").training:
            self._module.train()
        self._read = read
        self._state, _ = named_state(self._module)

    def set(self, state: Mapping[str, Tensor], step: int, lrs: Sequence[float]) -> None:
        """Put parameters, buffers and all slots into a state, after ``step`` steps."""
        with torch.no_grad():
            for name, tensor in self._state.items():
                if name in state:
                    tensor.copy_(state[name])
        for group, torch_group, lr in zip(self._read.groups, self._optimizer.param_groups, lrs, strict=True):
            torch_group["lr"] = lr
            for name in group.parameters:
                slots: dict[str, Any] = {slot: state[f"{name}/{slot}"].clone() for slot in group.rule.slots}
                if "exp_avg" in slots:
                    slots["step"] = torch.tensor(float(step - self._read.late.get(name, 0)))
                self._optimizer.state[self._state[name]] = slots

    def backward(self, tensors: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, with dropouts that keep everything, and the gradient of each trained parameter."""
        self._module.zero_grad()
        with torch.random.fork_rng(devices=[]), every_layer(), torch.enable_grad(), KeepAll():
            loss: Tensor = self._module(*(tensor.clone() for tensor in tensors))
            loss.backward()
        found = {name: self._state[name].grad for name in self._read.parameters}
        grads = {name: torch.zeros_like(self._state[name]) if g is None else g.clone() for name, g in found.items()}
        return loss.detach().reshape(()), grads

    def update(self, grads: Mapping[str, Tensor]) -> None:
        """Update the parameters by these gradients."""
        self._module.zero_grad()
        for name, grad in grads.items():
            self._state[name].grad = grad.clone()
        self._optimizer.step()

    def state(self) -> dict[str, Tensor]:
        """Return parameters, buffers and slots of now, as copies; slots that torch has not made yet as zeros."""
        found = {name: tensor.detach().clone() for name, tensor in self._state.items()}
        for group in self._read.groups:
            for name in group.parameters:
                slots = self._optimizer.state.get(self._state[name], {})
                for slot in group.rule.slots:
                    value = slots.get(slot)
                    value = torch.zeros_like(self._state[name]) if value is None else value
                    found[f"{name}/{slot}"] = value.detach().clone()
        return found
