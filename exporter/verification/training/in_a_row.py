"""Several steps in a row, each from the state that the one before left: in float64 with bounds, and on backends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from ort_ops.analysis.evaluation import Evaluation
from ort_ops.analysis.float64_run import Float64Run
from ort_ops.training.file_format import FUNCTION_DOMAIN, STEP

if TYPE_CHECKING:
    from exporter.verification.training.prepare import TrainingModel
    from ort_ops.training.trainer import Trainer

Array = NDArray[Any]
Feed = Mapping[str, Array]
_ONE = "OneStep"


def batch_name(step: int, name: str) -> str:
    """Return what an input of the user is called in a feed of several steps.

    >>> batch_name(2, "x")
    'batch 2/x'
    """
    return f"batch {step}/{name}"


@dataclass(frozen=True)
class InARow:
    """Steps in a row. A feed has the first state, and each step's batch under `batch_name`.

    The results are the losses of all steps, and the last state.
    """

    training: TrainingModel
    steps: int

    @property
    def losses(self) -> list[str]:
        """Names of the losses in the evaluation."""
        loss = self.training.metadata.loss
        return [batch_name(step, loss) for step in range(self.steps)] if loss else []

    def first(self, feed: Feed) -> Feed:
        """Return the feed of the first step."""
        return {**self._state(feed), **self._batch(feed, 0)}

    def run(self, run: Callable[[Feed], Sequence[Array]], feed: Feed) -> list[Array]:
        """Run the steps by a function that runs one, as any language would: each output becomes the input it feeds."""
        metadata = self.training.metadata
        names = [value.name for value in self.training.model.graph.output]
        state, losses = dict(self._state(feed)), []
        for step in range(self.steps):
            results = dict(zip(names, run({**state, **self._batch(feed, step)}), strict=True))
            losses += [results[metadata.loss]] if metadata.loss else []
            state |= {name: results[output] for output, name in metadata.feeds.items()}
        return [*losses, *(state[name] for name in metadata.feeds.values())]

    @property
    def has_trainer(self) -> bool:
        """Whether `ort_ops.Trainer` runs such steps."""
        return self.training.metadata.kind == STEP

    def run_trainer(self, trainer: Trainer, feed: Feed) -> list[Array]:
        """Run the steps by a trainer, which may overwrite the state in place."""
        metadata = self.training.metadata
        trainer.load_state(self._state(feed))
        loss_type = next(
            helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            for value in self.training.model.graph.output
            if value.name == metadata.loss
        )
        losses = [np.asarray(trainer.step(**self._batch(feed, i)), loss_type) for i in range(self.steps)]
        state = trainer.state()
        return [*losses, *(state[name] for name in metadata.feeds.values())]

    def evaluate(self, feed: Feed) -> Evaluation:
        """Evaluate the steps in float64, with bounds of how far rounding errors of all steps may lead. Raises: as
        `Float64Run`.
        """
        return replace(self._float64(feed), calls=[], values={})

    @cached_property
    def _float64(self) -> Float64Run:
        return Float64Run(unrolled(self.training, self.steps))

    def _state(self, feed: Feed) -> dict[str, Array]:
        return {name: feed[name] for name in self.training.metadata.stored}

    def _batch(self, feed: Feed, step: int) -> dict[str, Array]:
        prefix = batch_name(step, "")
        return {name.removeprefix(prefix): value for name, value in feed.items() if name.startswith(prefix)}


def unrolled(training: TrainingModel, steps: int) -> onnx.ModelProto:
    """Return a model of several steps, which calls one step as a function; its weights are not copied."""
    model, metadata = training.model, training.metadata
    graph = model.graph
    inputs = [value.name for value in graph.input]
    constants = [tensor for tensor in graph.initializer if tensor.name not in inputs]
    taken = [*inputs, *(tensor.name for tensor in constants)]
    outputs = [value.name for value in graph.output]
    function = helper.make_function(FUNCTION_DOMAIN, _ONE, taken, outputs, graph.node, model.opset_import)
    nodes, current = [], {name: name for name in taken}
    losses = []
    state = {*metadata.stored}
    for step in range(steps):
        now = [name if name in state or name not in inputs else batch_name(step, name) for name in taken]
        results = [batch_name(step, name) for name in outputs]
        nodes.append(helper.make_node(_ONE, [current.get(n, n) for n in now], results, domain=FUNCTION_DOMAIN))
        losses += [batch_name(step, metadata.loss)] if metadata.loss else []
        current |= {name: batch_name(step, output) for output, name in metadata.feeds.items()}
    ends = [*losses, *(batch_name(steps - 1, output) for output in metadata.feeds)]
    types = {value.name: value for value in (*graph.input, *graph.output)}
    stated = [_named(types[name], name) for name in inputs if name in state]
    stated += [_named(types[name], batch_name(i, name)) for i in range(steps) for name in inputs if name not in state]
    found_types = [_named(types[name.partition("/")[2]], name) for name in ends]
    whole = helper.make_graph(nodes, "steps", stated, found_types)
    found = onnx.ModelProto(ir_version=model.ir_version)
    found.opset_import.extend(model.opset_import)
    if all(entry.domain != FUNCTION_DOMAIN for entry in model.opset_import):
        found.opset_import.append(helper.make_opsetid(FUNCTION_DOMAIN, 1))
    found.graph.CopyFrom(whole)
    found.graph.initializer.extend(constants)
    found.functions.extend([*model.functions, function])
    return found


def _named(value: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    found = onnx.ValueInfoProto()
    found.CopyFrom(value)
    found.name = name
    return found
