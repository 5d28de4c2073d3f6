"""`mylinear run`: predictions for the rows of a file, read and written in batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np
from numpy.typing import NDArray

from ort_ops.console.progress import progress
from ort_ops.files.atomic import open_atomically
from ort_ops.files.inputs import InputError, shown_names
from ort_ops.prediction import table_files
from ort_ops.prediction.arrow import ArrowTable
from ort_ops.prediction.results import CsvWriter, NpyWriter
from ort_ops.prediction.rows import RowReader
from ort_ops.prediction.served import ServedModel
from ort_ops.prediction.targets import Target, choose_targets
from ort_ops.session import InferenceSession

OUTPUT_SUFFIXES = (".csv", ".npy", *table_files.SUFFIXES)

BLOCK_ROWS = 16384
"""The most rows that are read, run and written at once, in batches of the model."""
_BLOCK_NBYTES = 2**24  # of such rows; a batch may be larger

Result = tuple[NDArray[Any], Any]
"""Results of a block ``[rows, ...]``, and the columns kept for them, as a record batch; None for none."""
_Block = tuple[int, Callable[[], Result]]
"""The rows of a block, and what makes the model's input of them, with the columns to keep."""


class Writer(Protocol):
    """Writes results of one batch after the other."""

    def write(self, result: NDArray[Any], kept: Any = None) -> None: ...
    def finish(self) -> None: ...


@dataclass(frozen=True)
class SideBySide:
    """A session with one thread for several blocks at a time: for small runs less work than one with many threads.

    Attributes:
        open: opens it, when the first file has rows enough.
        num_blocks: at a time.
    """

    open: Callable[[], InferenceSession]
    num_blocks: int


def predict(
    session: InferenceSession,
    source: str,
    output: str | Path | None = None,
    *,
    batch_size: int = 1024,
    stream: TextIO | None = None,
    raw: bool = False,
    positional: bool = False,
    keep: Sequence[str] = (),
    tell: Callable[[str], None] = lambda text: None,
    side_by_side: SideBySide | None = None,
) -> int:
    """Run the model on every row of ``source`` and write the results, batch by batch.

    Where the model's metadata names the columns that it was trained on, a table must have them all, in any order, and
    may have others; a CSV file without a header has them in their order. Categories and missing numbers become what
    they were in training. If the metadata names classes, the result for a row is its most probable class and the
    probability.

    Args:
        session: of a model with one input.
        source: a ``.csv``, ``.parquet``, ``.arrow`` or ``.feather`` file; a ``.npy`` file ``[rows, ...]``; or rows in
            text: ``"3,2"`` or ``"3,2; 1,5"``.
        output: a file with one of these suffixes, replaced only when all rows are done; None writes CSV to ``stream``.
        batch_size: rows per run; a model with a fixed batch gets that.
        stream: where CSV goes without ``output``.
        raw: whether to write the model's own numbers, also where it names classes.
        positional: whether to take the columns of a table in their order, whatever they are called.
        keep: columns to copy from a Parquet or Arrow file into another.
        tell: called with a sentence on how the file was understood, where that is not obvious.
        side_by_side: as in `Job`.

    Returns: the number of rows.
    Raises: InputError for rows that the model cannot take, and for a training file; OutputError; ExtraError where
        pyarrow is missing.
    """
    job = Job(
        session, batch_size=batch_size, raw=raw, positional=positional, keep=keep, tell=tell, side_by_side=side_by_side
    )
    job.check_suffixes(source, output)
    results = job.results(source)
    first = next(results, None)
    if first is None:
        raise InputError(f"'{source}' has no rows")
    with job.writer(output, stream) as writer:
        writer.write(*first)
        count = len(first[0])
        for result, kept in results:
            writer.write(result, kept)
            count += len(result)
    return count


