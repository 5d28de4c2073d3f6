"""Verify that torch, the reference, the function body and every kernel compute the same, within the derived bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from exporter.verification.backends.find import find_backends
from exporter.verification.backends.session import Probe
from exporter.verification.inputs import Case, default_batch_sizes, make_cases
from exporter.verification.nodes.gradients import FINITE_DIFFERENCES
from exporter.verification.plan import OnProgress
from exporter.verification.result import ParityError, Verification
from exporter.verification.row import EDGES, NODES, Row
from exporter.verification.training.combine import combine
from exporter.verification.training.prepare import TrainingModel, is_training_file, prepared_training
from exporter.verification.training.states import example_feeds, make_training_cases
from exporter.verification.verifier import Verifier
from ort_ops.errors import MylinearError
from ort_ops.models.checks import check_shapes
from ort_ops.models.complete import remove_definitions
from ort_ops.models.files import load_model
from ort_ops.models.inputs.draw import InputDrawer
from ort_ops.models.nodes import require_operator_nodes

__all__ = ["EDGES", "FINITE_DIFFERENCES", "NODES", "ParityError", "Row", "Verification", "verify"]

DEVICES = ("auto", "cpu", "cuda")


class VerificationError(MylinearError, ValueError):
    """`verify` was asked for something impossible; the message says what."""


def verify(
    path: str | Path,
    *,
    checkpoint: str | Path | None = None,
    batch_sizes: Sequence[int] | None = None,
    inputs: Sequence[str | Path] = (),
    seed: int = 0,
    dtypes: Sequence[str] = (),
    compile_backend: str | None = "aot_eager",
    device: str = "auto",
    allow_untested: bool = False,
    on_progress: OnProgress | None = None,
) -> Verification:
    """Run one model on every backend that this machine has, and compare each with the float64 reference.

    In a test of yours: ``exporter.verify("model.onnx").check()``.

    The bound is derived, not chosen: how the rounding errors of every node arrive at the outputs
    (`ort_ops.analysis.float64_run`). Each node of a registered operator is also run alone on what it received, compared
    with the bound of its own result. Where a backend leaves its bound, the first node at which it does is named. Where
    the model cannot be run, or does not reach a node, the node is run alone on drawn numbers; a node that cannot be is
    untested, and parity is then not proved.

    Memory: at most four times the model, and 1 GiB. Backends are opened one after the other.

    Args:
        path: a model with nodes of registered operators.
        checkpoint: of `mylinear train`; torch eager then runs the network in it. Without one it runs the
            operator at every node of the model.
        batch_sizes: sizes of the dynamic dimensions to try with seeded numbers that the graph can take; None for 1,
            2, 7 and 64, with 32 for the last where an input has more than one of them; with ``inputs`` for none.
        inputs: .npz files with an array for each input of the model, to run the whole model on.
        seed: of the numbers that are drawn.
        dtypes: further element types to run each node alone in, with its weights rounded to them.
        compile_backend: of the backend ``torch.compile``: ``aot_eager`` traces forward as inductor does but generates
            no code, which takes long; ``inductor`` does all; None leaves it out.
        device: ``auto`` takes the CPU's backends, and CUDA's if onnxruntime has its provider; ``cuda`` does the same,
            but raises if the CUDA kernel cannot run; ``cpu`` leaves CUDA's out.
        allow_untested: whether `Verification.passes` and `check` accept nodes that went untested; the conclusion names
            them all the same.
        on_progress: called with steps done, steps in all, and the next step, after a while with the time left.

    Raises: VerificationError, ExampleError, ModelError, ContractError, CheckpointError, KernelError; never for a mere
        difference, which the result reports.
    """
    if batch_sizes is not None and any(size < 0 for size in batch_sizes):
        raise VerificationError(f"batch sizes must be 0 or more, got {', '.join(map(str, batch_sizes))}")
    if device not in DEVICES:
        raise VerificationError(f"device must be {' or '.join(DEVICES)}, got {device}")
    model = load_model(path)
    options = _Options(seed, tuple(dtypes), compile_backend, device, on_progress)
    if not is_training_file(model, path):
        require_operator_nodes(model, path)
        result = _verify_model(model, path, batch_sizes, inputs, options, checkpoint)
    elif checkpoint is not None:
        raise VerificationError("a checkpoint goes with a model exported of it, and not with a training file")
    else:
        del model
        with prepared_training(path) as training:
            result = _verify_training(training, batch_sizes, inputs, options)
    return replace(result, path=str(path), allow_untested=allow_untested)


@dataclass(frozen=True)
class _Options:
    """Arguments of `verify` that are the same for each model."""

    seed: int
    dtypes: tuple[str, ...]
    compile_backend: str | None
    device: str
    on_progress: OnProgress | None


def _verify_model(
    model: onnx.ModelProto,
    path: str | Path,
    batch_sizes: Sequence[int] | None,
    inputs: Sequence[str | Path],
    options: _Options,
    checkpoint: str | Path | None = None,
) -> Verification:
    check_shapes(model)
    remove_definitions(model)
    drawer = InputDrawer(model)
    cases = make_cases(model, drawer, batch_sizes, inputs, options.seed)
    backends = find_backends(model, path, checkpoint, options.compile_backend, options.device)
    return Verifier(model, path, drawer, cases, options.seed, options.on_progress).run(backends, options.dtypes)


def _verify_training(
    training: TrainingModel, batch_sizes: Sequence[int] | None, inputs: Sequence[str | Path], options: _Options
) -> Verification:
    """Verify the step of a training file, and the model in eval mode that it holds."""
    model, metadata = training.model, training.metadata
    check_shapes(model)
    remove_definitions(model)
    drawer = InputDrawer(model, metadata.ranges)
    examples = example_feeds(training, inputs)
    if batch_sizes is None:
        batch_sizes = () if inputs else default_batch_sizes(drawer)
    cases: list[Case] = []
    if not training.still_random:
        cases = make_training_cases(training, drawer, batch_sizes, examples, options.seed, Probe(training.path).run)
    backends = find_backends(model, training.path, None, options.compile_backend, options.device)
    verifier = Verifier(model, training.path, drawer, cases, options.seed, options.on_progress, metadata.loss)
    step = verifier.run(backends, options.dtypes)
    if training.inference is None:
        return combine(training, step, None)
    model = load_model(training.inference)
    check_shapes(model)
    remove_definitions(model)
    drawer = InputDrawer(model, metadata.ranges)
    cases = make_cases(model, drawer, batch_sizes, (), options.seed)
    names = [value.name for value in model.graph.input]
    for label, feed in examples.items():
        known = {name: feed[name] for name in names}
        cases.append(Case(label, [lambda k=known: k], 1))  # type: ignore[misc]
    backends = find_backends(model, training.inference, None, None, options.device)
    verifier = Verifier(model, training.inference, drawer, cases, options.seed, options.on_progress)
    return combine(training, step, verifier.run(backends, (), with_gradients=False))
