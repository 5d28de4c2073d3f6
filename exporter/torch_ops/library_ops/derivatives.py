"""Derivatives of a library op: its author's backward, or torch's own derivative of the function that it computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from exporter.torch_ops.arguments import check_tensors
from exporter.torch_ops.library_ops.vmap import loop
from exporter.torch_ops.torch_private import (
    are_transforms_active,
    below_autograd,
    forward_mode_depth,
    forward_mode_level,
    is_tracing,
)
from ort_ops.opdef.call import as_stored
from ort_ops.opdef.operator import DefinitionError, Operator

Backward = Callable[..., Any]
Jvp = Callable[..., Any]
Vmap = Callable[..., Any]
SetupContext = Callable[[Any, tuple[Any, ...], Any], None]
_NO_FORWARD_MODE = "has a backward of its own and no forward-mode derivative"


@dataclass(frozen=True)
class Derivatives:
    """What is known of an operator's derivatives; see `define_library_op`."""

    operator: Operator
    compute: Callable[..., Any]
    backward: Backward | None
    setup_context: SetupContext | None
    jvp: Jvp | None = None
    vmap: Vmap | None = None

    def __post_init__(self) -> None:
        for name, given in (("setup_context", self.setup_context), ("jvp", self.jvp)):
            if given is not None and self.backward is None:
                raise DefinitionError(f"{self.operator.op_type}: {name} must come with a backward, got none")

    def functions(self, again: Callable[..., Any]) -> OpDerivatives:
        """Return the autograd functions of one overload; ``again`` calls the operator from the start."""
        return OpDerivatives(self, again)

    def split(self, arguments: Sequence[Any]) -> tuple[Sequence[Any], dict[str, Any]]:
        """Return inputs and attributes of a call, as `split` does."""
        return split(self.operator, arguments)

    def save(self, ctx: Any, arguments: tuple[Any, ...], output: Any) -> None:
        """Keep what backward needs."""
        inputs, attributes = self.split(arguments)
        if self.backward is not None and self.setup_context is not None:
            self.setup_context(ctx, arguments, output)
            return
        ctx.save_for_backward(*inputs)
        if self.jvp is not None:
            ctx.save_for_forward(*inputs)
        ctx.attributes = attributes

    def tangents(self, ctx: Any, *tangents: Any) -> Any:
        """Return the tangent of each output, by the author's ``jvp``."""
        assert self.jvp is not None
        found = self.jvp(ctx, *tangents[: len(self.operator.inputs)])
        return found if isinstance(found, Tensor) else tuple(found)

    def batched(
        self, call: Callable[..., Any], info: Any, in_dims: tuple[int | None, ...], arguments: Sequence[Any]
    ) -> tuple[Any, Any]:
        """Return the results for a batch, and where they have it: by the author's ``vmap``, or a ``call`` for each."""
        if self.vmap is None:
            results = loop(call, info.batch_size, in_dims, arguments)
            return results, 0 if isinstance(results, Tensor) else (0,) * len(results)
        inputs, attributes = self.split(arguments)
        results, out_dims = self.vmap(info, in_dims[: len(inputs)], *inputs, **attributes)
        return results, out_dims

    def gradients(self, ctx: Any, *upstream: Any) -> tuple[Any, ...]:
        """Return a gradient or None for each argument of the op."""
        num_inputs, num_attributes = len(self.operator.inputs), len(self.operator.attributes)
        found = self._derived(ctx, upstream) if self.backward is None else self.backward(ctx, *upstream)
        given = [found] if found is None or isinstance(found, Tensor) else list(found)
        if len(given) != num_inputs:
            raise DefinitionError(
                f"{self.operator.op_type}: backward must return {num_inputs} gradients, one or None for each input, "
                f"got {len(given)}"
            )
        return (*given, *[None] * num_attributes)

    def plain(self, arguments: Sequence[Any]) -> Any:
        """Compute by torch's own operations, which are right in every transform."""
        inputs, attributes = self.split(arguments)
        check_tensors(self.operator, inputs, attributes)
        return self.compute(*inputs, **attributes)

    def _derived(self, ctx: Any, upstream: Sequence[Any]) -> list[Tensor | None]:
        """Compute once more, and take torch's derivative of that."""
        is_again = torch.is_grad_enabled()  # whether the gradients will be differentiated
        needs = ctx.needs_input_grad[: len(self.operator.inputs)]
        with torch.enable_grad():
            # Each a tensor of its own, also where one tensor came as several inputs.
            inputs = [t.view_as(t) if t is not None else None for t in ctx.saved_tensors]
            inputs = [
                t if t is None or not need or t.requires_grad else t.requires_grad_()
                for t, need in zip(inputs, needs, strict=True)
            ]
            result = self.compute(*inputs, **ctx.attributes)
            outputs = [result] if isinstance(result, Tensor) else list(result)
            wanted = [t for t, need in zip(inputs, needs, strict=True) if need and t is not None]
            pairs = [(o, g) for o, g in zip(outputs, upstream, strict=True) if o.requires_grad and g is not None]
            found = iter(
                torch.autograd.grad(
                    [output for output, _ in pairs],
                    wanted,
                    [gradient for _, gradient in pairs],
                    create_graph=is_again,
                    allow_unused=True,
                )
                if pairs
                else [None] * len(wanted)
            )
        return [next(found) if need and t is not None else None for t, need in zip(inputs, needs, strict=True)]


