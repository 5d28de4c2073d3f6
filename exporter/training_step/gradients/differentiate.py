"""Differentiate an exported forward while something records: its outputs, and vector-Jacobian products."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from exporter.errors import ExportError
from exporter.to_onnx.example_call import flatten_outputs
from exporter.training_step.forward import Forward, Values, check_backwards, check_dense, lost_gradient
from exporter.training_step.gradients.request import Request
from ort_ops.training.file_format import GRADIENT


class Differentiated(Forward):
    """The exported forward of a model, with cotangents among its inputs if they are asked for."""

    what = "the model"
    fixing = "the model"
    unchanging = "dynamic_shapes={}"

    def __init__(self, request: Request) -> None:
        """Export the model in the mode that it is in.

        Raises: ExportError; for each of ``wrt`` that no output of ``of`` depends on, too.
        """
        self._request = request
        self._leaves, tensors = request.leaves(request.network.tensors)
        with request.differentiable():
            super().__init__(request.network, self._look_at, tensors)
        if self._written:
            raise ExportError(
                f"the model changes its buffer '{min(self._written)}' in each call, which a file of gradients cannot "
                "keep; return it as an output"
            )
        self.given: dict[str, Tensor] = dict(request.network.given)
        if request.cotangents:
            self._add_cotangents()

    def _look_at(self, result: Any) -> None:
        """Check that torch differentiates all that is asked for. Raises: ExportError."""
        request = self._request
        outputs = request.chosen(result)
        self._example = outputs
        check_backwards(outputs)
        found = request.pull_back(result, self._leaves, dict(zip(request.cotangents.values(), outputs, strict=False)))
        for name, grad in zip(request.wrt, found, strict=True):
            if grad is None:
                words = " and ".join(f"'{output}'" for output in request.of)
                verb = "does" if len(request.of) == 1 else "do"
                raise ExportError(
                    f"{words} {verb} not depend on '{name}' in a way that torch differentiates; leave it out of wrt"
                )

    def _add_cotangents(self) -> None:
        """Make an input for each cotangent, of the output's shape. Raises: ExportError."""
        symbols = {
            str(fake.shape[axis]): dim for name, fake in self.fakes.items() for axis, dim in self.axes[name].items()
        }
        node = next(node for node in self.program.graph.nodes if node.op == "output")
        leaves = [argument.meta["val"] for argument in node.args[0][-len(self._request.outputs) :]]
        axes = dict(self.axes)
        for (output, name), example in zip(self._request.cotangents.items(), self._example, strict=True):
            fake = leaves[self._request.outputs.index(output)]
            sizes = {axis: str(size) for axis, size in enumerate(fake.shape) if not isinstance(size, int)}
            for axis, size in sizes.items():
                if size not in symbols:
                    known = ", ".join(f"{symbol} = {dim}" for symbol, dim in symbols.items())
                    raise ExportError(
                        f"dimension {axis} of output '{output}' is {size} ({known}), which an input for its cotangent "
                        "cannot be; return the output with each dynamic dimension by itself"
                    )
            with self.mode:
                self.fakes[name] = torch.empty_like(fake)  # an output may be an input, and a cotangent is neither
            self.given[name] = torch.ones_like(example, requires_grad=False)
            axes[name] = {axis: symbols[size] for axis, size in sizes.items()}
        self.axes = axes

    def __call__(self, values: Values) -> Mapping[str, Tensor]:
        """Return the outputs and the gradients, by the names that they have in the file."""
        request = self._request
        leaves = {name: values[name].detach().requires_grad_() for name in request.wrt}
        copies = {name: leaf.clone() if name in request.network.inputs else leaf for name, leaf in leaves.items()}
        result, _ = self.call({**values, **copies})
        if not all(output.requires_grad for output in request.chosen(result)):
            raise lost_gradient(request.wrt[0])
        found = request.pull_back(result, leaves, values)
        grads = {}
        for name, grad in zip(request.wrt, found, strict=True):
            if grad is None:
                raise lost_gradient(name)
            grads[name] = grad
        check_dense(grads)
        outputs = zip(request.outputs, flatten_outputs(result), strict=True)
        return {
            **{name: output.detach() for name, output in outputs},
            **{name + GRADIENT: grad for name, grad in grads.items()},
        }
