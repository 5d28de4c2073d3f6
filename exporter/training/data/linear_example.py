"""The linear example: y = 2 x0 + 3 x1 + 4, a fresh sample at each step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from exporter.training.data.dataset import DataDescription, Dataset, Task
from ort_ops.prediction.columns import plain_columns

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class LinearExample:
    """``y = 2 x0 + 3 x1 + 4`` with x uniform in [0, 1)^2: a fresh sample at each step, and no fixed rows."""

    name: str = "linear"
    task: Task = "regression"
    feature_names: tuple[str, ...] = ("x0", "x1")
    weight: tuple[float, float] = (2.0, 3.0)
    bias: float = 4.0

    def sample(self, rows: int, generator: torch.Generator, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Return x ``[rows, 2]`` and y ``[rows, 1]``, which continue the generator's stream."""
        import torch

        x = torch.rand(rows, 2, generator=generator, dtype=dtype)
        y = self.weight[0] * x[:, :1] + self.weight[1] * x[:, 1:] + self.bias
        return x, y

    def fixed_rows(self, rows: int, seed: int) -> Dataset:
        """Return rows to validate with, which take nothing from the training's stream."""
        x = np.random.default_rng([seed, rows]).random((rows, 2))
        y = x @ np.array([self.weight]).T + self.bias
        return Dataset(self.name, self.task, x, y, self.feature_names)

    def describe(self) -> DataDescription:
        """Return the description, with the formula in place of a fingerprint."""
        formula = f"y = {self.weight[0]:g} x0 + {self.weight[1]:g} x1 + {self.bias:g}"
        columns = plain_columns(self.feature_names)
        return DataDescription(self.name, self.task, 0, self.feature_names, None, formula, columns)
