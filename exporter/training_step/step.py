"""Make the graph of one training step: whole, or in two halves, sums of gradients and the update by them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx
import torch
from torch import Tensor

from exporter.errors import ExportError
from exporter.to_onnx.example_call import distinct_names
from exporter.training_step.forward import Values
from exporter.training_step.graphs import make_model, store
from exporter.training_step.optimizers.arithmetic import divide
from exporter.training_step.optimizers.read import Optimizer
from exporter.training_step.trace import Program, Traced, trace
from ort_ops.training.file_format import APPLY, GRAD, GRADIENT, NEXT, STEP, TrainingMetadata


@dataclass(frozen=True)
class Plan:
    """What a step does with the tensors of a network, and how it calls its other values.

    Attributes:
        program: the exported network.
        optimizer: with the parameters that a gradient reaches.
        buffers: names of the buffers that a step changes.
        constants: all parameters and buffers that no step changes, by name.
        step, lr, loss, count: names.
    """

    program: Program
    optimizer: Optimizer
    buffers: list[str]
    constants: dict[str, Tensor]
    step: str
    lr: str
    loss: str
    count: str

    @property
    def trained(self) -> list[str]:
        """Names of the parameters that are trained."""
        return self.optimizer.parameters

    def state(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Return parameters and buffers by name."""
        return {name: self.program.network.state[name] for name in names}


@dataclass(frozen=True)
class StepFile:
    """A training file that is made, and neither compared with torch nor written.

    Attributes:
        proto: the model, with constants and without first values.
        first: first values of inputs, by name.
        traced: what it was made of.
        metadata: what its inputs and outputs are.
        plan: what it came from.
    """

    proto: onnx.ModelProto
    first: dict[str, Tensor]
    traced: Traced
    metadata: TrainingMetadata
    plan: Plan


def make_plan(program: Program, optimizer: Optimizer) -> Plan:
    """Find out what a step changes, and leave parameters out of the optimizer that no gradient reaches.

    torch leaves them as they are, without weight decay.

    Raises: ExportError where no gradient reaches any.
    """
    network = program.network
    wanted = set(optimizer.parameters)
    reached, changed = program.find_changes([name for name in network.parameters if name in wanted])
    if not reached:
        raise ExportError("the loss depends on no parameter that the optimizer has, so there is nothing to train")
    optimizer = optimizer.only(reached)
    taken = {*network.state, *optimizer.slots, *network.given, *(name + GRADIENT for name in reached)}
    names = distinct_names(["step", "lr", "loss", "count"], taken)
    constants = {name: tensor for name, tensor in network.state.items() if name not in {*reached, *changed}}
    return Plan(program, optimizer, changed, constants, *names)


def make_step(plan: Plan, opset: int) -> StepFile:
    """Make a file of kind ``step``, which has the gradients as outputs still, to be compared. Raises: ExportError."""
    first = {**plan.state([*plan.trained, *plan.buffers]), **plan.optimizer.slots, **_counters(plan)}
    changing = [name for name in first if name != plan.lr]

    def one_step(values: Values) -> Mapping[str, Tensor]:
        loss, grads, buffers = plan.program.gradients(values, plan.trained)
        with torch.no_grad():
            nexts = {**buffers, **_update(plan, values, grads)}
        shown = {name + GRADIENT: grad for name, grad in grads.items()}
        return {plan.loss: loss, **{name + NEXT: nexts[name] for name in changing}, **shown}

    metadata = TrainingMetadata(
        kind=STEP,
        loss=plan.loss,
        inputs=tuple(plan.program.network.inputs),
        targets=tuple(plan.program.network.targets),
        ranges=plan.program.network.ranges,
        feeds={name + NEXT: name for name in changing},
        parameters=tuple(plan.trained),
        buffers=tuple(plan.buffers),
        optimizer_state=tuple(plan.optimizer.slots),
        step=plan.step,
        lr=plan.lr,
        optimizer=plan.optimizer.describe(),
    )
    return _make_file(plan, one_step, first, metadata, opset)


def make_halves(plan: Plan, accumulate: int, apply: str, opset: int) -> tuple[StepFile, StepFile]:
    """Make the files of kinds ``grad`` and ``apply``.

    Args:
        accumulate: how many runs of the first one of the second follows.
        apply: name of the second file.

    Raises: ExportError.
    """
    names = {name: name + GRADIENT for name in plan.trained}
    sums = {grad: torch.zeros_like(plan.state([name])[name], requires_grad=False) for name, grad in names.items()}
    return _make_grad(plan, names, sums, accumulate, apply, opset), _make_apply(plan, names, sums, accumulate, opset)


