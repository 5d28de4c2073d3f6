"""What a session predicts from: inputs, the columns and classes that the model names, and one run with its errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ort_ops.files.inputs import InputError, first_line
from ort_ops.prediction.columns import feature_names
from ort_ops.prediction.elements import numpy_dtype
from ort_ops.prediction.metadata import Labels, read_labels
from ort_ops.prediction.results import ClassNamer
from ort_ops.session import InferenceSession
from ort_ops.training.file_format import GRADIENTS, KEY, TrainingMetadata


@dataclass(frozen=True)
class ModelInput:
    """An input of a model: name, shape (a name or None where a dimension is free) and dtype."""

    name: str
    shape: Sequence[Any]
    dtype: np.dtype[Any]


class ServedModel:
    """What a session predicts from, and how.

    Args:
        session: of any model that takes tensors.

    Attributes:
        session: as given.
        inputs: of the model.
        outputs: of the model, by name, as onnxruntime describes them.
        labels: the columns and classes that its metadata names.
        namer: makes classes of the first output; None for a model that names none.
        fixed_size: the rows that it takes at a time; None for any number.

    Raises: InputError for a training file, for metadata that is broken, and for types that NumPy has not.
    """

    def __init__(self, session: InferenceSession) -> None:
        self.session = session
        metadata = session.get_modelmeta().custom_metadata_map
        _check_predicts(metadata)
        self.inputs = [ModelInput(i.name, i.shape, numpy_dtype(i.type)) for i in session.get_inputs()]
        self.outputs = {output.name: output for output in session.get_outputs()}
        if not self.outputs:
            raise InputError("the model must have an output, got none")
        self.labels = read_labels(metadata)
        if len(self.inputs) == 1:
            _check_columns(self.labels, self.inputs[0].shape)
        self.namer = None if self.labels.classes is None else ClassNamer(self.labels.classes)
        sizes = [i.shape[0] for i in self.inputs if i.shape]
        self.fixed_size = next((size for size in sizes if isinstance(size, int) and size > 0), None)

    def only_input(self) -> ModelInput:
        """Return the input. Raises: InputError for a model with another number of them."""
        if len(self.inputs) != 1:
            names = [found.name for found in self.inputs]
            raise InputError(
                f"`mylinear run` takes models with one input, and this one has {names}; "
                "use ort_ops.batch.Predictor or ort_ops.InferenceSession from Python"
            )
        return self.inputs[0]

    def run(
        self, label: str, feed: Mapping[str, NDArray[Any]], num_before: int, names: Sequence[str] | None = None
    ) -> list[NDArray[Any]]:
        """Run the model on some rows.

        Args:
            label: where the rows are from, for messages.
            feed: the inputs by name, with the same number of rows.
            num_before: rows before these, for messages.
            names: of outputs; None for all.

        Raises: InputError if onnxruntime refuses the rows, or does not return one row for each.
        """
        size = len(next(iter(feed.values())))
        if self.fixed_size is not None:
            self.require_multiple(label, num_before + size)
        try:
            results: list[NDArray[Any]] = self.session.run(names, dict(feed))
        except Exception as error:
            if not type(error).__module__.startswith("onnxruntime"):
                raise
            raise InputError(
                f"{label}, rows {num_before + 1} to {num_before + size}: onnxruntime cannot run the model on "
                f"them: {first_line(error)}"
            ) from error
        for result in results:
            if not isinstance(result, np.ndarray) or result.ndim == 0 or len(result) != size:
                got = list(result.shape) if isinstance(result, np.ndarray) else type(result).__name__
                raise InputError(
                    f"the model's output must have a row for each row of its input, got {got} for {size} rows; "
                    "use ort_ops.InferenceSession from Python"
                )
        return results

    def empty(self, name: str) -> NDArray[Any]:
        """Return an output for no rows; a free dimension is empty too."""
        output = self.outputs[name]
        shape = [size if isinstance(size, int) else 0 for size in output.shape[1:]]
        return np.empty((0, *shape), numpy_dtype(output.type))

    def require_multiple(self, label: str, count: int) -> None:
        """Raise InputError for a number of rows that a model with a fixed batch cannot take."""
        if self.fixed_size is not None and count % self.fixed_size:
            raise InputError(
                f"the model takes exactly {self.fixed_size} rows at a time, and {label} has {count}; "
                "export it with a free batch dimension, or give a multiple"
            )


def _check_predicts(metadata: Mapping[str, str]) -> None:
    """Raise InputError for a training file that updates a state: its outputs are no predictions."""
    if KEY in metadata and TrainingMetadata.from_json(metadata[KEY]).kind != GRADIENTS:
        raise InputError(
            "the model is a training file, which computes a training step and no predictions; write the model that it "
            "trains by ort_ops.Trainer(file).export_inference('model.onnx'), and run that"
        )


def _check_columns(labels: Labels, shape: Sequence[Any]) -> None:
    """Raise InputError if the columns that the metadata names do not make a row of the model's input."""
    if labels.columns is None or not shape or not isinstance(shape[-1], int):
        return
    count = len(feature_names(labels.columns))
    if count != shape[-1]:
        raise InputError(
            f"the model's metadata names {count} inputs, and a row of the model has {shape[-1]}; export the model again"
        )
