"""What a user may ask of `adopt` beyond what is always done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Choices:
    """What `adopt` is asked for. `OperatorKit.optional_patterns` says what an operator does about it.

    Attributes:
        fuse_activations: whether an operator takes in the activation that follows it.
        weight_dtype: name of the element type to store float32 weights in; empty for their own.
    """

    fuse_activations: bool = False
    weight_dtype: str = ""

    def __bool__(self) -> bool:
        return self.fuse_activations or bool(self.weight_dtype)
