"""Predict for many files into a folder, so that a run that was killed goes on where it was.

The results of a file are cut into parts of a fixed number of rows. A part gets its name only when it is complete, so
what is there is right, and the rest is done again. A record says what the folder was made from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from ort_ops.batch.sources import Source
from ort_ops.files.atomic import OutputError, make_folder, write_atomically
from ort_ops.files.folder_lock import LOCK_NAME, lock_folder
from ort_ops.files.inputs import InputError
from ort_ops.prediction.predict import Job, Result

RECORD = "_mylinear_run.json"
"""What a folder was made from. Readers of Parquet folders pass over names that begin with an underscore."""
SUCCESS = "_SUCCESS"
"""An empty file that says that all parts are there, as Spark's does."""
PART_ROWS = 1_000_000
_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{8}\.tmp")


@dataclass(frozen=True)
class Done:
    """What a run did: rows and parts that it wrote, and parts that were there before."""

    num_rows: int
    num_parts: int
    num_found: int


def predict_folder(
    job: Job,
    sources: Sequence[Source],
    output: Path,
    *,
    suffix: str | None = None,
    part_rows: int = PART_ROWS,
    made_from: Mapping[str, Any],
    tell: Callable[[str], None] = lambda text: None,
) -> Done:
    """Run the model on every row of the files, and write parts ``<name>-00000.<suffix>`` into a folder.

    Called again after it was stopped, it leaves the parts that are complete and does the rest; the folder is then, byte
    for byte, that of a run that was never stopped.

    Args:
        job: how to run the model.
        sources: the files.
        output: the folder; made if it is not there.
        suffix: of the parts, such as ``.parquet``; None for that of each source.
        part_rows: rows in a part; made a multiple of the job's batch size, and of a block of batches.
        made_from: what else determines the results, such as the model's hash; anything that JSON takes.
        tell: called with a sentence on a file without rows, and on what is left to do.

    Raises: InputError; OutputError if the folder has something else, or another process writes into it.
    """
    if part_rows < 1:
        raise InputError(f"the rows of a part must be 1 or more, got {part_rows}")
    block_rows = job.block_rows(-(-part_rows // job.batch_size) * job.batch_size)
    part_rows = -(-part_rows // block_rows) * block_rows  # so that a block is the same wherever a run goes on
    for source in sources:
        job.check_suffixes(str(source.path), f"part{suffix or source.path.suffix.lower()}")
    stats = {str(source.path): (source.path.stat().st_size, source.path.stat().st_mtime_ns) for source in sources}
    record = {**made_from, "part_rows": part_rows, "batch_size": job.batch_size, "suffix": suffix, "sources": stats}
    text = json.dumps(record, indent=1).encode()
    make_folder(output)
    with lock_folder(output, "run"):
        _claim(output, text)
        num_rows = num_parts = num_found = 0
        with _Finisher() as finisher:
            for source in sources:
                stem, end = output / source.name, suffix or source.path.suffix.lower()
                stem.parent.mkdir(parents=True, exist_ok=True)
                found = 0
                while _part(stem, found, end).exists():
                    found += 1
                num_found += found
                parts = (_part(stem, number, end) for number in count(found))
                written = _write_parts(job, source, found * part_rows, part_rows, block_rows, parts, finisher)
                if not written and not found:
                    tell(f"'{source.path}' has no rows")
                num_rows, num_parts = num_rows + sum(written), num_parts + len(written)
        write_atomically(output / SUCCESS, b"")
    return Done(num_rows, num_parts, num_found)


class _Finisher:
    """Finish parts in a thread of its own, one at a time, in order: the disk has to say that it has them."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._last: Future[None] | None = None

    def __enter__(self) -> _Finisher:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown()
        if kind is None:
            self._wait()

    def finish(self, part: ExitStack) -> None:
        """Close a part when the one before is done. Raises: what that one raised."""
        self._wait()
        self._last = self._pool.submit(part.pop_all().close)

    def _wait(self) -> None:
        if self._last is not None:
            self._last.result()


def _write_parts(
    job: Job,
    source: Source,
    start: int,
    part_rows: int,
    block_rows: int,
    parts: Iterator[Path],
    finisher: _Finisher,
) -> list[int]:
    """Write the parts from a row on, and return the rows of each."""
    written: list[int] = []
    with closing(job.results(str(source.path), start, block_rows)) as results:
        result: Result | None = next(results, None)
        while result is not None:
            num_rows = 0
            with ExitStack() as part:
                writer = part.enter_context(job.writer(next(parts)))
                while result is not None and num_rows < part_rows:
                    writer.write(*result)
                    num_rows += len(result[0])
                    result = next(results, None)
                finisher.finish(part)
            written.append(num_rows)
    return written


def _claim(output: Path, record: bytes) -> None:
    """Check that the folder is empty or of the same run, and remove what a killed run left unfinished."""
    path = output / RECORD
    others = [found for found in output.rglob("*") if found.is_file() and found != output / LOCK_NAME]
    for found in others:
        if _TEMPORARY.fullmatch(found.name):
            found.unlink(missing_ok=True)
    if path.exists():
        differing = _differing(path.read_bytes(), record)
        if differing:
            raise OutputError(
                f"'{output}' has results of another run (different: {', '.join(differing)}); name another folder, or "
                "remove it"
            )
        return
    if any(found.exists() for found in others):
        raise OutputError(f"'{output}' has files, and no run of this kind; name an empty or a new folder")
    write_atomically(path, record)


def _differing(before: bytes, now: bytes) -> list[str]:
    try:
        old = json.loads(before)
    except ValueError:
        old = None
    if not isinstance(old, dict):
        return [RECORD]
    new = json.loads(now)
    return sorted(key for key in {*old, *new} if old.get(key) != new.get(key))


def _part(stem: Path, number: int, suffix: str) -> Path:
    return stem.with_name(f"{stem.name}-{number:05d}{suffix}")
