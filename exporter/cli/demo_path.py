"""The demonstration: the linear example from training to a proof of parity, with all files on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from exporter.training.compare_engines import EngineComparison, compare_engines
from exporter.training.curves import plot_parity
from exporter.training.data.linear_example import LinearExample
from exporter.training.loop import TrainingResult, train
from exporter.training.options import default_options
from exporter.training.run import LOSS_PLOT_NAME
from exporter.training.trained import export_checkpoint
from exporter.verification.verify import Verification, verify
from ort_ops.console.html_report import Section, write_report
from ort_ops.files.atomic import make_folder, temporary_folder
from ort_ops.opdef.element_types import FLOATS
from ort_ops.session import InferenceSession, available_kernels

MODEL_NAME = "linear.onnx"
PARITY_PLOT_NAME = "parity.png"
REPORT_NAME = "report.html"
ENGINE_HEADER = ["of each step", "largest difference", "error / bound", "verdict"]
HEADER = ["dtype", "kernel", "max abs error", "error / bound", "verdict"]
OnProgress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class DemoResult:
    """The result of the demonstration.

    Attributes:
        training: of the linear example, in torch.
        engines: its steps compared with those in onnxruntime.
        rows: the parity table, a row for each dtype and kernel; columns as in `HEADER`.
        is_ok: whether every kernel, and every step of both engines, stayed within its bound.
        predictions: of x = (3, 2), whose true value is 16, by kernel.
    """

    training: TrainingResult
    engines: EngineComparison
    rows: list[list[str]]
    is_ok: bool
    predictions: dict[str, float]


def run_demo(folder: str | Path, on_progress: OnProgress = lambda done, total, note: None) -> DemoResult:
    """Train by both engines, export, run on every kernel, verify in every dtype, and write a report into ``folder``.

    Raises: MylinearError for a folder that cannot be written, and where a step fails.
    """
    folder = make_folder(folder)
    names = [element_type.name for element_type in FLOATS]
    total = len(names) + 4
    on_progress(0, total, "training on y = 2 x0 + 3 x1 + 4")
    training = train(LinearExample(), default_options("linear"), folder=folder)
    on_progress(1, total, "training in onnxruntime, and comparing each step with torch")
    engines = compare_engines(LinearExample(), default_options("linear"))
    on_progress(2, total, "exporting")
    model = folder / MODEL_NAME
    assert training.checkpoint is not None
    export_checkpoint(training.checkpoint, model)
    predictions = {}
    for kernel in available_kernels():
        if kernel.is_available:
            session = InferenceSession(model, kernels=kernel.name)
            predictions[kernel.name] = float(session.run(None, {"x": [[3.0, 2.0]]})[0][0, 0])
    verifications = {}
    for number, name in enumerate(names):
        on_progress(3 + number, total, f"verifying in {name}")
        verifications[name] = _verify(training, model, name)
    on_progress(3 + len(names), total, "plotting")
    plot_parity(
        [(f"{name}  {row.backend}", row.comparison) for name, v in verifications.items() for row in v.worst_rows()],
        folder / PARITY_PLOT_NAME,
    )
    rows = [
        [name, backend, *cells]
        for name, v in verifications.items()
        for backend, _, *cells in v.summary(with_gradients=False)[1]
    ]
    is_ok = engines.is_within_bound and all(v.is_ok for v in verifications.values())
    result = DemoResult(training, engines, rows, is_ok, predictions)
    _write_report(folder, result)
    on_progress(total, total, "done")
    return result


def learned_parameters(result: DemoResult) -> dict[str, list[float]]:
    """Return the weights and the bias that each engine learned."""
    by_torch = [value for tensor in result.training.network.parameters() for value in tensor.flatten().tolist()]
    by_onnxruntime = [value for array in result.engines.parameters.values() for value in array.flatten().tolist()]
    return {"torch": by_torch, "onnxruntime": by_onnxruntime}


def engine_rows(engines: EngineComparison) -> list[list[str]]:
    """Return the rows of the table of the engines' steps; columns as in `ENGINE_HEADER`."""
    rows = []
    for kind, difference in engines.differences.items():
        error = engines.errors.get(kind)
        cells = ["0", "same bits"] if error is None else [f"{error.max_in_bounds:.3f}", error.text]
        rows.append([kind, f"{difference:.3g}", *cells])
    return rows


def _verify(training: TrainingResult, model: Path, dtype: str) -> Verification:
    """Verify the trained network in one dtype: the exported file in its own, a converted copy in the others."""
    if dtype == training.options.dtype:
        return verify(model, checkpoint=training.checkpoint)
    assert training.checkpoint is not None
    with temporary_folder() as folder:
        path = folder / MODEL_NAME
        export_checkpoint(training.checkpoint, path, engine="torchscript", dtype=dtype)
        return verify(path)


def _write_report(folder: Path, result: DemoResult) -> None:
    problem = LinearExample()
    learned = learned_parameters(result)
    true = [*problem.weight, problem.bias]
    parameters = [
        [name, f"{by_torch:.6f}", f"{by_onnxruntime:.6f}", f"{target:g}", f"{abs(by_torch - target):.2g}"]
        for name, by_torch, by_onnxruntime, target in zip(
            ("weight of x0", "weight of x1", "bias"), *learned.values(), true, strict=True
        )
    ]
    verdict = "Parity holds: every kernel and step is" if result.is_ok else "Parity is VIOLATED: not all is"
    write_report(
        folder / REPORT_NAME,
        "One operator from training to serving",
        "An operator with a backward of its own was trained in PyTorch and in ONNX Runtime, exported as one ONNX "
        f"node, and run in ONNX Runtime. {verdict} within the derived error bound.",
        [
            Section(
                "Training",
                "The linear example: y = 2 x0 + 3 x1 + 4 from 300 steps of one fresh sample each, in float64, with "
                "weight decay, which keeps the weights a little small.",
                ["parameter", "by torch", "by onnxruntime", "true", "difference"],
                parameters,
                folder / LOSS_PLOT_NAME,
                "loss by step of the training",
            ),
            Section(
                "Both engines, step by step",
                "ONNX Runtime ran the whole step, forward, loss, backward and optimizer, from one file. Here each of "
                f"the {result.engines.steps} steps was taken from the state that torch had before it; "
                f"{result.engines.equal_steps} gave the same bits throughout. Where the engines differ, both are "
                "compared with the step in float64.",
                ENGINE_HEADER,
                engine_rows(result.engines),
            ),
            Section(
                "Prediction of x = (3, 2), whose true value is 16",
                "",
                ["kernel", "prediction"],
                [[name, f"{value!r}"] for name, value in result.predictions.items()],
            ),
            Section(
                "Parity",
                "Largest error of each kernel against the float64 reference, over four batch sizes and edge values "
                "(zeros, denormals, large numbers, cancellation, infinities, NaN). The bound follows from the number "
                "of terms, the unit roundoff and the magnitudes; above 1 a kernel is wrong.",
                HEADER,
                result.rows,
                folder / PARITY_PLOT_NAME,
                "largest error of each kernel in units of its bound",
            ),
            Section(
                "Again, by hand",
                code="mylinear train linear\n"
                "mylinear export mylinear-train/checkpoint.pt linear.onnx\n"
                'mylinear run linear.onnx --input "3,2"\n'
                "mylinear verify linear.onnx --checkpoint mylinear-train/checkpoint.pt",
            ),
        ],
    )
