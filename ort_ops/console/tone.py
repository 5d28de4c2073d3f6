"""Text with a tone: what a table colors, on a terminal and on a page, follows from a field and not from the words."""

from __future__ import annotations

from enum import Enum


class Tone(Enum):
    """How a text stands out; the value is the class that a page gives it."""

    GOOD = "good"
    BAD = "bad"
    QUIET = "quiet"


class Toned(str):
    """A text for a table, which also says how it stands out.

    >>> verdict = Toned("ok", Tone.GOOD)
    >>> verdict, verdict.tone
    ('ok', <Tone.GOOD: 'good'>)
    """

    __slots__ = ("tone",)
    tone: Tone

    def __new__(cls, text: str, tone: Tone) -> Toned:
        """Make a text with a tone."""
        toned = super().__new__(cls, text)
        toned.tone = tone
        return toned
