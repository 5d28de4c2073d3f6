"""The options of a training, and their defaults for each problem."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ort_ops.errors import MylinearError
from ort_ops.opdef.element_types import FLOATS

ENGINES = ("torch", "onnxruntime")
OPTIMIZERS = ("sgd", "adamw")
LOGS = ("tensorboard", "mlflow")
DTYPES = tuple(element_type.name for element_type in FLOATS)


class OptionError(MylinearError, ValueError):
    """An option is outside its range, or does not fit the others."""


def _check(name: str, value: object, is_right: bool, rule: str) -> None:
    if not is_right:
        raise OptionError(f"{name} must be {rule}, got {value}")


@dataclass(frozen=True)
class TrainingOptions:
    """How to train.

    Attributes:
        epochs: passes over the training rows in all, with those before a resume. For the linear example,
            which has no fixed rows, an epoch is one step on one fresh batch.
        batch_size: rows per step.
        lr: learning rate.
        optimizer: ``sgd`` or ``adamw``.
        momentum: of ``sgd``.
        weight_decay: of either; coupled for ``sgd``, decoupled for ``adamw``, as torch has them.
        hidden: outputs of each hidden layer; none for a single layer.
        dtype: of parameters, inputs and outputs.
        device: ``auto`` (CUDA if there is one), ``cpu``, or any other for ``torch.device``.
        seed: of the initialization, the order of the rows and the split.
        validation: fraction of the rows that is kept for validation; 0 for none.
        standardize: whether inputs (and targets of a regression) are standardized within the network.
        checkpoint_interval: epochs between checkpoints; there is always one after the last epoch.
        engine: what computes the steps: ``torch``, or ``onnxruntime``, on the CPU and not in bfloat16.

    Raises: OptionError.
    """

    epochs: int = 40
    batch_size: int = 32
    lr: float = 1e-3
    optimizer: str = "adamw"
    momentum: float = 0.9
    weight_decay: float = 1e-2
    hidden: tuple[int, ...] = (64, 32)
    dtype: str = "float32"
    device: str = "auto"
    seed: int = 0
    validation: float = 0.2
    standardize: bool = True
    checkpoint_interval: int = 1
    engine: str = "torch"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "checkpoint_interval"):
            _check(name, getattr(self, name), getattr(self, name) >= 1, "1 or more")
            _check(name, getattr(self, name), getattr(self, name) < 2**63, "below 2**63")
        _check("lr", self.lr, math.isfinite(self.lr) and self.lr > 0, "a number above 0")
        _check("momentum", self.momentum, 0 <= self.momentum < 1, "at least 0 and below 1")
        _check("weight_decay", self.weight_decay, 0 <= self.weight_decay < math.inf, "a number, 0 or more")
        _check("validation", self.validation, 0 <= self.validation < 1, "at least 0 and below 1")
        _check("seed", self.seed, 0 <= self.seed < 2**63, "at least 0 and below 2**63")
        _check("optimizer", self.optimizer, self.optimizer in OPTIMIZERS, " or ".join(OPTIMIZERS))
        _check("engine", self.engine, self.engine in ENGINES, " or ".join(ENGINES))
        _check("dtype", self.dtype, self.dtype in DTYPES, " or ".join(DTYPES))
        object.__setattr__(self, "hidden", tuple(self.hidden))
        _check(
            "hidden", self.hidden, all(1 <= size < 2**31 for size in self.hidden), "sizes of 1 or more, and below 2**31"
        )
        if self.engine == "onnxruntime":
            self._check_onnxruntime()

    def _check_onnxruntime(self) -> None:
        """Raise OptionError for what onnxruntime cannot do."""
        if self.device not in ("auto", "cpu"):
            raise OptionError(
                f"engine onnxruntime trains on the CPU, got device {self.device}; use device cpu, or engine torch"
            )
        if self.dtype == "bfloat16":
            raise OptionError(
                "engine onnxruntime cannot train in bfloat16, for which it has no kernels on the CPU; use dtype "
                "float32, or engine torch"
            )


DEFAULTS: Mapping[str, TrainingOptions] = {
    "linear": TrainingOptions(
        epochs=300,
        batch_size=1,
        lr=0.01,
        optimizer="sgd",
        momentum=0.9,
        weight_decay=5e-4,
        hidden=(),
        dtype="float64",
        standardize=False,
        checkpoint_interval=50,
    ),
    "digits": TrainingOptions(),
    "diabetes": TrainingOptions(hidden=(16,)),
    "file": TrainingOptions(),
}
"""The default options of `mylinear train`, by problem."""
OLD_NAMES = {"article": "linear"}
"""Problems under the names that they had before."""


def default_options(problem: str, optimizer: str | None = None) -> TrainingOptions:
    """Return the defaults of a problem, with rates that suit the optimizer if it is not the problem's own.

    Args:
        problem: a name in `DEFAULTS` or `OLD_NAMES`; any other is taken as a file.
        optimizer: ``sgd`` or ``adamw``; None for the problem's own.
    """
    options = DEFAULTS.get(OLD_NAMES.get(problem, problem), DEFAULTS["file"])
    if optimizer is None or optimizer == options.optimizer:
        return options
    suited = DEFAULTS["linear" if optimizer == "sgd" else "file"]
    return replace(options, optimizer=optimizer, lr=suited.lr, weight_decay=suited.weight_decay)
