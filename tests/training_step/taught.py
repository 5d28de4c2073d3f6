"""Compare a training file with torch step by step, each from torch's own state.

Trained apart, two right runs of Adam part by far more than a rounding error: a gradient that is zero but for rounding
becomes a whole step up or down. So torch trains, and before each step its state is what the file starts from. What
both compute of it is compared with the exact step, within the bound that the rounding errors of all nodes allow.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from exporter.torch_ops.tensors import to_numpy
from exporter.training_step.export import export_training
from ort_ops.analysis.float64_run import Float64Run
from ort_ops.numerics.compare import compare
from ort_ops.session import InferenceSession
from ort_ops.training.file_format import find_metadata

Batch = tuple[Tensor, ...]


class Taught:
    """A model that torch trains, and its training file.

    Attributes:
        worst: the largest error in units of its bound, by who made it: torch, the kernels, and their difference, which
            may be two bounds.
        unbounded: how many values no bound said anything of, by the name of the result.
        compared: how many values were compared.
    """

    def __init__(
        self, model: nn.Module, loss: Any, optimizer: torch.optim.Optimizer, example: tuple[Any, Any], path: Path
    ) -> None:
        self.model, self.loss, self.optimizer = model, loss, optimizer
        export_training(model, loss, optimizer, example, path)
        proto = onnx.load(path)
        found = find_metadata(proto)
        assert found is not None
        self.metadata = found
        chance = {node.op_type for node in proto.graph.node if node.op_type.startswith(("Random", "Bernoulli"))}
        assert not chance, f"each run of the file would draw other numbers: {chance}"
        del proto.functions[:]  # registered operators are computed by their references
        self._exact = Float64Run(proto)
        self._sessions = {kernels: InferenceSession(path, kernels=kernels) for kernels in ("auto", "body")}
        self.worst: dict[str, float] = {}
        self.unbounded: dict[str, int] = {}
        self.compared = 0

    def state(self) -> dict[str, Any]:
        """Return torch's state of now as the file calls it."""
        parameters = dict(self.model.named_parameters())
        found = {name: parameters[name] for name in self.metadata.parameters}
        buffers = dict(self.model.named_buffers())
        found |= {name: buffers[name] for name in self.metadata.buffers}
        for name in self.metadata.optimizer_state:
            parameter, _, slot = name.rpartition("/")
            known = self.optimizer.state.get(parameters[parameter], {})
            found[name] = known.get(slot, torch.zeros_like(parameters[parameter]))
        arrays = {name: to_numpy(tensor.detach()).copy() for name, tensor in found.items()}
        rates = [group["lr"] for group in self.optimizer.param_groups]
        arrays[self.metadata.lr] = np.array(rates if len(rates) > 1 else rates[0], np.float64)
        return arrays

    def step(self, inputs: Batch, targets: Batch, number: int) -> None:
        """Let torch and the file do one step from torch's state, and compare both."""
        before = {**self.state(), self.metadata.step: np.array(number)}
        given = dict(zip(self.metadata.given, map(to_numpy, (*inputs, *targets)), strict=True))
        feed = {**before, **given}
        self.optimizer.zero_grad()
        loss = self.loss(self.model(*inputs), *targets)
        loss.backward()
        self.optimizer.step()
        after = self.state()
        torch_s = {output: after[name] for output, name in self.metadata.feeds.items() if name in after}
        torch_s |= {self.metadata.loss: to_numpy(loss.detach()), f"{self.metadata.step}/next": np.array(number + 1)}
        exact = self._exact(feed).outputs
        for kernels, session in self._sessions.items():
            names = [output.name for output in session.get_outputs()]
            got = dict(zip(names, session.run(names, feed), strict=True))
            self._compare(kernels, got, torch_s, exact)

    def _compare(
        self, kernels: str, got: Mapping[str, Any], torch_s: Mapping[str, Any], exact: Mapping[str, Any]
    ) -> None:
        for name, value in exact.items():
            pairs = {kernels: value.compare(got[name]), "torch": value.compare(torch_s[name])}
            if value.element_type is not None:
                wide = torch_s[name].astype(np.float64)
                pairs["difference"] = compare(got[name], wide, 2 * value.error, value.element_type, value.undecided)
            for who, comparison in pairs.items():
                assert comparison.is_within_bound, f"{who}, '{name}': {comparison.text}"
                self.worst[who] = max(self.worst.get(who, 0.0), comparison.max_in_bounds)
            found = pairs[kernels]
            self.compared += found.num_values - found.num_unbounded - found.num_undecided
            if found.num_unbounded:
                self.unbounded[name] = max(self.unbounded.get(name, 0), found.num_unbounded)
