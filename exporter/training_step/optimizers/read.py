"""Read an optimizer of torch: its groups, their options, and the state that it has already."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from exporter.errors import ExportError
from exporter.to_onnx.example_call import kind_of
from exporter.training_step.optimizers.rules import SGD, Adam, Rule
from ort_ops.training import file_format
from ort_ops.training.file_format import OptimizerDescription

_KINDS = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
_OPTIONS = ("momentum", "dampening", "nesterov", "betas", "eps", "weight_decay", "maximize")
_REFUSED = {
    "amsgrad": "it needs a third slot; use amsgrad=False",
    "capturable": "it is for CUDA graphs; use capturable=False",
    "differentiable": "an update that is differentiated itself cannot be exported; use differentiable=False",
    "fused": "its kernels round otherwise than the optimizer's own operations; leave fused out",
    "foreach": "its kernels round otherwise than the optimizer's own operations; leave foreach out",
}
"""Options that must be off, and why."""


@dataclass(frozen=True)
class Group:
    """One of the optimizer's groups.

    Attributes:
        parameters: names of those that are trained.
        rule: the update.
        lr: the learning rate of now.
        options: the other options by torch's names.
    """

    parameters: list[str]
    rule: Rule
    lr: float
    options: dict[str, Any]


@dataclass(frozen=True)
class Optimizer:
    """An optimizer as `read_optimizer` found it.

    Attributes:
        kind: name of its class.
        groups: in its order.
        slots: first values by ``<parameter>/<slot>``.
        step: number of steps done; of SGD, which counts none, 0.
        late: by how many steps the optimizer's own count for a parameter is behind ``step``, where it is.
        without_slots: parameters that have no slots in torch yet.
    """

    kind: str
    groups: list[Group]
    slots: dict[str, Tensor]
    step: int
    late: dict[str, int]
    without_slots: frozenset[str]

    @property
    def parameters(self) -> list[str]:
        """Names of all that are trained."""
        return [name for group in self.groups for name in group.parameters]

    def only(self, names: Collection[str]) -> Optimizer:
        """Return the optimizer without all other parameters; its groups stay, for each has a learning rate."""
        groups = [replace(g, parameters=[name for name in g.parameters if name in names]) for g in self.groups]
        slots = {name: value for name, value in self.slots.items() if name.rpartition("/")[0] in names}
        return replace(self, groups=groups, slots=slots)

    def describe(self) -> OptimizerDescription:
        """Return class and groups, for the metadata of the file."""
        groups = [file_format.Group(tuple(g.parameters), {"lr": g.lr, **g.options}) for g in self.groups]
        return OptimizerDescription(self.kind, tuple(groups))


def read_optimizer(optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]) -> Optimizer:
    """Read an optimizer that was made on some of ``parameters``; those that need no gradient are left out.

    Args:
        parameters: all parameters of model and loss, by name.

    Raises: ExportError naming what is not supported.
    """
    kind = type(optimizer)
    if kind not in _KINDS:
        got = kind_of(optimizer) if isinstance(optimizer, torch.optim.Optimizer) else repr(optimizer)
        raise ExportError(f"optimizer must be torch.optim.SGD, Adam or AdamW made on the model's parameters, got {got}")
    for hooks in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"):
        if getattr(optimizer, hooks, None):
            raise ExportError(f"{kind.__name__} has hooks on its steps, which a file cannot run; remove them first")
    names = {id(tensor): key for key, tensor in parameters.items()}
    groups: list[Group] = []
    slots: dict[str, Tensor] = {}
    steps: dict[str, int] = {}
    without: set[str] = set()
    for number, torch_group in enumerate(optimizer.param_groups):
        group = _group(kind.__name__, number, torch_group, names)
        groups.append(group)
        tensors = {names[id(p)]: p for p in torch_group["params"] if p.requires_grad}
        for name, tensor in tensors.items():
            state = optimizer.state.get(tensor, {})
            steps[name] = int(state.get("step", 0))
            for slot in group.rule.slots:
                value = state.get(slot)
                if value is None:
                    without.add(name)
                slots[f"{name}/{slot}"] = _slot(name, slot, value, tensor)
    if not steps:
        raise ExportError(f"{kind.__name__} has no parameter that needs a gradient, so there is nothing to train")
    step = max(steps.values())
    late = {name: step - own for name, own in steps.items() if own != step}
    return Optimizer(kind.__name__, groups, slots, step, late, frozenset(without))


def _group(kind: str, number: int, group: Mapping[str, Any], names: Mapping[int, str]) -> Group:
    for option, reason in _REFUSED.items():
        if group.get(option):
            raise ExportError(f"{kind} with {option}=True is not supported: {reason}")
    options = {name: group[name] for name in _OPTIONS if name in group}
    for name, value in (("lr", group["lr"]), *options.items()):
        if any(isinstance(part, Tensor) for part in (value if isinstance(value, tuple) else (value,))):
            raise ExportError(
                f"{kind} with {name} as a tensor is not supported; give it as a number: {name}=float(...)"
            )
    trained = []
    for parameter in group["params"]:
        if id(parameter) not in names:
            raise ExportError(
                f"{kind} has a parameter of shape {list(parameter.shape)} in group {number} that neither the model nor "
                "the loss has; make the optimizer on the parameters of the model that is exported"
            )
        name = names[id(parameter)]
        if parameter.requires_grad:
            _check_parameter(name, parameter)
            trained.append(name)
    lr = float(group["lr"])
    rule: Rule
    if kind == "SGD":
        rule = SGD(
            **{name: options[name] for name in ("momentum", "dampening", "weight_decay", "nesterov", "maximize")}
        )
    else:
        decoupled = bool(group.get("decoupled_weight_decay", kind == "AdamW"))
        options["decoupled_weight_decay"] = decoupled
        betas = tuple(float(beta) for beta in options["betas"])
        rule = Adam((betas[0], betas[1]), options["eps"], options["weight_decay"], decoupled, options["maximize"])
        options["betas"] = list(betas)
    return Group(trained, rule, lr, options)


def _check_parameter(name: str, parameter: Tensor) -> None:
    """Refuse what an update in the file could not do as torch does. Raises: ExportError."""
    if not parameter.is_floating_point():
        raise ExportError(f"parameter '{name}' is of {parameter.dtype}; only floating-point ones can be trained here")
    if parameter.layout is not torch.strided:
        raise ExportError(f"parameter '{name}' is sparse; make it dense with .to_dense()")
    for hooks in ("_backward_hooks", "_post_accumulate_grad_hooks"):
        if getattr(parameter, hooks, None):
            raise ExportError(f"parameter '{name}' has hooks on its gradient, which a file cannot run; remove them")


def _slot(name: str, slot: str, value: Any, parameter: Tensor) -> Tensor:
    if value is None:
        return torch.zeros_like(parameter, requires_grad=False)
    if value.shape != parameter.shape or value.dtype != parameter.dtype:
        raise ExportError(
            f"the optimizer's {slot} of '{name}' must be {parameter.dtype} {list(parameter.shape)} as the parameter, "
            f"got {value.dtype} {list(value.shape)}"
        )
    return value.detach()  # type: ignore[no-any-return]
