"""What an export of gradients gives back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from exporter.to_onnx.export import comparison_tables
from exporter.training_step.result import nodes_in_words
from ort_ops.console.shown import Shown, Table
from ort_ops.numerics.compare import Comparison
from ort_ops.training.file_format import TrainingMetadata


@dataclass(frozen=True, repr=False)
class GradientsExport(Shown):
    """The result of `export_gradients`; as text, one line.

    Attributes:
        path: the file.
        metadata: who is who among inputs and outputs.
        opset, ir_version: of the file.
        num_nodes: number of nodes of each registered operator, by ``domain::NAME``.
        op_counts: number of nodes of each operator, by its name.
        comparisons: torch's and onnxruntime's outputs and gradients beside the exact ones, by output name; the worst.
    """

    path: Path
    metadata: TrainingMetadata
    opset: int
    ir_version: int
    num_nodes: dict[str, int]
    op_counts: dict[str, int]
    comparisons: dict[str, Comparison]

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the model's outputs."""
        return self.metadata.outputs

    @property
    def gradients(self) -> dict[str, str]:
        """Name of the input or parameter, by the name of its gradient."""
        return dict(self.metadata.gradients)

    def shown(self) -> list[str | Table]:
        """Return what the file takes and returns, and how far onnxruntime's results are from the exact ones."""
        return [str(self), *comparison_tables(self.comparisons)]

    def __str__(self) -> str:
        nodes = nodes_in_words(self.num_nodes, self.op_counts)
        returns = ", ".join([*self.outputs, *self.gradients])
        return f"{self.path}: {nodes}, opset {self.opset}, takes {', '.join(self.metadata.given)}, returns {returns}"
