"""Predict for batches that an engine such as Ray or Spark hands out.

>>> import numpy as np
>>> from ort_ops.batch import Predictor
>>> Predictor("models/linear.onnx")(np.array([[3.0, 2.0]])).round(3)
array([[16.]])
"""

from ort_ops.batch.predictor import Predictor

__all__ = ["Predictor"]
