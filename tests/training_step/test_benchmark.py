"""`benchmarks/training.py` runs, checks its contenders, and writes its figures; ``pytest -m slow`` to run this."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "training.py"


@pytest.mark.slow
def test_the_benchmark_of_training_runs_and_every_contender_is_right(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    options = ["--quick", "--cases", "linear,digits", "--threads", "1", "--json", str(figures)]
    done = subprocess.run([sys.executable, SCRIPT, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads(figures.read_text())["results"]
    assert [result["case"] for result in results] == ["linear", "digits"]
    for result in results:
        assert not result["wrong"]
        assert set(result["ratios"]) == {"ours", "loop", "bodies", "eager", "fused"}
