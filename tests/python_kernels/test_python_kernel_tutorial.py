"""docs/python_kernels.md is true: its blocks run, one after the other, in one process."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ort_ops.native import library as native

TEXT = (Path(__file__).parents[2] / "docs" / "python_kernels.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.S)


@pytest.mark.native
@pytest.mark.skipif(not native.status().is_usable, reason=str(native.status().reason))
def test_every_block_runs_and_prints_what_it_says(tmp_path: Path) -> None:
    # Annotations of the tutorial's functions are read as they are, so the blocks are one file, as a user's are.
    (tmp_path / "tutorial.py").write_text("\n".join(BLOCKS))
    done = subprocess.run([sys.executable, "tutorial.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(BLOCKS) == TEXT.count("```") // 2 == 7
    for said in re.findall(r"print\(error\)  # (.*)", TEXT):
        assert said.removesuffix("...") in done.stdout
