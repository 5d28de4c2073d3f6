"""Run the command line on damaged files; each command must end in a result or in one line that says what is wrong.

    python tests/command_fuzz.py                          # 20,000 tries in two processes
    python tests/command_fuzz.py --first 4711 --tries 1   # one of them again, in this process; says what it runs

A try is its number: it seeds the file, the mutation and the command. Tries run one after the other in child processes,
through `ort_ops.cli` with the standard streams in files; a few run as processes of their own. A child that dies
or is silent for 30 seconds is noted with the try that it was at, and another goes on behind it.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from tests import command_mutations as mutations  # noqa: E402
from tests.command_material import make_material  # noqa: E402

TRIES = 20_000
TIMEOUT_S = 30
MEMORY_LIMIT = 12 << 30
"""Address space of a child: what asks for more gets an error, not this machine's memory."""
STATUSES = (0, 1, 2, 130)
_PROGRESS = re.compile(r"[\w .-]+ (\[[#.]+\] )?\d+(/\d+)? \d+\.\d s( .*)?|\s*")
_SHARE_OF_PROCESSES = 1 / 200
_ROW = "0.5,1,2,3"

Mutate = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True)
class Target:
    """A file to damage, how, and the commands that read it; a command that is named twice is tried twice as often."""

    file: str
    mutate: Mutate
    commands: tuple[str, ...]


_MODEL = (
    f"inspect {{}};inspect {{}} --json;run {{}} --input {_ROW};run {{}} --input rows.csv --output out.csv;"
    "run {} --input rows.npy --output out.npy;verify {} --compile none --batch-size 2;adopt {} out.onnx;"
    "lower {} out.onnx --json;adopt {} out.onnx"
).split(";")
_RESUME = "train linear --epochs 2 --output out --resume"
_TRAIN = "--hidden none --epochs 1 --output out"
TARGETS = [
    *(Target(name, mutations.mutate_model, (*_MODEL,)) for name in ("net.onnx", "external.onnx", "plain.onnx") * 2),
    *(Target(name, mutations.mutate_bytes, (*_MODEL,)) for name in ("net.onnx", "external.onnx", "inner.onnx")),
    Target("inner.onnx", mutations.mutate_model, (*_MODEL,)),
    Target("w.bin", mutations.mutate_bytes, tuple(c.replace("{}", "external.onnx") for c in _MODEL)),
    *(
        Target(
            "checkpoint.pt",
            mutate,
            ("export {} out.onnx --engine torchscript", "train linear --epochs 2 --output out --resume"),
        )
        for mutate in (mutations.mutate_checkpoint, mutations.mutate_checkpoint, mutations.mutate_bytes)
    ),
    *(
        Target("rows.csv", mutate, ("run net.onnx --input {}", "run net.onnx --input {} --output out.npy"))
        for mutate in (mutations.mutate_text, mutations.mutate_bytes)
    ),
    *(
        Target("table.csv", mutate, (f"train --data {{}} --target y {_TRAIN}", f"train {{}} --target y {_TRAIN}"))
        for mutate in (mutations.mutate_text, mutations.mutate_bytes)
    ),
    *(
        Target("rows.npy", mutate, ("run net.onnx --input {}", "run net.onnx --input {} --output out.csv"))
        for mutate in (mutations.mutate_npy, mutations.mutate_bytes)
    ),
    *(
        Target("table.npz", mutate, (f"train --data {{}} {_TRAIN}",))
        for mutate in (mutations.mutate_npz, mutations.mutate_bytes)
    ),
]


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        status: that it returned; None where an exception left it.
        error: what it wrote to stderr; output: to stdout.
    """

    status: int | None
    output: str
    error: str


@contextmanager
def _streams_in(folder: Path) -> Iterator[None]:
    """Send file descriptors 1 and 2 to files: onnxruntime writes to them itself."""
    kept = [os.dup(number) for number in (1, 2)]
    try:
        for number, name in ((1, "stdout"), (2, "stderr")):
            with (folder / name).open("w") as file:
                os.dup2(file.fileno(), number)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)


def run_here(arguments: list[str], folder: Path) -> Outcome:
    """Run a command in this process, in the current folder; its streams go to files in ``folder``."""
    from ort_ops.cli import main as cli

    status: int | None = None
    with _streams_in(folder):
        try:
            status = cli.main(arguments)
        except SystemExit as error:  # argparse
            status = error.code if isinstance(error.code, int) else None
        except BaseException:
            traceback.print_exc()
    return Outcome(status, *((folder / name).read_text(errors="replace") for name in ("stdout", "stderr")))


def run_process(arguments: list[str]) -> Outcome:
    """Run a command as a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "ort_ops.cli", *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def fault_of(outcome: Outcome, before: set[str], after: set[str]) -> str | None:
    """Say what is wrong with how a command ended, or return None."""
    lines = [line for line in outcome.error.splitlines() if not _PROGRESS.fullmatch(line)]
    if "Traceback (most recent call last)" in outcome.error + outcome.output:
        return f"traceback: {outcome.error.strip().splitlines()[-1]}"
    if outcome.status not in STATUSES:
        return f"status {outcome.status}: {lines[-3:]}"
    if outcome.status == 2 and (len(lines) != 1 or not lines[0].startswith("mylinear")):
        return f"{len(lines)} lines of error: {lines[:4]}"
    if outcome.status and len(lines) > 1:
        return f"{len(lines)} lines beside the failed proof: {lines[:4]}"
    left = sorted(after - before)
    hidden = [name for name in left if name.endswith(".tmp") or "/." in f"/{name}"]
    if hidden or (outcome.status == 2 and left):
        return f"left behind: {hidden or left}"
    return None