def split(operator: Operator, arguments: Sequence[Any]) -> tuple[Sequence[Any], dict[str, Any]]:
    """Return inputs and attributes of a call; numbers of float attributes as a node holds them, in 32 bits."""
    count = len(operator.inputs)
    attributes = {}
    for attribute, value in zip(operator.attributes, arguments[count:], strict=True):
        is_number = type(value) is float or (isinstance(value, list | tuple) and all(type(v) is float for v in value))
        attributes[attribute.name] = as_stored(attribute.kind, value) if is_number else value
    return arguments[:count], attributes


class OpDerivatives:
    """The autograd functions of one overload of a library op.

    Attributes:
        op: the overload, which is set once it is defined.
        node_names: what autograd calls the nodes of calls.
    """

    op: Callable[..., Any]

    def __init__(self, parts: Derivatives, again: Callable[..., Any]) -> None:
        self._parts = parts
        name = parts.operator.name

        def forward(ctx: Any, *arguments: Any) -> Any:
            with below_autograd():
                output = self.op(*arguments)
            parts.save(ctx, arguments, output)
            return output

        def backward(ctx: Any, *upstream: Any) -> Any:
            return parts.gradients(ctx, *upstream)

        def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
            return parts.batched(again, info, in_dims, arguments)

        forward_mode = {} if parts.jvp is None else {"jvp": staticmethod(parts.tangents)}
        methods: dict[str, Any] = {"forward": staticmethod(forward), "backward": staticmethod(backward), **forward_mode}
        eager: Any = type(f"{name}F", (Function,), methods)
        methods = {
            "forward": staticmethod(lambda *arguments: again(*arguments)),
            "setup_context": staticmethod(parts.save),
            "backward": staticmethod(backward),
            "vmap": staticmethod(vmap),
            **forward_mode,
        }
        transformed: Any = type(f"{name}TransformedF", (Function,), methods)
        self._eager: Callable[..., Any] = eager.apply
        self._transformed: Callable[..., Any] = transformed.apply
        self.node_names = {f"{eager.__name__}Backward", f"{transformed.__name__}Backward"}

    def batch_rule(self, info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
        """Be the op's kernel for a batch of calls."""
        return self._parts.batched(self.op, info, in_dims, arguments)

    def apply(self, *arguments: Any) -> Any:
        """Compute, and be differentiated where it is asked for."""
        if torch.compiler.is_compiling() or is_tracing():
            return self.op(*arguments)  # stays a node
        if are_transforms_active():
            if self._parts.backward is None:
                return self._parts.plain(arguments)
            if self._parts.jvp is None and (forward_mode_depth() or 0) > 0:
                raise NotImplementedError(f"{self._parts.operator.op_type} {_NO_FORWARD_MODE}")
            return self._transformed(*arguments)
        return self.op(*arguments)

    def autograd(self, *arguments: Any) -> Any:
        """Be the op's Autograd kernel."""
        is_forward_mode = forward_mode_level() >= 0
        if self._parts.backward is None and (is_forward_mode or are_transforms_active()):
            return self._parts.plain(arguments)  # there is no graph here to keep the op in
        if are_transforms_active():
            raise NotImplementedError(
                f"{self._parts.operator.op_type}: within torch.func call the function of its TorchKit, not the "
                "library op"
            )
        if (
            is_forward_mode
            and self._parts.jvp is None
            and any(isinstance(t, Tensor) and forward_ad.unpack_dual(t).tangent is not None for t in arguments)
        ):
            raise NotImplementedError(f"{self._parts.operator.op_type} {_NO_FORWARD_MODE}")
        return self._eager(*arguments)