def _make_grad(
    plan: Plan, names: Mapping[str, str], sums: Mapping[str, Tensor], accumulate: int, apply: str, opset: int
) -> StepFile:
    summed = {**plan.state(plan.buffers), **sums}

    def sum_up(values: Values) -> Mapping[str, Tensor]:
        loss, grads, buffers = plan.program.gradients(values, plan.trained)
        with torch.no_grad():
            nexts = {**buffers, **{names[name]: values[names[name]] + grad for name, grad in grads.items()}}
        return {plan.loss: loss, **{name + NEXT: nexts[name] for name in summed}}

    metadata = TrainingMetadata(
        kind=GRAD,
        loss=plan.loss,
        inputs=tuple(plan.program.network.inputs),
        targets=tuple(plan.program.network.targets),
        ranges=plan.program.network.ranges,
        feeds={name + NEXT: name for name in summed},
        parameters=tuple(plan.trained),
        buffers=tuple(plan.buffers),
        optimizer=plan.optimizer.describe(),
        gradients={grad: name for name, grad in names.items()},
        accumulate=accumulate,
        apply=apply,
    )
    return _make_file(plan, sum_up, {**plan.state(plan.trained), **summed}, metadata, opset)


def _make_apply(
    plan: Plan, names: Mapping[str, str], sums: Mapping[str, Tensor], accumulate: int, opset: int
) -> StepFile:
    first = {**plan.state(plan.trained), **plan.optimizer.slots, **_counters(plan)}
    changing = [name for name in first if name != plan.lr]

    def apply_sums(values: Values) -> Mapping[str, Tensor]:
        with torch.no_grad():
            grads = {name: divide(values[grad], values[plan.count]) for name, grad in names.items()}
            nexts = _update(plan, values, grads)
        return {name + NEXT: nexts[name] for name in changing}

    metadata = TrainingMetadata(
        kind=APPLY,
        feeds={name + NEXT: name for name in changing},
        parameters=tuple(plan.trained),
        optimizer_state=tuple(plan.optimizer.slots),
        step=plan.step,
        lr=plan.lr,
        optimizer=plan.optimizer.describe(),
        gradients={grad: name for name, grad in names.items()},
        accumulate=accumulate,
        count=plan.count,
    )
    given = {**sums, plan.count: torch.tensor(float(accumulate), dtype=torch.float64)}
    return _make_file(plan, apply_sums, first, metadata, opset, given)


def _make_file(
    plan: Plan,
    function: Callable[[Values], Mapping[str, Tensor]],
    first: Mapping[str, Tensor],
    metadata: TrainingMetadata,
    opset: int,
    given: Mapping[str, Tensor] | None = None,
) -> StepFile:
    """Record a function of the state and of what is given: by default, the network's example and constants."""
    program = plan.program if given is None else None
    constants = plan.constants if given is None else {}
    others = {**plan.program.network.given, **constants} if given is None else given
    traced = trace(function, {**first, **others}, program)
    proto = make_model(traced, opset)
    store(proto, constants, as_constants=True)
    return StepFile(proto, dict(first), traced, metadata, plan)


def _counters(plan: Plan) -> dict[str, Tensor]:
    """Return the first values of the number of steps and of the learning rate."""
    lrs = [group.lr for group in plan.optimizer.groups]
    lr = torch.tensor(lrs if len(lrs) > 1 else lrs[0], dtype=torch.float64)
    return {plan.step: torch.tensor(plan.optimizer.step), plan.lr: lr}


def _update(plan: Plan, values: Values, grads: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the next parameters, slots and number of steps."""
    optimizer, lr = plan.optimizer, values[plan.lr]
    step = values[plan.step] + 1
    nexts = {plan.step: step}
    for index, group in enumerate(optimizer.groups):
        shared: dict[int, dict[str, Tensor]] = {}
        for name in group.parameters:
            late = optimizer.late.get(name, 0)
            if late not in shared:
                shared[late] = group.rule.scalars(step - late if late else step, lr[index] if lr.ndim else lr)
            slots = {f"{name}/{slot}": values[f"{name}/{slot}"] for slot in group.rule.slots}
            is_first = name in optimizer.without_slots
            now, kept = values[name], tuple(slots.values())
            nexts[name], after = group.rule.update(now, grads[name], kept, shared[late], is_first)
            nexts |= dict(zip(slots, after, strict=True))
    return nexts
