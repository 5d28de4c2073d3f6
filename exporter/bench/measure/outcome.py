"""What became of one backend in a benchmark; no code looks for that in a text."""

from __future__ import annotations

from enum import StrEnum

from ort_ops.console.tone import Tone


class Outcome(StrEnum):
    """What became of a backend; the value is what the result file has."""

    TIMED = "timed"
    NOT_TIMED = "not timed"
    """Its result is right, but ours is not, so nothing was timed."""
    WRONG = "wrong result"
    UNAVAILABLE = "unavailable"
    """It does not run on this machine, or not in this element type."""

    @property
    def tone(self) -> Tone:
        """How a table shows it."""
        return {Outcome.TIMED: Tone.GOOD, Outcome.WRONG: Tone.BAD}.get(self, Tone.QUIET)
