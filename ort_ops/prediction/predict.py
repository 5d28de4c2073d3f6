"""`mylinear run`: predictions for the rows of a file, read and written in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from ort_ops.console.progress import progress
from ort_ops.files.atomic import open_atomically
from ort_ops.files.inputs import InputError, first_line
from ort_ops.prediction.columns import feature_names
from ort_ops.prediction.elements import numpy_dtype
from ort_ops.prediction.metadata import Labels, read_labels
from ort_ops.prediction.results import ClassNamer, CsvWriter, NpyWriter
from ort_ops.prediction.rows import RowReader, Rows
from ort_ops.session import InferenceSession
from ort_ops.training.file_format import GRADIENTS, KEY, TrainingMetadata

OUTPUT_SUFFIXES = (".csv", ".npy")


def predict(
    session: InferenceSession,
    source: str,
    output: str | Path | None = None,
    *,
    batch_size: int = 1024,
    stream: TextIO | None = None,
    raw: bool = False,
    positional: bool = False,
    tell: Callable[[str], None] = lambda text: None,
) -> int:
    """Run the model on every row of ``source`` and write the results, batch by batch.

    Where the model's metadata names the columns that it was trained on, a CSV file's header must name them all, in any
    order, and may have others; a file without a header has them in their order. Categories and missing numbers become
    what they were in training. If the metadata names classes, the result for a row is its most probable class and the
    probability.

    Args:
        session: of a model with one input.
        source: a ``.csv`` file, a ``.npy`` file ``[rows, ...]``, or rows in text: ``"3,2"`` or ``"3,2; 1,5"``.
        output: a ``.csv`` or ``.npy`` file, replaced only when all rows are done; None writes CSV to ``stream``.
        batch_size: rows per run; a model with a fixed batch gets that.
        stream: where CSV goes without ``output``.
        raw: whether to write the model's own numbers, also where it names classes.
        positional: whether to take the columns of a CSV file in their order, whatever its header says.
        tell: called with a sentence on how the file was understood, where that is not obvious.

    Returns: the number of rows.
    Raises: InputError for rows that the model cannot take, and for a training file; OutputError.
    """
    if batch_size < 1:
        raise InputError(f"the batch size must be 1 or more, got {batch_size}")
    if output is not None and Path(output).suffix not in OUTPUT_SUFFIXES:
        raise InputError(f"the output must be a .csv or .npy file, got '{output}'")
    metadata = session.get_modelmeta().custom_metadata_map
    _check_predicts(metadata)
    model_input = _only_input(session)
    labels = read_labels(metadata)
    _check_columns(labels, model_input.shape)
    size = model_input.shape[0] if model_input.shape else None
    fixed = size if isinstance(size, int) and size > 0 else None
    reader = RowReader(
        model_input.shape, numpy_dtype(model_input.type), labels.columns, fixed or batch_size, positional, tell
    )
    rows = reader.open(source)
    if fixed is not None and rows.count is not None:
        _require_multiple(source, rows.count, fixed)
    namer = None if raw or labels.classes is None else ClassNamer(labels.classes)
    results = _results(session, model_input.name, rows, source, fixed)
    return _write(results, namer, output, stream, session.get_outputs()[0].name)


def _write(
    results: Iterator[NDArray[Any]],
    namer: ClassNamer | None,
    output: str | Path | None,
    stream: TextIO | None,
    name: str,
) -> int:
    with ExitStack() as stack:
        writer: CsvWriter | NpyWriter
        if output is None:
            assert stream is not None
            writer = CsvWriter(stream, name)
        else:
            temporary = stack.enter_context(open_atomically(output))
            if Path(output).suffix == ".npy":
                writer = NpyWriter(stack.enter_context(temporary.open("wb")))
            else:
                writer = CsvWriter(stack.enter_context(temporary.open("w", encoding="utf-8", newline="")), name)
        count = 0
        for result in results:
            writer.write(result if namer is None else namer(result, count + 1))
            count += len(result)
        writer.finish()
    return count


def _results(
    session: InferenceSession, name: str, rows: Rows, source: str, fixed: int | None
) -> Iterator[NDArray[Any]]:
    """Run every batch, with a progress line where there is more than one."""
    first = next(rows.batches, None)
    if first is None:
        raise InputError(f"'{source}' has no rows")
    second = next(rows.batches, None)
    if second is None:
        yield _run(session, name, first, 0, source, fixed)
        return
    done = 0
    with progress("run", rows.count) as line:
        for batch in chain([first, second], rows.batches):
            result = _run(session, name, batch, done, source, fixed)
            done += len(batch)
            line.update(done, "rows")
            yield result


def _run(
    session: InferenceSession, name: str, batch: NDArray[Any], num_before: int, source: str, fixed: int | None
) -> NDArray[Any]:
    """Run one batch. Raises: InputError if onnxruntime refuses it, or does not return one row for each."""
    if fixed is not None:
        _require_multiple(source, num_before + len(batch), fixed)
    try:
        result: NDArray[Any] = session.run(None, {name: batch})[0]
    except Exception as error:
        if not type(error).__module__.startswith("onnxruntime"):
            raise
        raise InputError(
            f"'{source}', rows {num_before + 1} to {num_before + len(batch)}: onnxruntime cannot run the model on "
            f"them: {first_line(error)}"
        ) from error
    if not isinstance(result, np.ndarray) or result.ndim == 0 or len(result) != len(batch):
        got = list(result.shape) if isinstance(result, np.ndarray) else type(result).__name__
        raise InputError(
            f"the model's output must have a row for each row of its input, got {got} for {len(batch)} rows; "
            "use ort_ops.InferenceSession from Python"
        )
    return result


def _check_predicts(metadata: Mapping[str, str]) -> None:
    """Raise InputError for a training file that updates a state: its outputs are no predictions."""
    if KEY in metadata and TrainingMetadata.from_json(metadata[KEY]).kind != GRADIENTS:
        raise InputError(
            "the model is a training file, which computes a training step and no predictions; write the model that it "
            "trains by ort_ops.Trainer(file).export_inference('model.onnx'), and run that"
        )


def _only_input(session: InferenceSession) -> Any:
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise InputError(
            f"`mylinear run` takes models with one input, and this one has {[value.name for value in inputs]}; "
            "use ort_ops.InferenceSession from Python"
        )
    if not session.get_outputs():
        raise InputError("the model must have an output, got none")
    return inputs[0]


def _check_columns(labels: Labels, shape: Sequence[Any]) -> None:
    """Raise InputError if the columns that the metadata names do not make a row of the model's input."""
    if labels.columns is None or not shape or not isinstance(shape[-1], int):
        return
    count = len(feature_names(labels.columns))
    if count != shape[-1]:
        raise InputError(
            f"the model's metadata names {count} inputs, and a row of the model has {shape[-1]}; export the model again"
        )


def _require_multiple(source: str, count: int, fixed: int) -> None:
    if count % fixed:
        raise InputError(
            f"the model takes exactly {fixed} rows at a time, and '{source}' has {count}; "
            "export it with a free batch dimension, or give a multiple"
        )
