"""A predictor that travels to the workers of Ray, Spark or Dask, and opens its session there."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ort_ops.batch.sessions import served_model, threads_given
from ort_ops.files.inputs import InputError, shown_names
from ort_ops.prediction.arrow import ArrowTable, import_pyarrow, to_arrow
from ort_ops.prediction.columns import plain_columns
from ort_ops.prediction.served import ServedModel
from ort_ops.prediction.tables import ArrayTable, Table
from ort_ops.prediction.targets import Target, choose_targets
from ort_ops.session import InferenceSession

_LABEL = "the batch"


class Predictor:
    """Predict for a batch of rows; called by an engine in its workers, or by a loop of yours.

    It can be pickled: it holds the path (or the bytes) of the model and no session. A session is opened at the first
    batch, one for each model in a process, also after a fork. Results do not depend on how rows are cut into batches
    only as far as the model's own do not.

    Args:
        model: path of the model, which the workers must see under the same name, or its bytes, which travel along; or
            the folder of a bundle, which each process checks as `load_bundle` does before it opens the session.
        columns: those that make the model's input, in order; or for a model with several inputs, a dictionary of the
            column, or the columns, of each. By default what the model's metadata names; for a model without, a column
            called like the input, or as many columns as it takes, in their order.
        keep: columns to copy into the result, such as a key; ``"all"`` for every one.
        raw: whether to return the model's own numbers, also where it names classes.
        batch_size: rows in a run of the session; a batch may have more or fewer.
        kernels: as in `InferenceSession`, or for a bundle as in `load_bundle`.
        threads: of the session; None for what the engine gives: ``OMP_NUM_THREADS``, which Ray, Spark and Dask set to
            the CPUs of the task, else 1.
        sha256: of the bundle's manifest, as for `load_bundle`; None to take any.

    Raises: InputError for arguments that cannot be right.
    """

    def __init__(
        self,
        model: str | Path | bytes,
        *,
        columns: Sequence[str] | Mapping[str, str | Sequence[str]] | None = None,
        keep: Sequence[str] | str = (),
        raw: bool = False,
        batch_size: int = 1024,
        kernels: str = "auto",
        threads: int | None = None,
        sha256: str | None = None,
    ) -> None:
        if batch_size < 1 or (threads is not None and threads < 1):
            raise InputError(f"batch_size and threads must be 1 or more, got {batch_size} and {threads}")
        if isinstance(columns, str) or (isinstance(keep, str) and keep != "all"):
            raise InputError(f"columns and keep must be lists of names, got {columns!r} and {keep!r}")
        self._model = model if isinstance(model, bytes) else str(Path(model).absolute())
        self._columns, self._keep = columns, keep
        self._raw, self._batch_size, self._kernels, self._threads = raw, batch_size, kernels, threads
        self._sha256 = sha256

    @property
    def session(self) -> InferenceSession:
        """This process's session, opened now if it was not before."""
        return self._served().session

    def __call__(self, batch: Any) -> Any:
        """Return the predictions for a batch, in the kind of the batch.

        ========================  ==============================================================================
        batch                     result
        ========================  ==============================================================================
        NumPy array               the output ``[rows, ...]``; an array of (class, probability) for a classifier
        dictionary of arrays      a dictionary: the columns kept, and each output, or ``class`` and ``probability``
        Arrow RecordBatch, Table  the same columns in a RecordBatch or Table; lists where a row has several numbers
        pandas DataFrame          the same columns, with the index of the batch
        ========================  ==============================================================================

        A missing value (Arrow's null, pandas' NaN) is an error, or what the model's metadata names for it. NaN of NumPy
        is a value.

        Raises: InputError for a batch that the model cannot take; the message names row and column. Rows count from 1.
        """
        if isinstance(batch, np.ndarray):
            return self._predict_array(batch)
        if isinstance(batch, Mapping):
            kept, results = self._predict(ArrayTable(batch))
            return {name: batch[name] for name in kept} | results
        pandas, pyarrow = sys.modules.get("pandas"), sys.modules.get("pyarrow")
        if pyarrow is not None and isinstance(batch, pyarrow.RecordBatch | pyarrow.Table):
            kept, results = self._predict(ArrowTable(batch))
            columns = {name: batch.column(name) for name in kept} | to_arrow(results)
            return type(batch).from_arrays([*columns.values()], names=[*columns])
        if pandas is not None and isinstance(batch, pandas.DataFrame):
            if not batch.columns.is_unique:
                raise InputError(
                    f"{_LABEL} has two columns of the same name: {shown_names([*map(str, batch.columns)])}"
                )
            table = import_pyarrow("a DataFrame").Table.from_pandas(batch, preserve_index=False)
            kept, results = self._predict(ArrowTable(table))
            cells = {name: [*array] if array.ndim > 1 else array for name, array in results.items()}
            places = [table.schema.names.index(name) for name in kept]  # a DataFrame may name columns by numbers
            return batch.iloc[:, places].assign(**{name: pandas.Series(c, batch.index) for name, c in cells.items()})
        raise InputError(
            "a batch must be a NumPy array, a dictionary of arrays, an Arrow RecordBatch or Table, or a pandas "
            f"DataFrame, got {type(batch).__name__}"
        )

    def arrow_schema(self, schema: Any) -> Any:
        """Return the ``pyarrow.Schema`` of the result for batches of a schema; Spark asks for it beforehand.

        Raises: as a call.
        """
        result = self(import_pyarrow("a schema").RecordBatch.from_pylist([], schema=schema))
        return result.schema

    def columns_read(self, names: Sequence[str]) -> list[str]:
        """Return those of a table's columns that a call reads or keeps; an engine need not load the others.

        Raises: InputError if one is missing.
        """
        kept = self._kept(names)
        read = [
            c.name for target in choose_targets(_LABEL, self._served(), names, self._columns) for c in target.columns
        ]
        lacking = [name for name in read if name not in names]
        if lacking:
            raise InputError(f"the table lacks {len(lacking)} of the model's columns: {shown_names(lacking)}")
        return [name for name in names if name in {*kept, *read}]

    def _predict_array(self, batch: NDArray[Any]) -> NDArray[Any]:
        model = self._served()
        if len(model.inputs) != 1 or len(model.outputs) != 1:
            raise InputError(
                f"an array is for a model with one input and one output, and this one has inputs "
                f"{[found.name for found in model.inputs]} and outputs {[*model.outputs]}; give a dictionary of arrays"
            )
        target = Target(model.inputs[0], plain_columns([model.inputs[0].name]))
        result = self._run(model, ArrayTable({model.inputs[0].name: batch}), [target])[0]
        return result if self._raw or model.namer is None else model.namer(result, 1)

    def _predict(self, table: Table) -> tuple[list[str], dict[str, NDArray[Any]]]:
        """Return the names of the columns to keep, and the results ``[rows, ...]`` by name. Raises: InputError."""
        model = self._served()
        kept = self._kept(table.names)
        found = self._run(model, table, choose_targets(_LABEL, model, table.names, self._columns))
        results = dict(zip(model.outputs, found, strict=True))
        if model.namer is not None and not self._raw:
            named = model.namer(found[0], 1)
            results = {name: named[name] for name in named.dtype.names or ()} | dict([*results.items()][1:])
        twice = [name for name in kept if name in results]
        if twice:
            raise InputError(f"columns to keep are called like results: {shown_names(twice)}; rename them")
        return kept, results

    def _kept(self, names: Sequence[str]) -> list[str]:
        kept = [*names] if self._keep == "all" else [*self._keep]
        lacking = [name for name in kept if name not in names]
        if lacking:
            has = shown_names([*names]) or "none"
            raise InputError(f"{_LABEL} lacks columns to keep: {shown_names(lacking)}; it has {has}")
        return kept

    def _run(self, model: ServedModel, table: Table, targets: Sequence[Target]) -> list[NDArray[Any]]:
        taken = {target.input.name: target.take(_LABEL, table) for target in targets}
        if table.num_rows == 0:
            return [model.empty(name) for name in model.outputs]
        model.require_multiple(_LABEL, table.num_rows)
        size = model.fixed_size or self._batch_size
        parts = []
        for start in range(0, table.num_rows, size):
            feed = {name: columns.rows(start, start + size) for name, columns in taken.items()}
            parts.append(model.run(_LABEL, feed, start))
        return [np.concatenate(part) if len(part) > 1 else part[0] for part in zip(*parts, strict=True)]

    def _served(self) -> ServedModel:
        return served_model(self._model, self._kernels, self._threads or threads_given(), self._sha256)
