"""Make states and batches to try a training file on: the stored state, states that training reaches, and batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from exporter.verification.inputs import Case, Feed
from exporter.verification.training.in_a_row import InARow, batch_name
from exporter.verification.training.prepare import TrainingModel
from ort_ops.models.inputs.draw import InputDrawer, NoExampleError, read_examples
from ort_ops.training.file_format import TrainingMetadata

Array = NDArray[Any]
Give = Callable[[np.random.Generator], Feed]
Run = Callable[[Feed], Sequence[Array]]
STEPS = 3
"""How many steps are run in a row, and how many before a later state."""
_LATER, _ROW = "a later state", f"{STEPS} steps in a row"


class StateDrawer:
    """Draw states of one training file.

    A state is not drawn number by number: what is a mean of squares may not be negative, and a count must be whole. So
    a later state is one that some steps reach, with every number then a little larger or smaller, of the same sign.
    """

    def __init__(self, training: TrainingModel, run: Run) -> None:
        self._metadata, self._first = training.metadata, training.state
        self._outputs = [value.name for value in training.model.graph.output]
        self._run = run

    def after_steps(self, give: Give, rng: np.random.Generator) -> Feed:
        """Return the state after some steps of the stored one."""
        state = dict(self._first)
        for _ in range(STEPS if self._metadata.feeds else 0):
            found = self._run({**state, **give(rng)})
            if not found:
                raise NoExampleError("no kernel here opens the step, so that no later state can be reached")
            results = dict(zip(self._outputs, found, strict=True))
            state |= {name: results[output] for output, name in self._metadata.feeds.items()}
        return state

    def later(self, give: Give, rng: np.random.Generator) -> Feed:
        """Return another state: after some steps, all numbers varied, with another learning rate, much later."""
        state = {name: _varied(value, rng, 0.1) for name, value in self.after_steps(give, rng).items()}
        step, lr = self._metadata.step, self._metadata.lr
        if step:
            state[step] = np.asarray(state[step] + rng.integers(1, 1000), np.int64)
        if lr:
            rates = np.where(self._first[lr] > 0, self._first[lr], 1e-3)
            state[lr] = _varied(np.asarray(rates), rng, 0.5)
        return state


def make_training_cases(
    training: TrainingModel,
    drawer: InputDrawer,
    sizes: Sequence[int],
    examples: Mapping[str, Feed],
    seed: int,
    run: Run,
) -> list[Case]:
    """Return the cases to try: each batch on the stored state, some on later states, and steps in a row.

    Args:
        drawer: for the inputs without first values.
        sizes: of drawn batches.
        examples: real batches by the name of their file, as `example_feeds` returns them.
        run: runs the step, to reach later states.
    """
    metadata, states = training.metadata, StateDrawer(training, run)
    sources: list[tuple[str, int, Give]] = [
        (label, _rows(feed), lambda rng, f=feed: _completed(training, drawer, f, rng))  # type: ignore[misc]
        for label, feed in examples.items()
    ]
    sources += [(f"batch {size}", size, lambda rng, s=size: _drawn(metadata, drawer, s, rng)) for size in sizes]  # type: ignore[misc]

    def case(number: int, kind: str) -> Case:
        label, rows, give = sources[number]

        def attempt() -> Feed:
            rng = np.random.default_rng([seed, number, *kind.encode()])
            if kind == _LATER:
                return {**states.later(give, rng), **give(rng)}
            if kind == _ROW:
                batches = [give(rng) for _ in range(STEPS)]
                named = {batch_name(i, name): value for i, b in enumerate(batches) for name, value in b.items()}
                return {**states.later(give, rng), **named}
            return give(rng)

        row = InARow(training, STEPS) if kind == _ROW else None
        return Case(", ".join(filter(None, (label, kind))), [attempt], rows * (STEPS if row else 1), row)

    numbers = range(len(sources))
    cases = [case(number, "") for number in numbers]
    cases += [case(number, _LATER) for number in [*reversed(numbers)][::2] if metadata.stored]
    if metadata.feeds and sources:
        cases.append(case(max(0, len(sources) - 2), _ROW))
    return cases


def example_feeds(training: TrainingModel, files: Sequence[str | Path]) -> dict[str, Feed]:
    """Read examples of the inputs and targets, and of any state, from files. Raises: ExampleError."""
    if not files:
        return {}
    given = onnx.ModelProto()
    inside = set(training.given_numbers_inputs)
    given.graph.input.extend(value for value in training.model.graph.input if value.name not in inside)
    for name in training.state:
        given.graph.initializer.add(name=name)
    return {Path(file).name: read_examples(file, given) for file in files}


def _completed(training: TrainingModel, drawer: InputDrawer, feed: Feed, rng: np.random.Generator) -> Feed:
    """Return an example with the random numbers that the step takes."""
    if not training.given_numbers:
        return feed
    return {**drawer.draw(_rows(feed), rng), **feed}


def _drawn(metadata: TrainingMetadata, drawer: InputDrawer, size: int, rng: np.random.Generator) -> Feed:
    feed: dict[str, Array] = dict(drawer.draw(size, rng))
    if metadata.count:
        feed[metadata.count] = np.asarray(metadata.accumulate, np.float64)
    return feed


def _varied(value: Array, rng: np.random.Generator, by: float) -> Array:
    """Return floating-point numbers, each larger or smaller by up to a part of itself."""
    if value.dtype.kind not in "fV":
        return value
    return np.asarray(value * rng.uniform(1 - by, 1 + by, value.shape)).astype(value.dtype)


def _rows(feed: Feed) -> int:
    return max((array.shape[0] for array in feed.values() if array.ndim), default=1)
