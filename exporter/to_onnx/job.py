"""One export, by either engine: the example, and what the graph must have in the end."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from exporter.errors import ExportError
from exporter.to_onnx.checks.agreement import compare_with_torch
from exporter.to_onnx.checks.node_counts import check_count
from exporter.to_onnx.example_call import DynamicShapes, Example, distinct_names, flatten_outputs
from ort_ops.numerics.compare import Comparison

_FAST_PATH = (
    "; in eval mode torch's fast path for transformers gives 0 where a padding mask is set, and the layers themselves "
    "do not: call torch.backends.mha.set_fastpath_enabled(False) first"
)


@dataclass(frozen=True)
class Job:
    """The example to export, and what the graph must have; expected nodes by ``domain::NAME``.

    Attributes:
        gives_float64: whether the example is known to give float64, so that the graph has some too.
    """

    example: Example
    program: torch.export.ExportedProgram | None
    opset: int
    inputs: list[str]
    outputs: list[str]
    axes: DynamicShapes
    expected_nodes: Mapping[str, int]
    training: bool
    gives_float64: bool = False

    def check_count(self, found: Mapping[str, int], *, has_inner_graphs: bool) -> None:
        """Check that no call of an operator that an output needs is missing. Raises: ExportError."""
        is_program = self.program is not None
        check_count(found, self.expected_nodes, self.example, has_inner_graphs=has_inner_graphs, is_program=is_program)

    def compare(self, proto: onnx.ModelProto, path: Path | None = None) -> dict[str, Comparison]:
        if not self.is_comparable():
            return {}
        try:
            return compare_with_torch(proto, self.example.call, self.example.tensors, self.inputs, self.axes, path=path)
        except ExportError as error:
            parts = (nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiheadAttention)
            if torch.backends.mha.get_fastpath_enabled() and any(
                isinstance(m, parts) for m in self.example.call.modules()
            ):
                raise ExportError(f"{error}{_FAST_PATH}") from error
            raise

    def is_comparable(self) -> bool:
        """Whether the model gives the same twice; in training mode it may draw random numbers."""
        if not self.training:
            return True
        with torch.no_grad():
            first, second = (flatten_outputs(copy.deepcopy(self.example.call)(*self.example.tensors)) for _ in range(2))
        return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def check_names(names: list[str], count: int, what: str) -> None:
    """Check that ``names`` are as many as needed, distinct and not empty. Raises: ExportError."""
    if len(names) != count:
        raise ExportError(f"{what}_names must be {count} names, got {len(names)}: {names}")
    if len(set(names)) != count or not all(names):
        raise ExportError(f"{what}_names must be distinct and not empty, got {names}")


def default_output_names(count: int, taken: set[str]) -> list[str]:
    """Return ``y``, or ``y0``, ``y1``, ...; ``output`` in place of ``y`` where an input or a weight has that name."""
    for word in ("y", "output", "result"):
        names = [word] if count == 1 else [f"{word}{i}" for i in range(count)]
        if not taken.intersection(names):
            return names
    return distinct_names(names, taken)


def dynamic_axes(names: list[str], example: tuple[Any, ...], wanted: DynamicShapes | None) -> DynamicShapes:
    """Return the named dimensions of every input, by default ``batch``. Raises: ExportError."""
    if wanted is None:
        return {name: {0: "batch"} if a.dim() > 1 else {} for name, a in zip(names, example, strict=True)}
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise ExportError(f"dynamic_shapes must name inputs of {names}, got {unknown}")
    for name, tensor in zip(names, example, strict=True):
        bad = [axis for axis in wanted.get(name, {}) if not 0 <= axis < tensor.dim()]
        if bad:
            raise ExportError(f"dynamic_shapes of '{name}' must be dimensions 0 to {tensor.dim() - 1}, got {bad}")
    return {name: dict(wanted.get(name, {})) for name in names}


def check_value_names(proto: onnx.ModelProto, input_names: list[str], output_names: list[str]) -> None:
    """Check that the graph has the requested names, each for one value; an exporter may rename silently."""
    got = [value.name for value in (*proto.graph.input, *proto.graph.output)]
    for wanted, name in zip([*input_names, *output_names], got, strict=True):
        if name != wanted:
            raise ExportError(f"name '{wanted}' stands for two values of the graph; choose other input or output names")
    inputs = [value.name for value in proto.graph.input]
    initializers = [tensor.name for tensor in proto.graph.initializer if tensor.name not in inputs]
    seen: set[str] = set()
    for name in [*inputs, *initializers, *(o for node in proto.graph.node for o in node.output if o)]:
        if name in seen:
            raise ExportError(f"name '{name}' stands for two values of the graph; choose other input or output names")
        seen.add(name)
