"""Train in onnxruntime: torch writes the whole step as one ONNX file, which is run instead of torch."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from exporter.torch_ops.tensors import from_numpy, to_numpy
from exporter.torch_ops.workloads.network import Network
from exporter.training.metrics import compute_loss
from exporter.training_step.export import export_training
from ort_ops.kernels.fallbacks import FunctionBodyWarning
from ort_ops.training.trainer import Trainer

_PREFIX = "network."  # of all names in the file, but for the number of steps
_STEP = "step"  # that number, and torch's own name for it


class OnnxruntimeEngine:
    """The step in a file of `export_step`, run by `ort_ops.Trainer` with as many threads as torch would use."""

    def __init__(self, network: Network, optimizer: torch.optim.Optimizer, path: Path) -> None:
        """Open the file, whose state is that of network and optimizer when it was written.

        Raises: ort_ops' TrainingError, KernelError.
        """
        self._network, self._optimizer = network, optimizer
        (group,) = optimizer.param_groups
        self._counts_steps = "betas" in group
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FunctionBodyWarning)  # `kernels` says it
            self._trainer = Trainer(path, threads=torch.get_num_threads())

    @property
    def kernels(self) -> dict[str, str]:
        """Name of the kernel by domain and name of each operator."""
        return self._trainer.kernels

    def load(self) -> None:
        """Take the state that network and optimizer have now."""
        state, theirs = self._trainer.state(), torch_state(self._network, self._optimizer)
        # Buffers are constants in the file, because a step does not change them.
        self._trainer.load_state({name: theirs.get(name, value) for name, value in state.items()})

    def step(self, x: Tensor, y: Tensor) -> float:
        """Take one step."""
        return self._trainer.step(x.numpy(), y.numpy())

    def synchronize(self) -> None:
        """Give network and optimizer the state after the last step."""
        state = self._trainer.state()
        with torch.no_grad():
            for name, parameter in self._network.named_parameters():
                full = _PREFIX + name
                parameter.copy_(from_numpy(state[full]))
                slots = self._optimizer.state[parameter]
                if self._counts_steps:
                    slots[_STEP] = torch.tensor(float(state[_STEP]))
                for key, value in state.items():
                    if key.startswith(f"{full}/"):
                        slots[key.removeprefix(f"{full}/")] = from_numpy(value)

    def parameters(self) -> dict[str, NDArray[Any]]:
        """Return copies of the network's parameters after the last step, by its own names."""
        return {name.removeprefix(_PREFIX): array for name, array in self._trainer.parameters().items()}

    def state(self) -> dict[str, NDArray[Any]]:
        """Return copies of the state after the last step, by the file's names."""
        return self._trainer.state()


def is_too_large(optimizer: torch.optim.Optimizer, dtype: torch.dtype) -> bool:
    """Whether the dtype cannot hold what the first step multiplies by; torch refuses the step, ONNX has infinity."""
    # Adam divides the rate by 1 - beta1 in its first step, and by more later.
    return any(
        group["lr"] / (1 - group.get("betas", (0.0,))[0]) > torch.finfo(dtype).max for group in optimizer.param_groups
    )


def export_step(network: Network, optimizer: torch.optim.Optimizer, example: tuple[Tensor, Tensor], path: Path) -> None:
    """Write the training step of a network, from raw rows and targets on; the export compares it with torch.

    Args:
        optimizer: on the parameters of the network, in one group.
        example: a batch of any rows.

    Raises: ExportError.
    """

    def loss(standardized: Tensor, target: Tensor) -> Tensor:
        return compute_loss(network, standardized, target)

    with torch.random.fork_rng(devices=[]):
        export_training(_Standardized(network), loss, optimizer, example, path)


def torch_state(network: Network, optimizer: torch.optim.Optimizer) -> dict[str, NDArray[Any]]:
    """Return the state of network and optimizer by the names in the file; slots that torch has not made are missing."""
    state = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        state[_PREFIX + name] = to_numpy(tensor)
        for slot, value in optimizer.state.get(tensor, {}).items():
            if slot == _STEP:
                state[_STEP] = np.asarray(int(value))
            else:
                state[f"{_PREFIX}{name}/{slot}"] = to_numpy(value)
    return state


class _Standardized(nn.Module):
    """A network up to what its loss compares."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network.standardized(x)
