"""`mylinear run`: predictions for the rows of a file, read and written in batches."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol, TextIO

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

Result = tuple[NDArray[Any], Any]
"""Results of a batch ``[rows, ...]``, and the columns kept for them, as a record batch; None for none."""


class Writer(Protocol):
    """Writes results of one batch after the other."""

    def write(self, result: NDArray[Any], kept: Any = None) -> None: ...
    def finish(self) -> None: ...


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

    Returns: the number of rows.
    Raises: InputError for rows that the model cannot take, and for a training file; OutputError; ExtraError where
        pyarrow is missing.
    """
    job = Job(session, batch_size=batch_size, raw=raw, positional=positional, keep=keep, tell=tell)
    job.check_suffixes(source, output)
    count = 0
    results = job.results(source)
    first = next(results, None)
    if first is None:
        raise InputError(f"'{source}' has no rows")
    with job.writer(output, stream) as writer:
        writer.write(*first)
        count += len(first[0])
        for result, kept in results:
            writer.write(result, kept)
            count += len(result)
    return count


class Job:
    """Predict for the rows of files, all in the same way.

    Args: as in `predict`.

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
    ) -> None:
        if batch_size < 1:
            raise InputError(f"the batch size must be 1 or more, got {batch_size}")
        self._model = ServedModel(session)
        self._input = self._model.only_input()
        self._namer = None if raw else self._model.namer
        self.batch_size = self._model.fixed_size or batch_size
        self._positional, self._keep, self._tell = positional, [*keep], tell
        self._output_name = next(iter(self._model.outputs))

    def check_suffixes(self, source: str, output: str | Path | None) -> None:
        """Raise InputError for an output that cannot be written, or not with the columns to keep."""
        if output is not None and Path(output).suffix not in OUTPUT_SUFFIXES:
            raise InputError(f"the output must be a .csv, .npy, .parquet, .arrow or .feather file, got '{output}'")
        suffixes = (Path(source).suffix.lower(), "" if output is None else Path(output).suffix)
        if self._keep and not all(suffix in table_files.SUFFIXES for suffix in suffixes):
            raise InputError("columns can be kept from a Parquet or Arrow file into another only")

    def results(self, source: str, start: int = 0) -> Generator[Result]:
        """Yield the results for the rows of a file from ``start`` on, with a progress line where they are many.

        Raises: InputError.
        """
        label = f"'{source}'"
        if Path(source).suffix.lower() in table_files.SUFFIXES:
            yield from self._table_results(label, source, start)
            return
        labels = self._model.labels
        reader = RowReader(
            self._input.shape, self._input.dtype, labels.columns, self.batch_size, self._positional, self._tell
        )
        rows = reader.open(source, start)
        if rows.count is not None:
            self._model.require_multiple(label, rows.count + start)
        yield from self._run(label, rows.count, start, ((batch, None) for batch in rows.batches))

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

    def _table_results(self, label: str, source: str, start: int) -> Iterator[Result]:
        with table_files.TableFile(source) as table:
            self._model.require_multiple(label, table.num_rows)
            lacking = [name for name in self._keep if name not in table.names]
            if lacking:
                has = shown_names(table.names)
                raise InputError(f"{label} lacks columns to keep: {shown_names(lacking)}; it has {has}")
            target = self._target(label, table.names)
            wanted = [column.name for column in target.columns if column.name in table.names]
            batches = table.batches([*wanted, *self._keep], start, multiple_of=self.batch_size)
            blocks = self._blocks(label, target, batches, start)
            yield from self._run(label, max(0, table.num_rows - start), start, blocks)

    def _target(self, label: str, names: Sequence[str]) -> Target:
        others = [name for name in names if name not in self._keep]
        if not self._positional:
            return choose_targets(label, self._model, others)[0]
        known = self._model.labels.columns
        columns = others if known is None else others[: len(known)]
        return choose_targets(label, self._model, others, columns)[0]

    def _blocks(self, label: str, target: Target, batches: Iterator[Any], num_before: int) -> Iterator[Result]:
        for batch in batches:
            taken = target.take(label, ArrowTable(batch), num_before)
            kept = batch.select(self._keep) if self._keep else None
            for start in range(0, batch.num_rows, self.batch_size):
                stop = start + self.batch_size
                yield taken.rows(start, stop), None if kept is None else kept.slice(start, self.batch_size)
            num_before += batch.num_rows

    def _run(self, label: str, count: int | None, num_before: int, batches: Iterator[Result]) -> Iterator[Result]:
        """Run every batch; the results of the first come before the progress line, which one batch does not need."""
        first = next(batches, None)
        if first is None:
            return
        second = next(batches, None)
        yield self._run_one(label, first, num_before)
        if second is None:
            return
        done = num_before + len(first[0])
        with progress("run", None if count is None else num_before + count) as line:
            batch: Result | None = second
            while batch is not None:
                result = self._run_one(label, batch, done)
                done += len(result[0])
                line.update(done, "rows")
                yield result
                batch = next(batches, None)

    def _run_one(self, label: str, batch: Result, num_before: int) -> Result:
        names = [self._output_name]
        result = self._model.run(label, {self._input.name: batch[0]}, num_before, names)[0]
        return (result if self._namer is None else self._namer(result, num_before + 1)), batch[1]
