"""Why something did not run, was not tested, or needs a remark: classes with fields, whose ``str`` is a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


def listed(names: Sequence[str], most: int = 3) -> str:
    """Return the first names as nodes, and how many more there are.

    >>> listed(["a", "b"]), listed(["a", "b", "c"], 1)
    ("node 'a', node 'b'", "node 'a' and 2 more")
    """
    shown = ", ".join(f"node '{name}'" for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


@dataclass(frozen=True)
class _Message:
    """A reason that is a text of another part, such as a runtime."""

    message: str

    def __str__(self) -> str:
        return self.message


class Unavailable(_Message):
    """A backend is not on this machine; ``message`` says why, and the remedy."""


@dataclass(frozen=True)
class LacksTypes:
    """A backend does not serve all element types of the model."""

    served: tuple[str, ...]
    missing: tuple[str, ...]

    def __str__(self) -> str:
        return f"serves {' and '.join(self.served)}, the model has {' and '.join(self.missing)}"


@dataclass(frozen=True)
class LacksOperator:
    """A backend has no implementation of some operators; ``what`` is what it lacks of them."""

    operators: tuple[str, ...]
    what: str

    def __str__(self) -> str:
        return f"there is no {self.what} of {' and '.join(self.operators)}"


@dataclass(frozen=True)
class CannotRunModel:
    """A runtime cannot run the model, because of an operator that is not ours; ``message`` is the runtime's."""

    runtime: str
    message: str

    def __str__(self) -> str:
        return f"{self.runtime}: {self.message}"


@dataclass(frozen=True)
class NothingRan:
    """No node could be run alone."""

    def __str__(self) -> str:
        return "no node could be run alone"


class NoGradients(_Message):
    """Gradients cannot be checked; ``message`` says why."""


class NotDrawn(_Message):
    """No numbers can be drawn for an input of the model; ``message`` names it and says why."""


class CannotEvaluate(_Message):
    """The model does not run on an input: in float64, or in onnxruntime."""


Reason = (
    Unavailable | LacksTypes | LacksOperator | CannotRunModel | NothingRan | NoGradients | NotDrawn | CannotEvaluate
)


@dataclass(frozen=True)
class NoCall:
    """A node received nothing, and what it may receive cannot be drawn.

    Attributes:
        cause: why the whole model was not run; None where it was, and did not reach the node.
        computed: words of the inputs whose shape is not known, because the model computes them.
    """

    cause: Reason | None
    computed: tuple[str, ...]

    def __str__(self) -> str:
        why = "no input of the model reached it" if self.cause is None else f"the whole model was not run: {self.cause}"
        return f"{why}, and its {' and '.join(self.computed)} is computed, so that it cannot be drawn"


@dataclass(frozen=True)
class NothingProved:
    """A node ran, and no bound says anything of its outputs of these names."""

    outputs: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.outputs:
            return f"whatever it gives for {' and '.join(self.outputs)} is within the bound"
        return "whatever it gives is within its bound"


@dataclass(frozen=True)
class NoBackend:
    """No backend here computes a node but the definition itself; ``reasons`` says why, by backend."""

    reasons: tuple[tuple[str, Reason], ...] = ()

    def __str__(self) -> str:
        found = "; ".join(f"{backend}: {reason}" for backend, reason in self.reasons)
        return "no backend here runs it but its own definition" + (f" ({found})" if found else "")


Untested = NoCall | NothingProved | NoBackend


@dataclass(frozen=True)
class WholeModelNotRun:
    """The whole model was not run on some inputs."""

    inputs: tuple[str, ...]
    cause: Reason
    suggests_inputs: bool

    def __str__(self) -> str:
        remedy = "; give real inputs by --inputs file.npz" if self.suggests_inputs else ""
        return f"the whole model was not run on {', '.join(self.inputs)}: {self.cause}{remedy}"


@dataclass(frozen=True)
class RanOnDrawnNumbers:
    """Some nodes ran on numbers that were drawn for them."""

    nodes: tuple[str, ...]
    model_ran: bool

    def __str__(self) -> str:
        why = f"no input of the model reached {'it' if len(self.nodes) == 1 else 'them'}"
        return f"{listed(self.nodes)} ran alone on drawn numbers, because " + (
            why if self.model_ran else "the model was not run"
        )


@dataclass(frozen=True)
class GivenNumbers:
    """Some nodes of a training step draw random numbers, which were inputs here."""

    nodes: tuple[str, ...]

    def __str__(self) -> str:
        which = "which draws random numbers, was" if len(self.nodes) == 1 else "which draw random numbers, were"
        return f"{listed(self.nodes)}, {which} given numbers: the same on all backends"


@dataclass(frozen=True)
class Unbounded:
    """Results of a training step of which no bound says anything, on any input."""

    results: tuple[str, ...]

    def __str__(self) -> str:
        more = f" and {len(self.results) - 5} more" if len(self.results) > 5 else ""
        names = ", ".join(f"'{name}'" for name in self.results[:5])
        return f"no bound says anything of {names}{more}: rounding errors alone are as large as these are"


@dataclass(frozen=True)
class StepNotProved:
    """No backend but the definition ran the whole step within a bound that says something.

    Attributes:
        random: nodes that draw other numbers in each run, as text.
    """

    random: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.random:
            which = ", ".join(self.random[:3]) + (f" and {len(self.random) - 3} more" if len(self.random) > 3 else "")
            return f"the whole step was not run: each run draws other numbers at {which}"
        return "no backend ran the whole step within a bound that says something of it"


Note = WholeModelNotRun | RanOnDrawnNumbers | GivenNumbers | Unbounded


@dataclass(frozen=True)
class Divergence:
    """Where a backend leaves its bound first.

    Attributes:
        node: label of the node of the main graph, or of the node that ran alone.
        op_type: of the node of the main graph; empty for a node that ran alone.
        inner: the operator's node in its bodies, or in functions that it calls.
        holds: the operators' nodes that it holds, where none of them alone leaves its bound.
    """

    node: str
    op_type: str = ""
    inner: str = ""
    holds: tuple[str, ...] = ()

    @property
    def nodes(self) -> tuple[str, ...]:
        """Labels of the nodes that are wrong."""
        return (self.node, self.inner) if self.inner else (self.node,)

    def __str__(self) -> str:
        if not self.op_type:
            return f"at node '{self.node}'"
        inner = f", in it at node '{self.inner}'" if self.inner else ""
        return f"first at node '{self.node}' ({self.op_type}){inner}" + (
            f", which holds {listed(self.holds)}" if self.holds else ""
        )


@dataclass(frozen=True)
class Unknown:
    """A backend leaves its bound, and cannot show its inner values."""

    error: str

    @property
    def nodes(self) -> tuple[str, ...]:
        """None are known."""
        return ()

    def __str__(self) -> str:
        return f"its inner values could not be captured ({self.error})"


Where = Divergence | Unknown
