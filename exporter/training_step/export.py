"""Export one training step as an ONNX file: forward, loss, backward and optimizer, with the state inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from exporter.errors import ExportError
from exporter.to_onnx.checks.agreement import root_cause
from exporter.to_onnx.example_call import kind_of
from exporter.to_onnx.finish import finish
from exporter.to_onnx.surroundings import prepared
from exporter.to_onnx.versions import choose_opset
from exporter.torch_ops.kit import torch_kits
from exporter.training_step.check.graph_check import without_outputs
from exporter.training_step.check.step_check import check_step
from exporter.training_step.graphs import first_values_stated, write
from exporter.training_step.inference import NAME, Inference, add_function, make_inference
from exporter.training_step.network import Loss, in_mode, make_network
from exporter.training_step.optimizers.read import read_optimizer
from exporter.training_step.result import TrainingExport, make_result
from exporter.training_step.step import StepFile, make_halves, make_plan, make_step
from exporter.training_step.trace import Program
from ort_ops.files.atomic import check_output
from ort_ops.training.check import check_training
from ort_ops.training.file_format import APPLY, GRADIENT, put_metadata


def export_training(
    model: nn.Module,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    example: tuple[Any, Any],
    path: str | Path,
    *,
    accumulate: int | None = None,
    opset: int | None = None,
    target: str | None = None,
    dynamic_batch: bool = True,
    input_names: Sequence[str] | None = None,
    target_names: Sequence[str] | None = None,
    inference: bool = True,
) -> TrainingExport:
    """Write one training step of ``model`` as an ONNX file: forward, loss, backward and the optimizer's update.

    The file is a whole checkpoint. Parameters, buffers and the optimizer's state are inputs ``n`` with their first
    values, and outputs ``n/next``; ``step`` counts the steps done, and ``lr`` is the learning rate. Its metadata says
    which output feeds which input. It runs in any onnxruntime from 1.17 on, without custom kernels too, since
    registered operators bring their definitions. What no step changes is a constant: frozen parameters, parameters
    that no gradient reaches, and buffers that the model only reads.

    The step is that of training mode; parts in eval mode of a model in training mode stay so. Dropout draws anew in
    each run. The model, its gradients and torch's random numbers are left as they were.

    Args:
        model: its parameters may be of float32, float64, float16 and bfloat16, as far as onnxruntime has kernels.
        loss: a module or function, called with what the model returns and the targets; returns one number. Parameters
            of its own are called ``loss.<name>``.
        optimizer: a `torch.optim.SGD`, `Adam` or `AdamW` on parameters of model and loss, new or in the middle of a
            training: its state becomes the first values.
        example: ``(x, target)``, or ``(tuple of inputs, tuple of targets)``; an input may be a structure of tensors.
        path: where to write; an existing file is replaced, and only by a complete one.
        accumulate: how many batches share an update, for two files in place of one: ``<stem>.grad.onnx`` sums
            gradients, and ``<stem>.apply.onnx`` updates by their mean.
        opset, target: as `export` takes them.
        dynamic_batch: whether the first dimension of the inputs and targets may change, where it is that of the first.
        input_names: by default ``x`` for one input, else names of forward's parameters, and keys within.
        target_names: by default ``target``, or ``target_0``, ``target_1``, ...
        inference: whether the file has the model in eval mode too, as a function that nothing calls, of which
            `ort_ops.Trainer` makes the trained model.

    Raises: ExportError, TargetError, OutputError.
    """
    paths = _paths(path, accumulate)
    opset = choose_opset("dynamo", opset, target)
    torch_kits()  # each registers its operator with torch's exporter
    network = make_network(
        model, loss, example, dynamic_batch=dynamic_batch, input_names=input_names, target_names=target_names
    )
    read = read_optimizer(optimizer, network.parameters)
    with prepared(network.module, None):
        with in_mode(network.module, training=True):
            plan = make_plan(Program(network), read)
            if accumulate is None:
                files: tuple[StepFile, ...] = (make_step(plan, opset),)
            else:
                files = make_halves(plan, accumulate, paths[1].name, opset)
        eval_mode = None
        if inference:
            with in_mode(network.module, training=False):
                eval_mode = make_inference(network, opset)
        files = tuple(_finished(file, eval_mode, opset, optimizer) for file in files)
    write([(file.proto, file.first, where) for file, where in zip(files, paths, strict=True)])
    return make_result(files[0], paths, opset)


def _paths(path: str | Path, accumulate: int | None) -> list[Path]:
    """Return the files to write, after trying. Raises: ExportError, OutputError."""
    if not isinstance(path, str | Path):
        hint = "; the call is export_training(model, loss, optimizer, example, path)" * isinstance(path, Tensor | tuple)
        raise ExportError(f"path must be the name of a file, got {kind_of(path)}{hint}")
    whole = Path(path)
    if accumulate is None:
        paths = [whole]
    elif isinstance(accumulate, bool) or not isinstance(accumulate, int) or accumulate < 1:
        raise ExportError(f"accumulate must be a number of batches from 1, or None for one file, got {accumulate!r}")
    else:
        paths = [whole.with_name(f"{whole.stem}.{half}.onnx") for half in ("grad", "apply")]
    for name in paths:
        check_output(name)
    return paths


def _finished(file: StepFile, inference: Inference | None, opset: int, optimizer: torch.optim.Optimizer) -> StepFile:
    """Complete a file, check it, and compare it with torch. Raises: ExportError."""
    shown, metadata = file.proto, file.metadata
    finish(shown, opset, {})
    proto = without_outputs(shown, {name + GRADIENT for name in metadata.parameters})
    if inference is not None and metadata.kind != APPLY:
        add_function(proto, inference)
        metadata = replace(metadata, inference=NAME)
    put_metadata(proto, metadata)
    with first_values_stated(proto, file.first):
        check_training(proto, metadata)
    try:
        onnx.checker.check_model(proto, check_custom_domain=True)
    except Exception as error:
        raise ExportError(f"the exported step does not pass onnx.checker: {root_cause(error)}") from error
    done = replace(file, proto=proto, metadata=metadata)
    check_step(done, shown, optimizer)
    return done
