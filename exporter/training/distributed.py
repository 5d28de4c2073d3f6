"""Train in several processes under torchrun: who writes, who takes which rows, and how gradients are summed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ort_ops.errors import MylinearError
from ort_ops.files.inputs import first_line


class PeerLostError(MylinearError, RuntimeError):
    """Another process of a training has ended or cannot be reached; the message says what to do."""


@dataclass(frozen=True)
class Processes:
    """The processes that train one network together; one process without a process group."""

    rank: int = 0
    count: int = 1

    @classmethod
    def current(cls) -> Processes:
        """Return the processes of torch.distributed's process group, if there is one."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    @property
    def is_writer(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    def share(self, rows: int) -> slice:
        """Return this process's part of a batch; the parts differ by one row at most, and may be empty.

        >>> [Processes(rank, 3).share(7) for rank in range(3)]
        [slice(0, 3, None), slice(3, 5, None), slice(5, 7, None)]
        """
        size, rest = divmod(rows, self.count)
        start = self.rank * size + min(self.rank, rest)
        return slice(start, start + size + (self.rank < rest))

    def sum_gradients(self, parameters: Iterable[nn.Parameter], loss: Tensor) -> Tensor:
        """Give every process the sum of the gradients, and return the sum of the losses, by one message for all."""
        parameters = list(parameters)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        # float16 and bfloat16 are summed in float32.
        dtype = torch.promote_types(parameters[0].dtype, torch.float32)
        message = torch.cat([loss.detach().to(dtype).reshape(1), *(g.to(dtype).flatten() for g in gradients)])
        try:
            dist.all_reduce(message)
        except RuntimeError as error:  # from gloo or NCCL, with C++ files and lines
            raise PeerLostError(
                f"process {self.rank} of {self.count}: another process of this training has ended or cannot be "
                f"reached; its own messages say why; then go on with --resume"
            ) from error
        sizes = [gradient.numel() for gradient in gradients]
        for parameter, part in zip(parameters, message[1:].split(sizes), strict=True):
            parameter.grad = part.reshape(parameter.shape).to(parameter.dtype)
        return message[0]

    def device(self, device: torch.device) -> torch.device:
        """Return this process's own device; with several GPUs, the one that torchrun assigned to it."""
        if device.type != "cuda" or device.index is not None or self.count == 1:
            return device
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", self.rank)))


@contextmanager
def joined(device_type: str) -> Iterator[Processes]:
    """Join the processes that torchrun started, and leave them at the end; without torchrun, stay alone.

    Args:
        device_type: ``cuda`` for messages by NCCL; gloo otherwise.
    """
    if not (dist.is_available() and dist.is_torchelastic_launched()) or dist.is_initialized():
        yield Processes.current()
        return
    try:
        dist.init_process_group("nccl" if device_type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        raise PeerLostError(f"cannot join the processes that torchrun started: {first_line(error)}") from error
    try:
        yield Processes.current()
    finally:
        dist.destroy_process_group()


def may_write() -> bool:
    """Whether this process will be the one that writes; works before it has joined the others."""
    return not dist.is_torchelastic_launched() or int(os.environ.get("RANK", "0")) == 0
