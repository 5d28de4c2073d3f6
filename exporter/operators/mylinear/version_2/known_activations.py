"""Which modules and functions of torch, and of transformers, are activations of the operator, number for number."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

_MODULES: dict[type[nn.Module], str] = {nn.ReLU: "relu", nn.SiLU: "silu", nn.Sigmoid: "sigmoid", nn.Tanh: "tanh"}
_GELU = {"none": "gelu", "tanh": "gelu_tanh"}
_FUNCTIONS: tuple[tuple[Any, str], ...] = (
    (F.relu, "relu"),
    (torch.relu, "relu"),
    (F.gelu, "gelu"),
    (F.silu, "silu"),
    (F.sigmoid, "sigmoid"),
    (torch.sigmoid, "sigmoid"),
    (F.tanh, "tanh"),
    (torch.tanh, "tanh"),
)
_TRANSFORMERS = {"SiLUActivation": "silu", "PytorchGELUTanh": "gelu_tanh"}
"""Classes of ``transformers.activations`` that call torch's function, whatever their attributes are."""


def activation_of(value: Any) -> str | None:
    """Return the name of the operator's activation that a module or function computes; None for any other.

    >>> activation_of(nn.GELU(approximate="tanh")), activation_of(F.relu), activation_of(nn.ELU())
    ('gelu_tanh', 'relu', None)
    """
    kind = type(value)
    if kind in _MODULES:
        return _MODULES[kind]
    if kind is nn.GELU:
        return _GELU.get(value.approximate)
    if isinstance(value, partial) and value.func is F.gelu and not value.args:
        return _GELU.get(value.keywords.get("approximate", "none")) if set(value.keywords) <= {"approximate"} else None
    if kind.__module__ == "transformers.activations":
        calls = vars(value).get("act")  # of those that choose between torch's function and a spelling of their own
        return _TRANSFORMERS.get(kind.__name__) or (None if calls is None else activation_of(calls))
    return next((name for function, name in _FUNCTIONS if value is function), None)
