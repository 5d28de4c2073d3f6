"""The model of an MLflow folder, loaded once in each process that predicts."""

import functools
import os

import mlflow
import numpy as np

MODEL = os.environ.get("MODEL", "served")
load_model = functools.cache(mlflow.pyfunc.load_model)


def predict(rows: np.ndarray) -> np.ndarray:
    """Return the model's output for rows."""
    return np.asarray(load_model(MODEL).predict(rows))
