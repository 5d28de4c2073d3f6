"""A module that calls an operator: parameters and attributes are given once, the other inputs on each call."""

from __future__ import annotations

import keyword
import linecache
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ort_ops.opdef.operator import Operator


def make_module(operator: Operator, function: Callable[..., Any], given: Mapping[str, Any]) -> nn.Module:
    """Return a module whose ``forward`` takes the inputs that are not given, by their names and in their order.

    Args:
        given: attributes; and tensors for inputs, of which an `nn.Parameter` becomes a parameter, another a buffer.

    Raises: ContractError for a name that the operator does not have, TypeError for an input that is no tensor.
    """
    arguments = [parameter.argument for parameter in operator.inputs]
    attributes = {name: value for name, value in given.items() if name not in arguments}
    unknown = sorted(set(attributes) - {attribute.name for attribute in operator.attributes})
    if unknown:
        rule = f"among {', '.join([*arguments, *(attribute.name for attribute in operator.attributes)])}"
        raise operator.error("what a module is given", rule, ", ".join(unknown))
    operator.check_attributes(attributes)
    own = {name: f"input_{name}" if hasattr(nn.Module, name) or name == "training" else name for name in arguments}
    free = [parameter for parameter in operator.inputs if parameter.argument not in given]

    def call(self: nn.Module, *values: Any) -> Any:
        found = dict(zip((parameter.argument for parameter in free), values, strict=True))
        inputs = [found[name] if name in found else getattr(self, own[name]) for name in arguments]
        return function(*inputs, **attributes)

    def extra_repr(self: nn.Module) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in attributes.items())

    names = [p.argument if _is_name(p.argument) else f"input_{i}" for i, p in enumerate(free)]
    formal = [f"{name}=None" if p.is_optional else name for name, p in zip(names, free, strict=True)]
    members = {"__module__": __name__, "__doc__": operator.doc, "_call": call, "extra_repr": extra_repr}
    forward = _compile(operator, ", ".join(["self", *formal]), ", ".join(names))
    kind: type[nn.Module] = type(operator.name, (nn.Module,), {**members, "forward": forward})
    module = kind()
    for name in arguments:
        value = given.get(name)
        if name not in given:
            continue
        if isinstance(value, nn.Parameter):
            module.register_parameter(own[name], value)
        elif value is None or isinstance(value, Tensor):
            module.register_buffer(own[name], value)
        else:
            raise TypeError(operator.message(name, "a torch.Tensor or nn.Parameter", type(value).__name__))
    return module


def _is_name(text: str) -> bool:
    return text.isidentifier() and not keyword.iskeyword(text) and text != "self"


def _compile(operator: Operator, formal: str, given: str) -> Callable[..., Any]:
    """Return a ``forward`` whose parameters have the names of the inputs: exporters name a model's inputs by them."""
    text = f"def forward({formal}):\n    return self._call({given})\n"
    file = f"<{__name__}.{operator.op_type}({formal})>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    namespace: dict[str, Any] = {"__name__": __name__, "torch": torch}
    exec(compile(text, file, "exec"), namespace)
    forward: Callable[..., Any] = namespace["forward"]
    return forward
