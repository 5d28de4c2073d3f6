"""Parquet and Arrow IPC files: read a few thousand rows at a time, write results as row groups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from numpy.typing import NDArray

from ort_ops.files.inputs import InputError, first_line, open_input, shown_names
from ort_ops.prediction.arrow import import_pyarrow, to_arrow

SUFFIXES = (".parquet", ".arrow", ".feather")
"""Parquet, and Arrow's IPC file format under both of its names."""
_GROUP_ROWS = 131072  # of Parquet that is written; also the most results in memory


class TableFile:
    """A Parquet or Arrow IPC file; a context manager.

    Attributes:
        names: of its columns.
        num_rows: in the file.

    Raises: InputError if it is damaged or another kind of file, ExtraError where pyarrow is missing.
    """

    def __init__(self, path: str | Path) -> None:
        pa = import_pyarrow(f"reading '{path}'")
        self._label = f"'{path}'"
        self._stack = ExitStack()
        with self._as_input_error():
            file = self._stack.enter_context(open_input(path, what="file", folder_advice="a file"))
            if Path(path).suffix.lower() == ".parquet":
                parquet = import_pyarrow(f"reading '{path}'", "pyarrow.parquet")
                # pre_buffer would hold all row groups that are asked for.
                self._parquet: Any = self._stack.enter_context(parquet.ParquetFile(file, pre_buffer=False))
                self.names: list[str] = self._parquet.schema_arrow.names
                self.num_rows: int = self._parquet.metadata.num_rows
            else:
                self._parquet = None
                # A map of the file, so that only the rows in use are in memory.
                mapped = self._stack.enter_context(pa.memory_map(str(path)))
                self._ipc = self._stack.enter_context(pa.ipc.open_file(mapped))
                self.names = self._ipc.schema.names
                self._sizes = [self._ipc.get_batch(i).num_rows for i in range(self._ipc.num_record_batches)]
                self.num_rows = sum(self._sizes)

    def __enter__(self) -> TableFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def batches(self, names: Sequence[str], start: int, size: int) -> Iterator[Any]:
        """Yield record batches with some columns, from a row on; each but the last has the same number of rows.

        Args:
            names: of the columns; no other is read.
            start: rows to leave out, without decoding the row groups of Parquet that they fill.
            size: the number of rows of a batch.

        Raises: InputError for damage, and for a name that is there twice.
        """
        twice = [name for name in names if self.names.count(name) > 1]
        if twice:
            raise InputError(f"{self._label}: two columns are called {shown_names(twice)}")
        pa = import_pyarrow("a table of Arrow")
        with self._as_input_error():
            held: list[Any] = []
            num_held = 0
            for batch in self._pieces([*dict.fromkeys(names)], start, size):
                while num_held + batch.num_rows >= size:
                    held.append(batch.slice(0, size - num_held))
                    batch = batch.slice(size - num_held)
                    yield _joined(pa, held)
                    held, num_held = [], 0
                if batch.num_rows:
                    held.append(batch)
                    num_held += batch.num_rows
            if held:
                yield _joined(pa, held)

    def _pieces(self, names: list[str], start: int, size: int) -> Iterator[Any]:
        """Yield batches of any size."""
        if self._parquet is None:
            for index, num_rows in enumerate(self._sizes):
                if start >= num_rows:
                    start -= num_rows
                    continue
                batch = self._ipc.get_batch(index).select(names)
                yield batch.slice(start)
                start = 0
            return
        groups = [*range(self._parquet.num_row_groups)]
        while groups and start >= (num_rows := self._parquet.metadata.row_group(groups[0]).num_rows):
            start -= num_rows
            groups.pop(0)
        for batch in self._parquet.iter_batches(size, row_groups=groups, columns=names) if groups else ():
            skipped = min(start, batch.num_rows)
            start -= skipped
            yield batch.slice(skipped)

    def _as_input_error(self) -> _Damage:
        return _Damage(self._label)


class _Damage:
    """Turn what pyarrow raises for a damaged file into an InputError."""

    def __init__(self, label: str) -> None:
        self._label = label

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, InputError) or error is None:
            return
        if type(error).__module__.startswith("pyarrow") or isinstance(error, OSError):
            raise InputError(f"{self._label} cannot be read as a table: {first_line(error)}") from error


class TableWriter:
    """Write results as a Parquet or an Arrow IPC file.

    Args:
        file: a path.
        suffix: one of `SUFFIXES`.
        name: of the model's output.
    """

    def __init__(self, file: Path, suffix: str, name: str) -> None:
        what = f"writing '{suffix[1:]}'"
        self._pa = import_pyarrow(what)
        self._parquet = import_pyarrow(what, "pyarrow.parquet") if suffix == ".parquet" else None
        self._file, self._name = file, name
        self._held: list[Any] = []
        self._num_held = 0
        self._writer: Any = None
        self._schema: Any = None

    def write(self, result: NDArray[Any], kept: Any = None) -> None:
        """Append results, with columns that were kept for them before. Raises: InputError if their type differs."""
        names = result.dtype.names
        results: Mapping[str, NDArray[Any]] = {n: result[n] for n in names} if names else {self._name: result}
        columns = {} if kept is None else dict(zip(kept.schema.names, kept.columns, strict=True))
        twice = [name for name in results if name in columns]
        if twice:
            raise InputError(f"columns to keep are called like results: {shown_names(twice)}; rename them")
        columns |= to_arrow(results)
        if self._parquet is None:  # in a file of Arrow a dictionary cannot change
            columns = {name: _plain(self._pa, column) for name, column in columns.items()}
        batch = self._pa.RecordBatch.from_arrays([*columns.values()], names=[*columns])
        self._schema = batch.schema if self._schema is None else self._schema
        if batch.schema != self._schema:
            raise InputError("the types of the model's results change from batch to batch; run the rows apart")
        self._held.append(batch)
        self._num_held += len(result)
        if self._parquet is None or self._num_held >= _GROUP_ROWS:
            self._flush()

    def finish(self) -> None:
        """Write what is left, and the end of the file."""
        if self._held:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._writer is None:
            if self._parquet is None:
                self._writer = self._pa.ipc.new_file(str(self._file), self._schema)
            else:
                texts = text_columns(self._schema)
                self._writer = self._parquet.ParquetWriter(str(self._file), self._schema, use_dictionary=texts or False)
        self._writer.write_table(self._pa.Table.from_batches(self._held))
        self._held, self._num_held = [], 0


def text_columns(schema: Any) -> list[str]:
    """Return the columns of a ``pyarrow.Schema`` for which Parquet should have a dictionary: those of texts.

    A dictionary of numbers that differ takes most of the time and makes the file larger.
    """
    kinds = import_pyarrow("a Parquet file").types
    tests = (kinds.is_string, kinds.is_large_string, kinds.is_dictionary)
    return [field.name for field in schema if any(is_text(field.type) for is_text in tests)]


def _plain(pa: Any, column: Any) -> Any:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _joined(pa: Any, batches: list[Any]) -> Any:
    if len(batches) == 1:
        return batches[0]
    return pa.Table.from_batches(batches).combine_chunks().to_batches()[0]
