"""Mutated models of any operator end in an error or a right result; see ``tests/operator_fuzz.py``."""

from __future__ import annotations

import sys

import pytest

from ort_ops.native import library as native

if not native.status().is_usable:
    pytest.skip(str(native.status().reason), allow_module_level=True)
if not sys.platform.startswith("linux"):
    pytest.skip("limits the memory of children as Linux does", allow_module_level=True)

from tests.operator_fuzz import fuzz

pytestmark = pytest.mark.native


@pytest.mark.parametrize("tries", [250, pytest.param(5000, marks=pytest.mark.slow)])
def test_mutated_models_end_in_an_error_or_a_right_result(tries: int) -> None:
    outcomes, faults = fuzz(tries)
    assert not faults, faults[:5]
    assert outcomes["right"] > tries // 10, outcomes  # else it would be refusals alone that were tested
    assert outcomes["error"] > tries // 10, outcomes
