"""What an export of a training step gives back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from exporter.training_step.step import StepFile
from ort_ops.console.counts import counted
from ort_ops.console.shown import Shown, Table
from ort_ops.opdef import registry
from ort_ops.training.file_format import TrainingMetadata


@dataclass(frozen=True, repr=False)
class TrainingExport(Shown):
    """The result of `export_training`; as text, one line for each file.

    Attributes:
        path: the file; with ``accumulate``, the one that sums gradients.
        apply_path: the file that applies the sums; None without ``accumulate``.
        metadata: who is who among inputs and outputs, of ``path``.
        opset, ir_version: of the files.
        parameters: names of those that are trained.
        constants: names of the parameters and buffers that no step changes.
        num_nodes: number of nodes of each registered operator in the step, by ``domain::NAME``.
        op_counts: number of nodes of each operator in the step, by its name.
        num_trained: number of numbers that are trained.
    """

    path: Path
    apply_path: Path | None
    metadata: TrainingMetadata
    opset: int
    ir_version: int
    parameters: tuple[str, ...]
    constants: tuple[str, ...]
    num_nodes: dict[str, int]
    op_counts: dict[str, int]
    num_trained: int

    def shown(self) -> list[str | Table]:
        """Return a line for each file, and how many nodes there are of each operator."""
        counts = [[name, str(count)] for name, count in self.op_counts.items()]
        return [*str(self).splitlines(), (["operator", "nodes"], counts)]

    def __str__(self) -> str:
        by = "" if self.metadata.optimizer is None else f" by {self.metadata.optimizer.name}"
        what = f"one training step{by}" if self.apply_path is None else "sums of gradients"
        nodes = nodes_in_words(self.num_nodes, self.op_counts)
        size = f"{self.num_trained} numbers in {len(self.parameters)} parameters"
        given = ", ".join(self.metadata.given)
        lines = [f"{self.path}: {what}, {size}, {nodes}, opset {self.opset}, takes {given}"]
        if self.apply_path is not None:
            lines.append(f"{self.apply_path}: the update{by} after {self.metadata.accumulate} batches")
        return "\n".join(lines)


def make_result(file: StepFile, paths: Sequence[Path], opset: int) -> TrainingExport:
    """Describe the training files that were written; ``file`` is the first."""
    proto, metadata = file.proto, file.metadata
    num_nodes, op_counts = count_nodes(proto)
    return TrainingExport(
        path=paths[0],
        apply_path=paths[1] if len(paths) > 1 else None,
        metadata=metadata,
        opset=opset,
        ir_version=proto.ir_version,
        parameters=metadata.parameters,
        constants=tuple(file.plan.constants),
        num_nodes=num_nodes,
        op_counts=op_counts,
        num_trained=sum(file.first[name].numel() for name in metadata.parameters),
    )


def count_nodes(proto: onnx.ModelProto) -> tuple[dict[str, int], dict[str, int]]:
    """Count the nodes of the main graph: of registered operators by ``domain::NAME``, and of all by operator."""
    own = registry.names()
    registered = Counter(f"{n.domain}::{n.op_type}" for n in proto.graph.node if (n.domain, n.op_type) in own)
    return dict(registered), dict(Counter(node.op_type for node in proto.graph.node).most_common())


def nodes_in_words(num_nodes: Mapping[str, int], op_counts: Mapping[str, int]) -> str:
    """Return what `count_nodes` found, in words: ``10 nodes, 2 SCALE``."""
    calls = [f"{count} {name.rpartition(':')[2]}" for name, count in num_nodes.items()]
    return ", ".join([counted(sum(op_counts.values()), "node"), *calls])
