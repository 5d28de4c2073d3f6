"""What `adopt` does for version 2 of MYLINEAR when asked, and what `lower` puts in its place. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ort_ops.operators.mylinear.patterns.version_2.fuse import ActivationPattern
from ort_ops.operators.mylinear.patterns.version_2.narrow import WeightPattern

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ort_ops.rewrite.choices import Choices


def chosen_patterns(choices: Choices) -> Sequence[Any]:
    """Return the patterns for what a user asks for."""
    patterns: list[Any] = [ActivationPattern()] if choices.fuse_activations else []
    return [*patterns, *([WeightPattern(choices.weight_dtype)] if choices.weight_dtype else [])]
