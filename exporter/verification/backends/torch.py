"""The backends in torch: eager, and compiled. onnx's evaluator runs the model around the operators."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from numpy.typing import NDArray

from exporter.torch_ops.kit import call_operator, required_torch_kit, torch_kit
from exporter.torch_ops.tensors import from_numpy, to_numpy
from exporter.verification.backends.base import Backend, EvaluatorBackend, Feed, Run
from exporter.verification.nodes.drawn import Types
from exporter.verification.reasons import LacksOperator, Reason
from ort_ops.numerics.bound import IN_STEPS
from ort_ops.opdef.call import Call
from ort_ops.opdef.kit import OperatorKit

Array = NDArray[Any]
Function = Callable[..., Any]
EAGER = "torch eager"


class TorchBackend(EvaluatorBackend):
    """Run each operator by the function of its `TorchKit`, plain or wrapped; with a checkpoint, run its network."""

    def __init__(
        self,
        name: str,
        model: onnx.ModelProto,
        wrap: Callable[[Function], Function] | None = None,
        checkpoint: str | Path | None = None,
    ) -> None:
        super().__init__(name, model, self._outputs)
        self._wrap, self._checkpoint = wrap, checkpoint
        self._functions: dict[tuple[str, str, int], Function] = {}
        self.has_backward = wrap is None
        self.arithmetic = IN_STEPS

    def why_not(self, kit: OperatorKit, types: Types) -> Reason | None:
        """Return why it does not run nodes of an operator; None if it does."""
        return LacksOperator((kit.operator.op_type,), "torch function") if torch_kit(kit) is None else None

    def open_model(self) -> Run:
        """Open the network of the checkpoint, or an evaluator."""
        if self._checkpoint is None:
            return super().open_model()
        from exporter.training.checkpoints.checkpoint import load_network

        network = load_network(self._checkpoint)

        def run(feed: Feed) -> list[Array]:
            with torch.no_grad():
                return [to_numpy(network(*map(from_numpy, feed.values())))]

        return run

    def _outputs(self, kit: OperatorKit, call: Call) -> Sequence[Array]:
        if kit.operator.key not in self._functions:
            function = required_torch_kit(kit).function
            self._functions[kit.operator.key] = function if self._wrap is None else self._wrap(function)
        tensors = [None if array is None else from_numpy(array) for array in call.arrays]
        with torch.no_grad():
            found = call_operator(
                kit.operator, self._functions[kit.operator.key], tensors, call.attributes, call.has_output
            )
        return [to_numpy(output) for output in found if output is not None]


def make_torch_backends(
    model: onnx.ModelProto, checkpoint: str | Path | None, compile_backend: str | None
) -> list[Backend]:
    """Return torch eager, and torch.compile with a backend of its own unless that is None."""
    backends: list[Backend] = [TorchBackend(EAGER, model, checkpoint=checkpoint)]
    if compile_backend is not None:
        backends.append(
            TorchBackend(f"torch.compile[{compile_backend}]", model, lambda f: _compiled(f, compile_backend))
        )
    return backends


def _compiled(function: Function, compile_backend: str) -> Function:
    compiled = torch.compile(function, backend=compile_backend, dynamic=True, fullgraph=True)

    def run(*arguments: Any, **attributes: Any) -> Any:
        # Every rank and dtype is another graph, and a proof needs them all; dynamo's own warnings are not ours.
        with warnings.catch_warnings(), torch._dynamo.config.patch(recompile_limit=9999):
            warnings.simplefilter("ignore")
            return compiled(*arguments, **attributes)

    return run
