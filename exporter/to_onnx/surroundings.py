"""Put a model and torch into the state for an export, and back again."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def prepared(model: nn.Module, training: bool | None) -> Iterator[None]:
    """Put a model in training or eval mode (None: neither), uncompiled, and keep torch's exporters quiet."""
    with _mode(model, training), _uncompiled(model), _quiet():
        yield


@contextmanager
def every_layer() -> Iterator[None]:
    """Let the transformer layers of torch call their parts, as exporters need; the fast path goes around them."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def _mode(module: nn.Module, training: bool | None) -> Iterator[None]:
    """Put a module in training or eval mode, and each of its parts back afterwards; None changes nothing."""
    was_training = {part: part.training for part in module.modules()}
    try:
        if training is not None:
            module.train(training)
        yield
    finally:
        for part, mode in was_training.items():
            part.training = mode


@contextmanager
def _uncompiled(model: nn.Module) -> Iterator[None]:
    """Let the parts of a model that torch.compile made, or ``Module.compile``, run as they are written.

    TorchScript's tracer refuses them, also where nothing is to be compiled.
    """
    before = [(part, vars(part).get("_compiled_call_impl"), vars(part).get("forward")) for part in model.modules()]
    try:
        for part, _, _ in before:
            vars(part).pop("_compiled_call_impl", None)
            original = getattr(part, "_orig_mod", None)
            if isinstance(original, nn.Module):
                vars(part)["forward"] = original.forward
        yield
    finally:
        for part, compiled, forward in before:
            if compiled is not None:
                vars(part)["_compiled_call_impl"] = compiled
            if isinstance(getattr(part, "_orig_mod", None), nn.Module) and forward is not None:
                vars(part)["forward"] = forward


_ASKED_FOR = (
    r".*The axis name: \w+ will not be used",  # two inputs with one name for their batch dimension
    "Exporting a model while it is in training mode",
    "Exporting a model to ONNX with a batch_size other than 1",  # other sizes are compared
    r"The tensor attributes? .* assigned during export",
    "ONNX Preprocess - Removing mutation from node",  # outputs are compared
    "TF32 acceleration on top of oneDNN",  # said wherever oneDNN is switched off
    r"The \.grad attribute of a Tensor that is not a leaf Tensor",
)
"""Warnings of torch's exporters about what is intended, checked, or their own doing."""


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's exporters where a caller of `export` can do nothing."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for category in (DeprecationWarning, FutureWarning, torch.jit.TracerWarning):  # type: ignore[attr-defined]
                warnings.simplefilter("ignore", category)
            for message in _ASKED_FOR:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
