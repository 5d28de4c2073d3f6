"""A model for MLflow that runs our kernels; MLflow saves this file as the model's code."""

import mlflow
from mlflow.pyfunc import PythonModel, PythonModelContext

from ort_ops.batch import Predictor


class Served(PythonModel):
    """Predict rows by the ONNX file of the model, which is the artifact ``model``."""

    def load_context(self, context: PythonModelContext) -> None:
        """Take the file; the session opens at the first rows."""
        self.predictor = Predictor(context.artifacts["model"], raw=True)

    def predict(self, context, model_input, params=None):  # MLflow would check types that are given here
        """Return the model's output for rows."""
        return self.predictor(model_input)


mlflow.models.set_model(Served())
