"""Models to bundle, and the smoke test as a process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from ort_ops.models.make import make_model
from ort_ops.opdef import registry

MODEL = Path(__file__).parents[2] / "models" / "digits_mlp.onnx"
LIBRARY = pytest.mark.native


def smoke(folder: Path) -> tuple[int, str]:
    """Run the smoke test of a bundle in a process of its own; return its status and its line."""
    command = [sys.executable, "-I", str(folder / "smoke_test.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
    return done.returncode, done.stdout


def save(model: onnx.ModelProto, folder: Path, name: str = "model.onnx") -> Path:
    (folder / name).write_bytes(model.SerializeToString())
    return folder / name


def one_node(version: int, dtype: str = "float32", **attributes: Any) -> onnx.ModelProto:
    """Return a model of one node of the first operator that there is, of one version."""
    kit = next(kit for kit in registry.kits() if kit.operator.since_version == version)
    shapes: list[Any] = [["batch", 5], [3, 5], [3]]
    types = {variable.name: dtype for variable in kit.operator.variables}
    return make_model(kit.operator, shapes, attributes, types=types)


def gather_model() -> onnx.ModelProto:
    """Return a model without any operator of ours: integers, a mask and text in; numbers, integers and text out."""
    table = helper.make_tensor("table", 1, [7, 4], np.arange(28, dtype=np.float32) / 28)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("Unsqueeze", ["mask", "last"], ["wide"]),
        helper.make_node("Where", ["wide", "rows", "zero"], ["y"]),
        helper.make_node("ArgMax", ["rows"], ["best"], axis=-1, keepdims=0),
        helper.make_node("Identity", ["text"], ["same"]),
    ]
    inputs = [
        helper.make_tensor_value_info("ids", 7, ["n", "m"]),
        helper.make_tensor_value_info("mask", 9, ["n", "m"]),
        helper.make_tensor_value_info("text", 8, ["k"]),
    ]
    outputs = [
        helper.make_tensor_value_info("y", 1, ["n", "m", 4]),
        helper.make_tensor_value_info("best", 7, ["n", "m"]),
        helper.make_tensor_value_info("same", 8, ["k"]),
    ]
    stored = [table, helper.make_tensor("last", 7, [1], [-1]), helper.make_tensor("zero", 1, [], [0.0])]
    graph = helper.make_graph(nodes, "plain", inputs, outputs, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def noisy() -> onnx.ModelProto:
    """Return a model with an output that no bound limits: log of a rounding error."""
    nodes = [
        helper.make_node("Exp", ["x"], ["a"]),
        helper.make_node("Log", ["a"], ["b"]),
        helper.make_node("Sub", ["b", "x"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, 1, [4]) for name in "xy"]
    graph = helper.make_graph(nodes, "noisy", values[:1], values[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
