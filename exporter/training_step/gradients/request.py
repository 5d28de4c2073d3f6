"""What an export of gradients is asked for: the model with an example, which outputs, and with respect to what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from exporter.errors import ExportError
from exporter.to_onnx.example_call import DynamicShapes, distinct_names, flatten_outputs, grow, kind_of, make_example
from exporter.to_onnx.job import check_names, default_output_names, dynamic_axes
from exporter.training_step.network import Network, batch_axes, check_hooks, kept_buffers, named_state

SCALAR, SUM, COTANGENT = "scalar", "sum", "cotangent"
SEEDS = (SCALAR, SUM, COTANGENT)


@dataclass(frozen=True)
class Request:
    """What to export.

    Attributes:
        network: the model, which returns a tuple of tensors, with an example call.
        outputs: names of all that the model returns.
        of: those that are differentiated.
        wrt: inputs and parameters, by name.
        cotangents: name of the input for the cotangent of each of ``of``; empty for seeds of 1.
    """

    network: Network
    outputs: list[str]
    of: list[str]
    wrt: list[str]
    cotangents: dict[str, str]

    @property
    def wrt_parameters(self) -> list[str]:
        """The parameters among ``wrt``."""
        return [name for name in self.wrt if name not in self.network.inputs]

    def leaves(self, tensors: Sequence[Tensor]) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Return what to differentiate with respect to, by name, and the inputs to call the module with.

        The parameters are the model's own; inputs are copies, because a model may overwrite those it is called with.
        """
        inputs = dict(zip(self.network.inputs, (tensor.detach().clone() for tensor in tensors), strict=True))
        leaves = {
            name: inputs[name].requires_grad_() if name in inputs else self.network.state[name] for name in self.wrt
        }
        return leaves, [tensor.clone() for tensor in inputs.values()]

    def pull_back(self, result: Any, leaves: Mapping[str, Tensor], cotangents: Mapping[str, Tensor]) -> list[Any]:
        """Return the gradient with respect to each leaf, None where there is none, of what the module returns.

        Raises: ExportError for an output that depends on no leaf.
        """
        chosen = self.chosen(result)
        for name, output in zip(self.of, chosen, strict=True):
            if not output.requires_grad:
                raise ExportError(
                    f"output '{name}' depends on nothing in wrt ({', '.join(self.wrt)}) in a way that torch "
                    "differentiates, so it has no gradient"
                )
        seeds = [
            cotangents[self.cotangents[name]] if self.cotangents else torch.ones_like(output)
            for name, output in zip(self.of, chosen, strict=True)
        ]
        return list(torch.autograd.grad(chosen, list(leaves.values()), seeds, allow_unused=True))

    def chosen(self, result: Any) -> list[Tensor]:
        """Return the outputs that are differentiated, of what the module returns."""
        outputs = dict(zip(self.outputs, flatten_outputs(result), strict=True))
        return [outputs[name] for name in self.of]

    @contextmanager
    def differentiable(self) -> Iterator[None]:
        """Let torch differentiate with respect to the parameters of ``wrt`` alone, frozen or not."""
        parameters = self.network.parameters
        before = {name: parameter.requires_grad for name, parameter in parameters.items()}
        try:
            for name, parameter in parameters.items():
                if parameter.is_floating_point():
                    parameter.requires_grad_(name in self.wrt)
            yield
        finally:
            for name, parameter in parameters.items():
                parameter.requires_grad_(before[name])


def make_differentiable_network(
    model: Any,
    args: Any,
    kwargs: Mapping[str, Any] | None,
    input_names: Sequence[str] | None,
    dynamic_shapes: DynamicShapes | None,
) -> Network:
    """Name and check the model and the example. Raises: ExportError."""
    if isinstance(model, Tensor | tuple | list):
        raise ExportError(
            f"model must be a torch.nn.Module, got {kind_of(model)}; the call is export_gradients(model, args, path)"
        )
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise ExportError(f"model must be a torch.nn.Module, got {kind_of(model)}")
    while isinstance(original := getattr(model, "_orig_mod", None), nn.Module):  # what torch.compile returns
        model = original
    check_hooks(model)
    example = make_example(model, args, kwargs, must_wrap=True)
    state, aliases = named_state(example.model)
    names = list(input_names or distinct_names(example.names, state))
    check_names(names, len(example.tensors), "input")
    taken = [name for name in names if name in state]
    if taken:
        raise ExportError(f"input_names must differ from the model's own names, got '{taken[0]}'")
    tensors = tuple(tensor.detach() for tensor in example.tensors)
    axes = batch_axes(names, tensors) if dynamic_shapes is None else dynamic_axes(names, tensors, dynamic_shapes)
    for name, tensor in zip(names, tensors, strict=True):
        for axis, dim in axes[name].items():
            if not dim.isidentifier():
                raise ExportError(f"dynamic_shapes must have names of dimensions that Python could have, got '{dim}'")
            if tensor.shape[axis] == 0:
                raise ExportError(f"the example must have at least one entry in dimension {axis} of '{name}', got 0")
    # A size of 1 would be fixed in the graph: torch.export takes it as a constant.
    ones = {d for n, t in zip(names, tensors, strict=True) for axis, d in axes[n].items() if t.shape[axis] == 1}
    for dim in sorted(ones):
        tensors = tuple(grow(tensor, axes[name], 1, dim) for name, tensor in zip(names, tensors, strict=True))
    return Network(model, example.model, example, tensors, names, [], state, aliases, axes)


