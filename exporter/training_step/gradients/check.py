"""Compare outputs and gradients with torch before a file is written: on the example, and on other sizes."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import torch
from torch import Tensor

from exporter.errors import ExportError
from exporter.to_onnx.checks.agreement import root_cause
from exporter.to_onnx.example_call import flatten_outputs
from exporter.to_onnx.surroundings import every_layer
from exporter.torch_ops.tensors import to_numpy
from exporter.training_step.check.graph_check import GraphCheck
from exporter.training_step.check.randomness import refuse_randomness
from exporter.training_step.gradients.request import Request
from exporter.training_step.network import Network, kept_buffers
from exporter.training_step.trace import Traced
from ort_ops.numerics.compare import Comparison
from ort_ops.training.file_format import GRADIENT

_MORE = 3
_MAX_DRAWS = 3
"""How many drawn inputs to try, until each quantity has a bound at one of them."""


def check_gradients_file(request: Request, traced: Traced, proto: onnx.ModelProto) -> dict[str, Comparison]:
    """Return the worst comparison of each output and gradient, by name.

    Args:
        proto: what will be written; parameters may be inputs of it.

    Raises: ExportError naming the first that is not what torch computes, or that cannot be compared.
    """
    refuse_randomness(traced.graph)
    words = {name: f"output '{name}'" for name in request.outputs}
    words |= {name + GRADIENT: f"gradient of '{name}'" for name in request.wrt}
    check = GraphCheck(proto, words)
    generator = torch.Generator().manual_seed(0)
    taken = {value.name for value in proto.graph.input}
    state = {name: tensor for name, tensor in request.network.state.items() if name in taken}
    for number in range(1 + _MAX_DRAWS):
        if check.is_proved:
            break
        # Sizes that the example does not have must show what a graph is right for.
        tensors = other_sizes(request.network, generator) if number else request.network.tensors
        what = _sizes_in_words(request.network, tensors)
        expected, cotangents = _in_torch(request, tensors, generator, what)
        given = dict(zip(request.network.inputs, tensors, strict=True))
        feed = {name: to_numpy(tensor) for name, tensor in {**given, **cotangents, **state}.items()}
        check.trial(what, feed, {name: to_numpy(tensor) for name, tensor in expected.items()}, proves=number > 0)
    return check.finish()


def _in_torch(
    request: Request, tensors: Sequence[Tensor], generator: torch.Generator, what: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return outputs and gradients by eager torch, and the cotangents that it took."""
    leaves, inputs = request.leaves(tensors)
    module = request.network.module
    with request.differentiable(), kept_buffers(module), every_layer(), torch.enable_grad():
        try:
            result = module(*inputs)
        except Exception as error:
            raise ExportError(
                f"the model does not run on {what}: {root_cause(error)}; name in dynamic_shapes only dimensions that "
                "may change, {} for none"
            ) from error
        outputs = flatten_outputs(result)
        cotangents = {
            name: torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.dtype)
            for name, output in zip(request.cotangents.values(), request.chosen(result), strict=False)
        }
        found = request.pull_back(result, leaves, cotangents)
    grads = {
        name + GRADIENT: torch.zeros_like(leaves[name]) if grad is None else grad
        for name, grad in zip(request.wrt, found, strict=True)
    }
    return {**dict(zip(request.outputs, outputs, strict=True)), **grads}, cotangents


def other_sizes(network: Network, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Return inputs with more entries in each dynamic dimension, between those of the example.

    Each entry is a mean of two of the example, with the same weights in all inputs; so numbers stay within their range,
    rows of probabilities stay such, and no two entries are equal, between which a distance would have no gradient.
    Integers are those of one of the two.
    """
    drawn: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
    found = []
    for name, tensor in network.given.items():
        is_float = tensor.is_floating_point()
        values = tensor.to(torch.float64) if is_float else tensor
        for axis, dim in network.axes[name].items():
            size = tensor.shape[axis]
            if dim not in drawn:
                first = torch.randint(size, (size + _MORE,), generator=generator)
                step = torch.randint(1, max(size, 2), (size + _MORE,), generator=generator)
                weight = 0.1 + 0.8 * torch.rand(size + _MORE, generator=generator, dtype=torch.float64)
                drawn[dim] = first, (first + step) % size, weight
            first, second, weight = drawn[dim]
            one = values.index_select(axis, first)
            if is_float:
                weight = weight.reshape([-1, *[1] * (values.ndim - axis - 1)])
                one = weight * one + (1 - weight) * values.index_select(axis, second)
            values = one
        if is_float and values.numel():
            if all(bool((tensor == tensor.narrow(axis, 0, 1)).all()) for axis in network.axes[name]):
                values = values * (1 - 0.1 * torch.rand(values.shape, generator=generator, dtype=torch.float64))
            values = _within(values, network.ranges.get(name))
        found.append(values.to(tensor.dtype))
    return tuple(found)


def _within(values: Tensor, ends: tuple[float, float] | None) -> Tensor:
    """Return finite values within a range, and others as they are."""
    return values if ends is None else torch.where(torch.isfinite(values), values.clamp(*ends), values)


def _sizes_in_words(network: Network, tensors: Sequence[Tensor]) -> str:
    sizes = {
        dim: tensor.shape[axis]
        for name, tensor in zip(network.inputs, tensors, strict=True)
        for axis, dim in network.axes[name].items()
    }
    return " and ".join(f"a {dim} of {size}" for dim, size in sizes.items()) or "the example's sizes"
