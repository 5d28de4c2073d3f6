"""Compare one step of each training file with torch, from two states, before anything is written.

The first trial is the example, from the state that the file holds. The second has another batch, other learning rates
and a state in which nothing is left as it began: parameters with noise, buffers after a step, and slots that are drawn.
There a slot in the place of another, a lost weight decay and a wrong power of a beta show. It has a row of zeros too,
for which a lost epsilon leaves nothing to divide by. Where that trial proves nothing for a quantity, as where the model
divides by 0 itself, others follow that are closer to the example.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from exporter.errors import ExportError
from exporter.torch_ops.tensors import to_numpy
from exporter.training_step.check.graph_check import GraphCheck
from exporter.training_step.check.randomness import refuse_other_randomness
from exporter.training_step.check.states import State, States
from exporter.training_step.check.torch_step import TorchStep
from exporter.training_step.step import StepFile
from ort_ops.numerics.compare import Comparison
from ort_ops.training.file_format import APPLY, GRAD, GRADIENT, STEP, TrainingMetadata

Array = NDArray[Any]


def check_step(file: StepFile, shown: onnx.ModelProto, optimizer: torch.optim.Optimizer) -> dict[str, Comparison]:
    """Compare a step with torch, and return the worst comparison of each quantity, by the name of its output.

    Quantities are the loss, each gradient, and each next value, in this order.

    Args:
        file: as it will be written.
        shown: the same graph, with the gradients as outputs.
        optimizer: torch's own; it and the model stay as they are.

    Raises: ExportError naming the first quantity that is not what torch computes, or that cannot be compared.
    """
    refuse_other_randomness(file.traced.graph)
    metadata, network, read = file.metadata, file.plan.program.network, file.plan.optimizer
    own = {output.name for output in file.proto.graph.output}
    more = [output.name for output in shown.graph.output if output.name not in own]
    check = GraphCheck(file.proto, _words(metadata, more), shown)
    torch_step = TorchStep(network, optimizer, read)
    sums = metadata.gradients if metadata.kind in (GRAD, APPLY) else {}
    states = States(network, read, sums, metadata.accumulate or 1)
    before = torch_step.state()

    def compare(state: State) -> dict[str, Tensor]:
        found, grads = _run(metadata, torch_step, state)
        after = torch_step.state()
        _check_constants(file, state.tensors, after)
        found |= {name: grads[name.removesuffix(GRADIENT)] for name in more}
        expected = {name: to_numpy(value) for name, value in found.items()}
        for output, name in metadata.feeds.items():
            if name == metadata.step:
                expected[output] = np.array(state.step + 1)
            elif output not in expected:
                expected[output] = to_numpy(after[name])
        feed = _feed(metadata, network.given, file.proto, state)
        check.trial(state.what, feed, expected, proves=not state.is_first)
        return grads

    grads = compare(states.first(before, draw_sums=metadata.kind == APPLY))
    for state in states.others(torch_step.state(), grads):
        torch_step.set(state.tensors, state.step, state.lrs)
        compare(state)
        if check.is_proved:
            break
    return check.finish()


def _check_constants(file: StepFile, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
    """Check that torch changes nothing that the file holds as a constant. Raises: ExportError."""
    for name in file.plan.constants:
        if name in before and not torch.equal(torch.nan_to_num(before[name]), torch.nan_to_num(after[name])):
            raise ExportError(f"torch changes '{name}' in a step, and the exported step holds it as a constant")


def _words(metadata: TrainingMetadata, gradients: list[str]) -> dict[str, str]:
    words = {metadata.loss: "loss"} if metadata.loss else {}
    words |= {name: f"gradient of '{name.removesuffix(GRADIENT)}'" for name in gradients}
    return words | {output: f"next value of '{name}'" for output, name in metadata.feeds.items()}


def _run(
    metadata: TrainingMetadata, torch_step: TorchStep, state: State
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Do in torch what the file does; return loss and next sums by output, and gradients by parameter."""
    if metadata.kind == APPLY:
        grads = {name: state.tensors[sums] / state.count for sums, name in metadata.gradients.items()}
        torch_step.update(grads)
        return {}, grads
    loss, grads = torch_step.backward(state.inputs)
    found = {metadata.loss: loss}
    if metadata.kind == STEP:
        torch_step.update(grads)
    else:
        outputs = {name: output for output, name in metadata.feeds.items()}
        found |= {outputs[sums]: state.tensors[sums] + grads[name] for sums, name in metadata.gradients.items()}
    return found, grads


def _feed(
    metadata: TrainingMetadata, given: Mapping[str, Tensor], model: onnx.ModelProto, state: State
) -> dict[str, Array]:
    """Return a value for each input of the file."""
    feed = {name: to_numpy(tensor) for name, tensor in zip(given, state.inputs, strict=True)}
    feed |= {
        metadata.lr: np.array(state.lrs if len(state.lrs) > 1 else state.lrs[0]),
        metadata.step: np.array(state.step),
        metadata.count: np.array(float(state.count)),
    }
    inputs = [value.name for value in model.graph.input]
    return {name: feed[name] if name in feed else to_numpy(state.tensors[name]) for name in inputs}