def make_request(
    network: Network,
    wrt: str | Sequence[str] | None,
    of: str | Sequence[str] | None,
    seed: str,
    output_names: Sequence[str] | None,
) -> Request:
    """Call the model, name its outputs, and check what is asked for; the module is in the mode to export.

    Raises: ExportError naming what cannot be differentiated.
    """
    if seed not in SEEDS:
        raise ExportError(f"seed must be {', '.join(SEEDS[:-1])} or {SEEDS[-1]}, got {seed!r}")
    request = Request(network, [], [], _check_wrt(network, wrt), {})
    _, tensors = request.leaves(network.tensors)
    with request.differentiable(), torch.enable_grad(), kept_buffers(network.module):
        outputs = flatten_outputs(network.module(*tensors))
    if not outputs:
        raise ExportError("the model must return tensors, in tuples, lists or dicts; it returns none")
    inputs = network.inputs
    names = list(output_names or default_output_names(len(outputs), {*inputs, *network.state}))
    check_names(names, len(outputs), "output")
    clash = [name for name in names if name in inputs or name in network.state]
    if clash:
        raise ExportError(f"output_names must differ from inputs and the model's own names, got '{clash[0]}'")
    chosen = _check_of(dict(zip(names, outputs, strict=True)), of, seed)
    cotangents = {name: f"{name}/cotangent" for name in chosen} if seed == COTANGENT else {}
    return replace(request, outputs=names, of=chosen, cotangents=cotangents)


def _check_of(outputs: Mapping[str, Tensor], of: str | Sequence[str] | None, seed: str) -> list[str]:
    """Return the names of the outputs to differentiate. Raises: ExportError."""
    if of is None:
        if len(outputs) > 1:
            raise ExportError(f"the model has several outputs ({', '.join(outputs)}); say by of which to differentiate")
        of = list(outputs)
    chosen = _names("of", of)
    for name in chosen:
        if name not in outputs:
            raise ExportError(f"of must name outputs of the model ({', '.join(outputs)}), got '{name}'")
        output = outputs[name]
        if not output.is_floating_point():
            raise ExportError(
                f"output '{name}' is {_dtype(output)}, which has no gradient; of takes floating-point ones"
            )
        if seed == SCALAR and output.numel() != 1:
            raise ExportError(
                f"output '{name}' must be one number to have a gradient, got {list(output.shape)}; seed='sum' "
                "differentiates the sum of its numbers, and seed='cotangent' makes their weights an input"
            )
    return chosen


def _check_wrt(network: Network, wrt: str | Sequence[str] | None) -> list[str]:
    """Return the names of inputs and parameters to differentiate with respect to. Raises: ExportError."""
    given = network.given
    if wrt is None:
        wrt = [name for name, tensor in given.items() if tensor.is_floating_point()]
        if not wrt:
            raise ExportError("the model has no floating-point input to differentiate by; name parameters in wrt")
    chosen = _names("wrt", wrt)
    parameters = network.parameters
    aliases = {full.removeprefix("model."): name for full, name in network.aliases.items()}
    for name in chosen:
        tensor = given.get(name, parameters.get(name))
        if tensor is None:
            raise ExportError(_unknown(name, network, aliases))
        if not tensor.is_floating_point():
            kind = "input" if name in given else "parameter"
            raise ExportError(f"{kind} '{name}' is {_dtype(tensor)}, which has no gradient; leave it out of wrt")
    return chosen


def _unknown(name: str, network: Network, aliases: Mapping[str, str]) -> str:
    if name in aliases and aliases[name] != name:
        return f"'{name}' in wrt is the same parameter as '{aliases[name]}'; name that one"
    if name in network.buffers:
        return f"'{name}' in wrt is a buffer; make it an input or a parameter of the model"
    parameters = list(network.parameters)
    shown = ", ".join(parameters[:8]) + (f", ... {len(parameters)} in all" if len(parameters) > 8 else "")
    inputs = ", ".join(network.inputs)
    return f"wrt must name inputs ({inputs}) or parameters ({shown or 'none'}) of the model, got '{name}'"


def _names(what: str, names: str | Sequence[str]) -> list[str]:
    found = [names] if isinstance(names, str) else list(names)
    if not found or len({*found}) != len(found) or not all(isinstance(name, str) for name in found):
        raise ExportError(f"{what} must be a name, or distinct names, got {names!r}")
    return found


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
