"""The backends of the proof: every way to run a model, and to run one of its operators' nodes alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from exporter.verification.nodes.alone import NodeAlone
from exporter.verification.nodes.drawn import Types, rounded
from exporter.verification.reasons import CannotRunModel, LacksTypes, Reason
from ort_ops.analysis.evaluator import make_evaluator
from ort_ops.errors import MylinearError
from ort_ops.models.nodes import operator_nodes
from ort_ops.numerics.bound import ROUNDED, Arithmetic
from ort_ops.opdef.call import Call
from ort_ops.opdef.kit import OperatorKit

if TYPE_CHECKING:
    from ort_ops.training.trainer import Trainer

Array = NDArray[Any]
Feed = Mapping[str, Array]
Run = Callable[[Feed], list[Array]]
RunCall = Callable[[Call], Sequence[Array]]


class WholeModelError(MylinearError, RuntimeError):
    """A runtime cannot run a model because of an operator that is not ours; it can still run each node alone."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(str(reason))
        self.reason = reason


class RunError(MylinearError, RuntimeError):
    """A runtime opened a model, and fails to run it on an input that the float64 evaluation takes."""


class Backend:
    """A way to run the model, and to run one of its operators' nodes alone; with a reason, it is not available.

    Attributes:
        name: in the table of results.
        reason: why it is not available; None if it is.
        element_types: of floating-point numbers that it serves; None for all.
        has_backward: whether it has gradients.
        arithmetic: how its sums are made.
        is_definition: whether it is the reference itself, rounded; it proves nothing of any kernel.
    """

    def __init__(self, name: str, reason: Reason | None = None) -> None:
        self.name, self.reason = name, reason
        self.element_types: tuple[str, ...] | None = None
        self.has_backward = False
        self.arithmetic: Arithmetic = ROUNDED
        self.is_definition = False

    def why_not(self, kit: OperatorKit, types: Types) -> Reason | None:
        """Return why it does not run nodes of an operator in some element types; None if it does."""
        missing = () if self.element_types is None else missing_types(types, self.element_types)
        return LacksTypes(self.element_types or (), missing) if missing else None

    def open_model(self) -> Run:
        """Return a function that runs the model and returns its outputs; its resources are released with it.

        Both raise: WholeModelError where another operator than ours cannot be run.
        """
        raise NotImplementedError

    def open_trainer(self) -> Trainer | None:
        """Return a trainer of a training file, with this backend's kernels; None for a backend that it has not."""
        return None

    def open_node(self, node: NodeAlone, call: Call) -> RunCall:
        """Return a function that runs the node alone on calls of this one's key, and returns the node's outputs."""
        raise NotImplementedError

    def run_all(self, feed: Feed) -> dict[str, Array]:
        """Return the values of all nodes of the main graph."""
        raise NotImplementedError


def missing_types(types: Types, served: Collection[str]) -> tuple[str, ...]:
    """Return the names of floating-point types that are not served."""
    return tuple(sorted({t.name for t in types.values() if t.is_floating} - set(served)))


class _OperatorError(Exception):
    """Carries an operator's own exception out of the evaluator; never shown."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class EvaluatorBackend(Backend):
    """onnx's reference evaluator, with the operators computed by a function."""

    def __init__(self, name: str, model: onnx.ModelProto, compute: Callable[[OperatorKit, Call], Sequence[Array]]):
        """Prepare the backend.

        Args:
            model: without the definitions of the operators, which the evaluator would take instead.
            compute: gives the outputs that the node has.
        """
        super().__init__(name)
        self._model, self._compute = model, compute

    def open_model(self) -> Run:
        """Make an evaluator; see `Backend`."""
        kits = {id(found.kit): found.kit for found in operator_nodes(self._model)}
        for kit in kits.values():
            reason = self.why_not(kit, {})
            if reason is not None:
                raise WholeModelError(reason)
        run = self._open()
        return lambda feed: [np.asarray(output) for output in run(feed)]

    def open_node(self, node: NodeAlone, call: Call) -> RunCall:
        """Return the function itself."""
        return lambda of_call: self._compute(node.kit, of_call)

    def run_all(self, feed: Feed) -> dict[str, Array]:
        """Return the values of all nodes of the main graph."""
        return {key: np.asarray(value) for key, value in self._open()(feed, intermediate=True).items()}

    def _open(self) -> Callable[..., Any]:
        def compute(kit: OperatorKit, call: Call) -> Sequence[Array]:
            try:
                found = iter(self._compute(kit, call))
                return [next(found) if has else np.zeros(0) for has in call.has_output]
            except Exception as error:
                raise _OperatorError(error) from error

        try:
            evaluator = make_evaluator(self._model, compute)
        except Exception as error:  # it does not know every operator
            raise _cannot_evaluate(error) from error

        def run(feed: Feed, *, intermediate: bool = False) -> Any:
            try:
                with np.errstate(all="ignore"):
                    return evaluator.run(None, dict(feed), intermediate=intermediate)
            except _OperatorError as error:
                raise error.cause from None
            except Exception as error:  # nor every use of one
                raise _cannot_evaluate(error) from error

        return run


def _cannot_evaluate(error: Exception) -> WholeModelError:
    return WholeModelError(CannotRunModel("onnx's reference evaluator cannot take the model", first_line(error)))


def reference_outputs(kit: OperatorKit, call: Call) -> list[Array]:
    """Return the outputs that a node has by the operator's definition, rounded to their element types."""
    results = kit.reference(call)
    return [rounded(r, call.output_type(i)) for i, r in enumerate(results) if call.has_output[i]]


class ReferenceBackend(EvaluatorBackend):
    """The definition itself: what rounding the exact result costs."""

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__("reference", model, lambda kit, call: reference_outputs(kit, call))
        self.is_definition = True


def first_line(error: Exception) -> str:
    """Return the first line of what an exception says, or its type where it says nothing."""
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
