"""Define operators for one test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import exporter
from exporter.definition.operator import TorchOperator

from .functions import DOMAIN, W, X, floor_sum


@pytest.fixture
def define() -> Iterator[Callable[..., TorchOperator]]:
    """Define an operator for one test."""
    made: list[TorchOperator] = []

    def one(name: str, function: Callable[..., Any] = floor_sum, **options: Any) -> TorchOperator:
        options = {"examples": [(X, W)], **options}
        made.append(exporter.operator(f"{DOMAIN}::{name}", **options)(function))
        return made[-1]

    yield one
    for each in made:
        each.remove()
