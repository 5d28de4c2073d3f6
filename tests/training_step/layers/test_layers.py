"""Each layer trains right, or is refused by name, as docs/training_layers.md says.

``pytest -m slow tests/training_step/layers`` tries all, for about 15 minutes.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training_step.layers.cases import CASES
from tests.training_step.layers.trial import DTYPES, PAGE, REFUSED, RIGHT, rows, try_layer

NAMED = {case.name: case for case in CASES}
QUICK = [
    ("Linear, frozen", "float64"),
    ("GELU", "float32"),
    ("BatchNorm1d", "float32"),
    ("Embedding, tied to Linear", "float64"),
    ("RNNCell", "float32"),  # two of its biases have one gradient
    ("Conv2d (stride 2)", "float32"),
    ("LayerNorm", "float64"),
    ("CrossEntropyLoss (weights, ignore_index)", "float32"),
]


def check(name: str, dtype: str, folder: Path) -> None:
    said = rows(PAGE.read_text())[name][list(DTYPES).index(dtype)]
    assert try_layer(NAMED[name], dtype, folder) == said


def test_the_page_has_all_cases_and_nothing_else_than_right_and_refused() -> None:
    assert len(NAMED) == len(CASES) >= 70
    said = rows(PAGE.read_text())
    assert list(said) == [case.name for case in CASES]
    assert [s for pair in said.values() for s in pair if s != RIGHT and not s.startswith(REFUSED)] == []


@pytest.mark.long
@pytest.mark.parametrize(("name", "dtype"), QUICK)
def test_some_layers_train_as_the_page_says(name: str, dtype: str, tmp_path: Path) -> None:
    check(name, dtype, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMED)
def test_all_layers_train_as_the_page_says(name: str, dtype: str, tmp_path: Path) -> None:
    check(name, dtype, tmp_path)
