"""Text with a tone: the color in a table, on a terminal or a page, comes from a field and not from the words."""

from __future__ import annotations

from enum import Enum


class Tone(Enum):
    """How a text stands out; the value is its class on a page."""

    GOOD = "good"
    BAD = "bad"
    QUIET = "quiet"


class Toned(str):
    """A text for a table, with how it stands out.

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
