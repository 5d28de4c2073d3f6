"""`mylinear run`: predictions for the rows of a file, read and written in batches."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from ort_ops.contract import MYLINEAR
from ort_ops.errors import MylinearError
from ort_ops.files import open_atomically
from ort_ops.progress import progress
from ort_ops.session import InferenceSession

FEATURES_KEY = "mylinear.features"
"""Model metadata entry: the JSON list of the columns that the model was trained on, in order."""


class InputError(MylinearError, ValueError):
    """Rows that the model cannot take; the message names file, line and column."""


@dataclass(frozen=True)
class Rows:
    """The rows of an input: their number if it is known beforehand, and a function that reads them in batches."""

    count: int | None
    batches: Iterator[NDArray[Any]]


def predict(
    session: InferenceSession,
    source: str,
    output: str | Path | None = None,
    *,
    batch_size: int = 1024,
    stream: TextIO | None = None,
) -> int:
    """Run the model on every row of ``source`` and write the results, batch by batch.

    Args:
        session: of a model with one input.
        source: a ``.csv`` file (a header is optional), a ``.npy`` file ``[rows, ...]``, or rows in text:
            ``"3,2"`` or ``"3,2; 1,5"``.
        output: a ``.csv`` or ``.npy`` file, replaced only when all rows are done; None writes CSV to ``stream``.
        batch_size: rows per run.
        stream: where CSV goes without ``output``.

    Returns: the number of rows.
    Raises: InputError for rows that the model cannot take, OutputError.
    """
    if batch_size < 1:
        raise InputError(f"the batch size must be 1 or more, got {batch_size}")
    if output is not None and Path(output).suffix not in (".csv", ".npy"):
        raise InputError(f"the output must be a .csv or .npy file, got '{output}'")
    rows = _open(session, source, batch_size)
    if output is not None and Path(output).suffix == ".npy":
        results = [*_results(session, rows, source)]
        with open_atomically(output) as temporary, temporary.open("wb") as file:
            np.save(file, np.concatenate(results))
        return sum(map(len, results))
    with ExitStack() as stack:
        if output is not None:
            stream = stack.enter_context(stack.enter_context(open_atomically(output)).open("w", newline=""))
        assert stream is not None
        writer = csv.writer(stream, lineterminator="\n")
        count = 0
        for result in _results(session, rows, source):
            flat = result.reshape(len(result), -1)
            if count == 0:
                writer.writerow(_column_names(session.get_outputs()[0].name, flat.shape[1]))
            writer.writerows([str(value) for value in row] for row in flat)
            count += len(result)
    return count


def _results(session: InferenceSession, rows: Rows, source: str) -> Iterator[NDArray[Any]]:
    """Run every batch, with a progress line where there is more than one."""
    name = session.get_inputs()[0].name
    done = 0
    first = next(rows.batches, None)
    if first is None:
        raise InputError(f"'{source}' has no rows")
    second = next(rows.batches, None)
    if second is None:
        yield session.run(None, {name: first})[0]
        return
    with progress("run", rows.count) as line:
        for batch in _chain(first, second, rows.batches):
            result: NDArray[Any] = session.run(None, {name: batch})[0]
            done += len(batch)
            line.update(done, "rows")
            yield result


def _chain(first: Any, second: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield second
    yield from rest


def _open(session: InferenceSession, source: str, batch_size: int) -> Rows:
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise InputError(
            f"`mylinear run` takes models with one input, and this one has {[value.name for value in inputs]}; "
            "use ort_ops.InferenceSession from Python"
        )
    shape, dtype = inputs[0].shape, _numpy_dtype(inputs[0].type)
    suffix = Path(source).suffix.lower()
    if suffix == ".npy":
        return _open_npy(source, shape, dtype, batch_size)
    if len(shape) != 2 or not isinstance(shape[1], int):
        raise InputError(f"the model takes an input of shape {shape}; give it as a .npy file")
    if suffix == ".csv":
        features = json.loads(session.get_modelmeta().custom_metadata_map.get(FEATURES_KEY, "null"))
        return Rows(None, _read_csv(source, shape[1], features, dtype, batch_size))
    if Path(source).exists():
        raise InputError(f"'{source}' must be a .csv or .npy file")
    return Rows(None, iter([_parse_text(source, shape[1]).astype(dtype)]))


def _parse_text(text: str, num_columns: int) -> NDArray[np.float64]:
    rows = []
    for number, row in enumerate(text.split(";"), 1):
        cells = row.split(",")
        try:
            rows.append([float(cell) for cell in cells])
        except ValueError:
            raise InputError(
                f"the input must be an existing .csv or .npy file, or numbers such as \"3,2\", got '{text}'"
            ) from None
        if len(cells) != num_columns:
            raise InputError(f"row {number} of '{text}' must have {num_columns} numbers, got {len(cells)}")
    return np.array(rows)


def _open_npy(source: str, shape: Sequence[Any], dtype: np.dtype[Any], batch_size: int) -> Rows:
    try:
        array = np.load(source, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"there is no file '{source}'") from None
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"'{source}' is not a .npy file of numbers: {error}") from error
    if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
        raise InputError(f"'{source}' must hold numbers, got dtype {array.dtype}")
    wrong = [i for i, dim in enumerate(shape[1:], 1) if isinstance(dim, int) and array.shape[i : i + 1] != (dim,)]
    if array.ndim != len(shape) or wrong:
        raise InputError(f"'{source}' must have shape {list(shape)}, as the model's input, got {list(array.shape)}")
    if array.ndim == 0 or len(array) == 0:
        raise InputError(f"'{source}' has no rows")
    starts = range(0, len(array), batch_size) if not isinstance(shape[0], int) else [0]
    size = batch_size if not isinstance(shape[0], int) else len(array)
    return Rows(len(array), (np.asarray(array[start : start + size]).astype(dtype) for start in starts))


def _read_csv(
    source: str, num_columns: int, features: list[str] | None, dtype: np.dtype[Any], batch_size: int
) -> Iterator[NDArray[Any]]:
    """Yield batches of the file's rows; of its columns those that the model's metadata names, if they are there."""
    chosen: list[int] | None = None
    width: int | None = None
    batch: list[list[float]] = []
    has_rows = False
    try:
        with open(source, newline="", encoding="utf-8-sig") as file:
            for number, cells in enumerate(csv.reader(file), 1):
                if not cells or not any(cell.strip() for cell in cells):
                    continue
                if width is None:
                    width = len(cells)
                    is_header = not any(map(_is_number, cells))
                    if is_header and features and set(features) <= {cell.strip() for cell in cells}:
                        chosen = [[cell.strip() for cell in cells].index(feature) for feature in features]
                    elif width != num_columns:
                        names = f": {', '.join(features)}" if features else ""
                        raise InputError(f"'{source}' must have {num_columns} columns{names}; it has {width}")
                    if is_header:
                        continue
                if len(cells) != width:
                    raise InputError(f"'{source}' line {number} must have {width} columns, got {len(cells)}")
                columns = range(width) if chosen is None else chosen
                batch.append([_parse_cell(source, number, column, cells[column]) for column in columns])
                has_rows = True
                if len(batch) == batch_size:
                    yield np.array(batch).astype(dtype)
                    batch = []
    except FileNotFoundError:
        raise InputError(f"there is no file '{source}'") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"'{source}' cannot be read as CSV: {error}") from error
    if not has_rows:
        raise InputError(f"'{source}' has no rows")
    if batch:
        yield np.array(batch).astype(dtype)


def _parse_cell(source: str, line: int, column: int, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        what = f"got '{text.strip()}'" if text.strip() else "got nothing; fill it in or leave the row out"
        raise InputError(f"'{source}' line {line}, column {column + 1} must be a number, {what}") from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numpy_dtype(onnx_name: str) -> np.dtype[Any]:
    import ml_dtypes  # noqa: F401  # makes np.dtype know bfloat16

    for element_type in MYLINEAR.element_types:
        if element_type.onnx_name == onnx_name:
            dtype: np.dtype[Any] = np.dtype(element_type.name)
            return dtype
    raise InputError(f"the model's input must be {MYLINEAR.element_type_rule}, got {onnx_name}")


def _column_names(output: str, count: int) -> list[str]:
    return [output] if count == 1 else [f"{output}{i}" for i in range(count)]