def _listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()}


def prepare(number: int, material: Path, folder: Path) -> list[str]:
    """Fill a folder for a try and return the command line."""
    rng = random.Random(number)
    shutil.copytree(material, folder, symlinks=True)
    target = rng.choice(TARGETS)
    file = folder / target.file
    data = file.read_bytes()
    if rng.random() < 0.98:  # else the command must work
        try:
            data = target.mutate(data, rng)
        except (ValueError, TypeError, UnicodeError):  # protobuf cannot write it
            data = mutations.mutate_bytes(data, rng)
    file.write_bytes(data)
    command = rng.choice(target.commands).split()
    if "--resume" in command:
        (folder / "out").mkdir()
        shutil.move(file, folder / "out" / "checkpoint.pt")
    return [target.file if word == "{}" else word for word in command]


def attempt(number: int, material: Path, scratch: Path) -> str:
    """Run one try: ``status 0``, ``status 2`` and so on, or ``FAULT: ...``."""
    folder = scratch / "work"
    shutil.rmtree(folder, ignore_errors=True)
    arguments = prepare(number, material, folder)
    before = _listing(folder)
    os.chdir(folder)
    is_process = random.Random(-number).random() < _SHARE_OF_PROCESSES
    outcome = run_process(arguments) if is_process else run_here(arguments, scratch)
    os.chdir(scratch)
    fault = fault_of(outcome, before, _listing(folder))
    if fault is None:
        return f"{arguments[0]} status {outcome.status}"
    return f"FAULT: {' '.join(arguments)}: {' '.join(fault.split())}"


def run_child(first: int, tries: int, material: Path) -> int:
    """Run tries one by one, saying which before each and its outcome behind."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import faulthandler

    import torch

    faulthandler.enable()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch, os.fdopen(os.dup(1), "w") as report:
        for number in range(first, first + tries):
            print(number, end=" ", file=report, flush=True)
            print(attempt(number, material, Path(scratch)), file=report, flush=True)
        os.chdir(ROOT)
    return 0


def _run_until_it_stops(first: int, tries: int, material: Path) -> Iterator[tuple[int, str]]:
    """Run a child and yield its tries with their outcomes; the last is a fault where it died or hung."""
    command = [sys.executable, __file__, "--child", str(material), "--first", str(first), "--tries", str(tries)]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT) as child,
    ):
        assert child.stdout is not None
        for number in range(first, first + tries):
            timer = threading.Timer(TIMEOUT_S + 60 * (number == first), child.kill)  # the first imports torch
            timer.start()
            line = child.stdout.readline()
            was_alive = timer.is_alive()
            timer.cancel()
            at, _, outcome = line.partition(" ")
            if not outcome.endswith("\n"):
                child.wait()
                errors.seek(0)
                reason = f"the process ended with status {child.returncode}: {errors.read()[-1500:]}"
                yield number, f"FAULT: {reason if was_alive else 'it hung'} (at '{at}')"
                return
            yield number, outcome.rstrip("\n")


def fuzz(tries: int, first: int = 0, workers: int = 2) -> tuple[collections.Counter[str], list[str]]:
    """Run tries in children; return the outcomes' counts, and the faults with their numbers."""
    outcomes: collections.Counter[str] = collections.Counter()
    faults: list[str] = []

    def work(start: int, end: int) -> None:
        while start < end:
            for number, outcome in _run_until_it_stops(start, end - start, material):
                outcomes["FAULT" if outcome.startswith("FAULT") else outcome] += 1
                if outcome.startswith("FAULT"):
                    faults.append(f"{number}: {outcome[7:]}")
                start = number + 1

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(workers) as pool:
        material = Path(folder) / "material"
        make_material(material)
        bounds = [first + tries * i // workers for i in range(workers + 1)]
        list(pool.map(work, bounds[:-1], bounds[1:]))
    return outcomes, sorted(faults)


def main() -> int:
    """Parse the command line, run, and print what came of it."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=TRIES)
    parser.add_argument("--first", type=int, default=0, help="number of the first try")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return run_child(options.first, options.tries, options.child)
    outcomes, faults = fuzz(options.tries, options.first, 1 if options.tries == 1 else 2)
    print(f"{options.tries} tries: {dict(sorted(outcomes.items()))}")
    print("\n".join(faults))
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
