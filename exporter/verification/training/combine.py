"""Put together what was found of a training file: its step, and the model in eval mode."""

from __future__ import annotations

from dataclasses import replace

from exporter.verification.reasons import GivenNumbers, Note, StepNotProved, Unbounded
from exporter.verification.result import Verification
from exporter.verification.row import Part, Row
from exporter.verification.training.prepare import TrainingModel
from ort_ops.training.file_format import GRADIENTS, TrainingMetadata

EVAL_MODE = "eval mode"
LIMITS = (
    "a training file: every backend was compared with the step that the file states; that this is torch's step, only "
    "the comparison at its export says"
)
_LIMITS_OF_GRADIENTS = (
    "a file of gradients: every backend was compared with the graph in the file; that its gradients are torch's, only "
    "the comparison at its export says"
)


def combine(training: TrainingModel, step: Verification, eval_mode: Verification | None) -> Verification:
    """Return one result of both; the rows of the model in eval mode say that they are."""
    remarks: list[Note] = [GivenNumbers(training.given_numbers)] if training.given_numbers else []
    result = replace(
        step,
        remarks=[*remarks, *step.remarks, *([Unbounded(step.unbounded)] if step.unbounded else [])],
        training=_LIMITS_OF_GRADIENTS if training.metadata.kind == GRADIENTS else LIMITS,
        step_not_proved=None if _is_proved(step, training.metadata) else StepNotProved(training.still_random),
    )
    if eval_mode is None:
        return result
    untested = {f"{EVAL_MODE}, {path}": reason for path, reason in eval_mode.reasons_untested.items()}
    return replace(
        result,
        rows=[*step.rows, *map(_in_eval_mode, eval_mode.rows)],
        reasons_untested=step.reasons_untested | untested,
        remarks=[*result.remarks, *(note for note in eval_mode.remarks if note not in result.remarks)],
        num_nodes=step.num_nodes + eval_mode.num_nodes,
    )


def _is_proved(step: Verification, metadata: TrainingMetadata) -> bool:
    """Whether some backend but the definition itself ran the whole step within a bound that says something.

    It must say something of the loss, and of some next state or gradient.
    """
    results = [*metadata.feeds, *metadata.outputs, *(metadata.gradients if metadata.kind == GRADIENTS else ())]
    if metadata.loss in step.unbounded or {*results} <= {*step.unbounded}:
        return False
    ran = [row for row in step.rows if row.part is Part.WHOLE and row.backend != "reference" and not row.is_edge]
    return any(row.comparison is not None and row.comparison.is_within_bound for row in ran)


def _in_eval_mode(row: Row) -> Row:
    part = Part.EVAL_MODE if row.part is Part.WHOLE else row.part
    return replace(row, inputs=f"{EVAL_MODE}, {row.inputs}", part=part)