class Job:
    """Predict for the rows of files, all in the same way.

    Args: as in `predict`, and
        side_by_side: how to run files in which every block has a batch and more; None to run one block at a time.

    Attributes:
        batch_size: rows per run.

    Raises: InputError for a model that cannot be run so.
    """

    def __init__(
        self,
        session: InferenceSession,
        *,
        batch_size: int = 1024,
        raw: bool = False,
        positional: bool = False,
        keep: Sequence[str] = (),
        tell: Callable[[str], None] = lambda text: None,
        side_by_side: SideBySide | None = None,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"the batch size must be 1 or more, got {batch_size}")
        self._model = ServedModel(session)
        self._input = self._model.only_input()
        self._namer = None if raw else self._model.namer
        self.batch_size = self._model.fixed_size or batch_size
        self._positional, self._keep, self._tell = positional, [*keep], tell
        self._output_name = next(iter(self._model.outputs))
        self._side_by_side = side_by_side
        self._alone: ServedModel | None = None

    def block_rows(self, most: int = BLOCK_ROWS) -> int:
        """Return the rows of a block: a multiple of a batch, as near below ``most`` as memory allows."""
        inner = [size for size in self._input.shape[1:] if isinstance(size, int) and size > 0]
        row_nbytes = int(np.prod(inner, dtype=np.int64)) * self._input.dtype.itemsize
        rows = min(most, BLOCK_ROWS, _BLOCK_NBYTES // row_nbytes)
        return max(1, rows // self.batch_size) * self.batch_size

    def check_suffixes(self, source: str, output: str | Path | None) -> None:
        """Raise InputError for an output that cannot be written, or not with the columns to keep."""
        if output is not None and Path(output).suffix not in OUTPUT_SUFFIXES:
            raise InputError(f"the output must be a .csv, .npy, .parquet, .arrow or .feather file, got '{output}'")
        suffixes = (Path(source).suffix.lower(), "" if output is None else Path(output).suffix)
        if self._keep and not all(suffix in table_files.SUFFIXES for suffix in suffixes):
            raise InputError("columns can be kept from a Parquet or Arrow file into another only")

    def results(self, source: str, start: int = 0, block_rows: int | None = None) -> Generator[Result]:
        """Yield the results for the rows of a file from ``start`` on, with a progress line where they are many.

        Args:
            source: as in `predict`.
            start: a multiple of the batch size.
            block_rows: of each result but the last; None for `block_rows()`.

        Raises: InputError.
        """
        label, size = f"'{source}'", block_rows or self.block_rows()
        if Path(source).suffix.lower() in table_files.SUFFIXES:
            yield from self._table_results(label, source, start, size)
            return
        labels = self._model.labels
        reader = RowReader(self._input.shape, self._input.dtype, labels.columns, size, self._positional, self._tell)
        rows = reader.open(source, start)
        if rows.count is not None:
            self._model.require_multiple(label, rows.count + start)
        yield from self._run(label, rows.count, start, ((len(b), partial(_without_columns, b)) for b in rows.batches))

    @contextmanager
    def writer(self, output: str | Path | None, stream: TextIO | None = None) -> Iterator[Writer]:
        """Yield a writer of a file by its suffix, or of CSV to the stream; the file is there if the block succeeds."""
        with ExitStack() as stack:
            writer: Writer
            if output is None:
                assert stream is not None
                writer = CsvWriter(stream, self._output_name)
            else:
                temporary = stack.enter_context(open_atomically(output))
                suffix = Path(output).suffix
                if suffix in table_files.SUFFIXES:
                    writer = table_files.TableWriter(temporary, suffix, self._output_name)
                elif suffix == ".npy":
                    writer = NpyWriter(stack.enter_context(temporary.open("wb")))
                else:
                    file = stack.enter_context(temporary.open("w", encoding="utf-8", newline=""))
                    writer = CsvWriter(file, self._output_name)
            yield writer
            writer.finish()

    def _table_results(self, label: str, source: str, start: int, size: int) -> Iterator[Result]:
        with table_files.TableFile(source) as table:
            self._model.require_multiple(label, table.num_rows)
            lacking = [name for name in self._keep if name not in table.names]
            if lacking:
                has = shown_names(table.names)
                raise InputError(f"{label} lacks columns to keep: {shown_names(lacking)}; it has {has}")
            target = self._target(label, table.names)
            wanted = [column.name for column in target.columns if column.name in table.names]
            blocks = self._blocks(label, target, table.batches([*wanted, *self._keep], start, size), start)
            yield from self._run(label, max(0, table.num_rows - start), start, blocks)

    def _target(self, label: str, names: Sequence[str]) -> Target:
        others = [name for name in names if name not in self._keep]
        if not self._positional:
            return choose_targets(label, self._model, others)[0]
        known = self._model.labels.columns
        columns = others if known is None else others[: len(known)]
        return choose_targets(label, self._model, others, columns)[0]

    def _blocks(self, label: str, target: Target, batches: Iterator[Any], num_before: int) -> Iterator[_Block]:
        for batch in batches:

            def make(batch: Any = batch, num_before: int = num_before) -> Result:
                rows = target.take(label, ArrowTable(batch), num_before).rows(0, batch.num_rows)
                return rows, batch.select(self._keep) if self._keep else None

            yield batch.num_rows, make
            num_before += batch.num_rows

    def _run(self, label: str, count: int | None, num_before: int, blocks: Iterator[_Block]) -> Iterator[Result]:
        """Run every block; the results of the first come before the progress line, which one block does not need."""
        total = None if count is None else num_before + count
        results = self._each(label, total, num_before, blocks)
        first = next(results, None)
        if first is None:
            return
        yield first
        done = num_before + len(first[0])
        if (result := next(results, None)) is None:
            return
        with progress("run", total) as line:
            while result is not None:
                done += len(result[0])
                line.update(done, "rows")
                yield result
                result = next(results, None)

    def _each(self, label: str, total: int | None, num_before: int, blocks: Iterator[_Block]) -> Iterator[Result]:
        """Run every block, several at a time where the file is long enough; yield the results in order.

        That depends on the file alone, not on where its rest begins: a kernel may round differently on one thread.
        """
        side = self._side_by_side
        if side is None or total is None or total <= side.num_blocks * self.batch_size:
            for size, make in blocks:
                yield self._run_block(self._model, label, make, num_before)
                num_before += size
            return
        if self._alone is None:
            self._alone = ServedModel(side.open())
        pending: deque[Future[Result]] = deque()
        pool = ThreadPoolExecutor(side.num_blocks)
        try:
            for size, make in blocks:
                pending.append(pool.submit(self._run_block, self._alone, label, make, num_before))
                num_before += size
                if len(pending) > 2 * side.num_blocks:  # so that no thread waits while a result is written
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _run_block(self, model: ServedModel, label: str, make: Callable[[], Result], num_before: int) -> Result:
        rows, kept = make()
        names, size = [self._output_name], self.batch_size
        parts = [
            model.run(label, {self._input.name: rows[at : at + size]}, num_before + at, names)[0]
            for at in range(0, len(rows), size)
        ]
        result = parts[0] if len(parts) == 1 else _joined(parts)
        return (result if self._namer is None else self._namer(result, num_before + 1)), kept


def _without_columns(rows: NDArray[Any]) -> Result:
    return rows, None


def _joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return the results of a block's batches as one array. Raises: InputError if their shapes differ."""
    shapes = [list(part.shape[1:]) for part in parts]
    wrong = next((shape for shape in shapes if shape != shapes[0]), None)
    if wrong is not None:
        raise InputError(f"the model gives rows of {wrong}, and gave {shapes[0]} before; run them apart")
    return np.concatenate(parts)
