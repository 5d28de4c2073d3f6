"""Train in torch, on any device, alone or together with other processes."""

from __future__ import annotations

import torch
from torch import Tensor

from exporter.torch_ops.workloads.network import Network
from exporter.training.distributed import Processes
from exporter.training.engines.engine import StepTooLargeError
from exporter.training.metrics import compute_loss


class TorchEngine:
    """The network, differentiated by autograd, and torch's optimizer; each process does its part of a batch."""

    def __init__(
        self, network: Network, optimizer: torch.optim.Optimizer, processes: Processes, device: torch.device
    ) -> None:
        self._network, self._optimizer = network, optimizer
        self._processes, self._device = processes, device

    @property
    def kernels(self) -> dict[str, str]:
        """Return none: torch runs its own."""
        return {}

    def step(self, x: Tensor, y: Tensor) -> float:
        """Take one step. Raises: StepTooLargeError, PeerLostError."""
        self._optimizer.zero_grad()
        loss = self._differentiate(x, y)
        try:
            self._optimizer.step()
        except RuntimeError as error:  # torch refuses rates that the dtype cannot hold
            if "overflow" not in str(error):
                raise
            raise StepTooLargeError from error
        return loss.item()

    def synchronize(self) -> None:
        """Do nothing: network and optimizer are the state."""

    def _differentiate(self, x: Tensor, y: Tensor) -> Tensor:
        """Set the gradients of the batch's mean loss, and return the loss; each process does its part."""
        network, processes = self._network, self._processes
        if processes.count == 1:
            loss = compute_loss(network, network.standardized(x), y)
            loss.backward()
            return loss
        share = processes.share(len(x))
        loss = torch.zeros((), device=self._device)
        if share.start < share.stop:
            loss = compute_loss(network, network.standardized(x[share]), y[share])
            loss = loss * ((share.stop - share.start) / len(x))
            loss.backward()
        return processes.sum_gradients(network.parameters(), loss)
