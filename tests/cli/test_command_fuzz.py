"""Commands on damaged files end in a result or in one line; see ``tests/command_fuzz.py``."""

from __future__ import annotations

import sys

import pytest

if not sys.platform.startswith("linux"):
    pytest.skip("limits the memory of children as Linux does", allow_module_level=True)

from tests.command_fuzz import TRIES, Outcome, fault_of, fuzz


@pytest.mark.slow
def test_damaged_files_end_in_a_result_or_one_line() -> None:
    outcomes, faults = fuzz(TRIES)
    assert not faults, faults[:10]
    for command in ("adopt", "export", "inspect", "lower", "run", "train", "verify"):
        assert outcomes[f"{command} status 0"] > 0, outcomes  # else it would be refusals alone that were tested
        assert outcomes[f"{command} status 2"] > TRIES // 100, outcomes


@pytest.mark.long
def test_the_first_tries_find_nothing() -> None:
    """Takes seconds, for training and for two processes with torch; it shows that the fuzz itself works."""
    outcomes, faults = fuzz(40)
    assert not faults, faults
    assert sum(outcomes.values()) == 40


@pytest.mark.parametrize(
    ("outcome", "left", "words"),
    [
        (
            Outcome(None, "", "Traceback (most recent call last):\n  ...\nKeyError: 'y'\n"),
            [],
            "traceback: KeyError: 'y'",
        ),
        (Outcome(-11, "", ""), [], "status -11"),
        (Outcome(2, "", "mylinear: 'm.onnx' is damaged:\nall of it\n"), [], "2 lines of error"),
        (Outcome(2, "", ""), [], "0 lines of error"),
        (Outcome(2, "", "mylinear: no\n"), ["out.csv"], "left behind: ['out.csv']"),
        (Outcome(0, "", ""), [".out.onnx.1f.tmp"], "left behind"),
        (Outcome(2, "", "verify 0 0.0 s\nmylinear: no\n"), [], None),
        (Outcome(0, "", "training [######] 1/1 0.0 s  loss 1.0\n"), ["out.onnx"], None),
    ],
)
def test_every_kind_of_fault_is_seen(outcome: Outcome, left: list[str], words: str | None) -> None:
    fault = fault_of(outcome, {"m.onnx"}, {"m.onnx", *left})
    assert (fault is None) == (words is None)
    assert words is None or words in str(fault)
