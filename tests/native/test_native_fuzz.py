"""Mutated model files end in an error or a right result; see ``tests/native_fuzz.py``."""

from __future__ import annotations

import sys

import pytest

from ort_ops.native import library as native

if not native.status().is_usable:
    pytest.skip(str(native.status().reason), allow_module_level=True)
if not sys.platform.startswith("linux"):
    pytest.skip("limits the memory of children as Linux does", allow_module_level=True)

from tests.native_fuzz import TRIES, fuzz

pytestmark = pytest.mark.native


@pytest.mark.parametrize("tries", [600, pytest.param(TRIES, marks=pytest.mark.slow)])
def test_mutated_models_end_in_an_error_or_a_right_result(tries: int) -> None:
    outcomes, faults = fuzz(tries)
    assert not faults, faults[:5]
    assert outcomes["right"] > tries // 20, outcomes  # else it would be refusals alone that were tested
    assert outcomes["error"] > tries // 20, outcomes
