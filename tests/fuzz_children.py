"""Run the tries of a fuzz in child processes, which say which try they are at, and go on behind one that dies."""

from __future__ import annotations

import collections
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MEMORY_LIMIT = 8 << 30
"""Address space of a child: a model that asks for more gets an allocation error, not this machine's memory."""


def limit_child() -> None:
    """Limit the memory of this process, and leave no core file when it dies."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def run_tries(attempt: Callable[[int], str], first: int, tries: int) -> int:
    """Run tries one by one, saying which before each and its outcome behind; return the exit status."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as report:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # onnxruntime prints there, too
        for number in range(first, first + tries):
            print(number, end=" ", file=report, flush=True)
            print(attempt(number).replace("\n", " "), file=report, flush=True)
    return 0


def fuzz_in_children(
    script: str, tries: int, first: int, batch: int, options: Sequence[str] = ()
) -> tuple[collections.Counter[str], list[str]]:
    """Run tries in children, ``batch`` in each; return the outcomes' counts, and crashes and wrong results.

    Args:
        script: what a child runs; it takes ``--child``, ``--first`` and ``--tries``, and calls `run_tries`.
        options: further arguments of the script.
    """
    outcomes: collections.Counter[str] = collections.Counter()
    faults: list[str] = []
    number = first
    while number < first + tries:
        count = min(batch, first + tries - number)
        command = [sys.executable, script, "--child", "--first", str(number), "--tries", str(count), *options]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ, check=False)
        for line in done.stdout.splitlines():
            at, _, outcome = line.partition(" ")
            if not outcome:
                faults.append(f"{at}: the process died with status {done.returncode}: {done.stderr[-300:]}")
                outcome = "CRASH"
            elif outcome.startswith("WRONG"):
                faults.append(line)
            outcomes[outcome.split(" ")[0].rstrip(":")] += 1
            number = int(at) + 1
        if not done.stdout:
            raise RuntimeError(f"a child did not start: {done.stderr}")
    return outcomes, faults
