"""The backends in onnxruntime: a session with one kind of kernel, or with the function body."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel

from exporter.verification.backends.base import Backend, Feed, Run, RunCall, RunError, WholeModelError, first_line
from exporter.verification.backends.unwritten import check_written
from exporter.verification.nodes.alone import NodeAlone
from exporter.verification.nodes.drawn import Types
from exporter.verification.reasons import CannotRunModel, LacksOperator, Reason
from ort_ops.analysis.run_all import run_all
from ort_ops.errors import MylinearError
from ort_ops.models.files import load_model
from ort_ops.native import cuda
from ort_ops.native import library as native
from ort_ops.numerics.bound import ROUNDED, TENSOR_CORES
from ort_ops.opdef.call import Call
from ort_ops.opdef.kit import OperatorKit
from ort_ops.session import InferenceSession, Kernel
from ort_ops.training.trainer import Trainer

Array = NDArray[Any]
# float32 is proved without TF32 on CUDA, which onnxruntime allows by default and which is less precise.
ON_CUDA = [(cuda.PROVIDER, {"use_tf32": "0"}), "CPUExecutionProvider"]


class SessionBackend(Backend):
    """onnxruntime with one kind of kernel, or the function body."""

    def __init__(
        self,
        path: str | Path,
        kernel: Kernel,
        kits: Sequence[OperatorKit],
        isa: str | None = None,
        providers: Any = None,
    ) -> None:
        """Prepare the backend.

        Args:
            kits: of the operators that the model has.
            isa: the instruction set for the C++ kernels; None for the best.
            providers: of onnxruntime; None for the CPU's.
        """
        variant = isa or ("cuda" if providers and kernel.name != "cuda" else None)
        super().__init__(f"{kernel.name}[{variant}]" if variant else kernel.name)
        self._path, self._kernel, self._kits = path, kernel.name, kits
        self._isa, self._providers = isa, providers
        self.element_types = kernel.element_types
        self.arithmetic = TENSOR_CORES if providers else ROUNDED

    def why_not(self, kit: OperatorKit, types: Types) -> Reason | None:
        """Return why it does not run nodes of an operator in some element types; None if it does."""
        has = {
            "cpp": kit.library is not None,
            "cuda": kit.library is not None or kit.cuda_library is not None,
            "python": kit.python_kernel is not None,
            "body": kit.operator.make_body is not None,
        }
        if not has.get(self._kernel, True):
            what = "function body" if self._kernel == "body" else f"{self._kernel} kernel"
            return LacksOperator((kit.operator.op_type,), what)
        return super().why_not(kit, types)

    def open_model(self) -> Run:
        """Open the model; see `Backend`."""
        try:
            session = self._open(self._path)
        except NoKernel as error:  # of onnxruntime's own, such as for a Relu in bfloat16; not our fault
            raise WholeModelError(CannotRunModel("onnxruntime cannot run the model", first_line(error))) from error
        except Exception as error:
            lacking = next((reason for kit in self._kits if (reason := self.why_not(kit, {})) is not None), None)
            if lacking is None:
                raise
            raise WholeModelError(lacking) from error

        def run(feed: Feed) -> list[Array]:
            try:
                outputs: list[Array] = session.run(None, dict(feed))
            except MylinearError:
                raise
            except Exception as error:
                raise RunError(f"onnxruntime fails: {first_line(error)}") from error
            return outputs

        return run

    def open_trainer(self) -> Trainer | None:
        """Open the training file; see `Backend`."""
        if self._providers is not None:
            return None
        with forced_isa(self._isa):
            return Trainer(self._path, quiet_options(), kernels=self._kernel)

    def open_node(self, node: NodeAlone, call: Call) -> RunCall:
        """Open a model of the node; see `Backend`. The function raises UnwrittenError too, for kernels on the CPU."""
        alone = self._open(node.serialized(call, with_function=self._kernel == "body"))
        is_filled = self._providers is None and self._kernel != "body"

        def run(of_call: Call) -> list[Array]:
            feed = node.feed(of_call)
            outputs: list[Array] = alone.run(None, feed)
            if is_filled:
                check_written(alone, feed, outputs)
            return outputs

        return run

    def run_all(self, feed: Feed) -> dict[str, Array]:
        """Return the values of all nodes of the main graph."""
        return run_all(load_model(self._path), feed, self._open)

    def probe(self, model: bytes) -> Any:
        """Open a small model, to see which providers onnxruntime takes."""
        return self._open(model)

    def _open(self, source: Any, options: Any = None) -> Any:
        quiet = options or quiet_options()
        with forced_isa(self._isa):
            return InferenceSession(source, quiet, self._providers or ["CPUExecutionProvider"], kernels=self._kernel)


def quiet_options() -> onnxruntime.SessionOptions:
    """Return options without a log, and without threads that spin between calls: many sessions are open at once."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


class Probe:
    """Run the model once in onnxruntime, to see whether it takes an input."""

    def __init__(self, path: str | Path) -> None:
        self._path = path
        self._sessions: dict[str, Any] = {}

    def __call__(self, feed: Feed) -> None:
        """Check that the model runs by any kind of kernel, unless it cannot be opened. Raises: as `run`."""
        self.run(feed)

    def run(self, feed: Feed) -> list[Array]:
        """Return the outputs by any kind of kernel; none where the model cannot be opened.

        Raises: RunError where it opens and runs by none.
        """
        message = ""
        for kernel in ("cpp", "python", "body"):
            session = self._session(kernel)
            if session is None:
                continue
            try:
                outputs: list[Array] = session.run(None, dict(feed))
            except Exception as error:
                message = f"onnxruntime fails: {first_line(error)}"
            else:
                return outputs
        if message:
            raise RunError(message)
        return []

    def _session(self, kernel: str) -> Any:
        if kernel not in self._sessions:
            self._sessions[kernel] = None
            with suppress(Exception):  # the backends will report why
                session = InferenceSession(self._path, quiet_options(), ["CPUExecutionProvider"], kernels=kernel)
                self._sessions[kernel] = session
        return self._sessions[kernel]


@contextmanager
def forced_isa(isa: str | None) -> Iterator[None]:
    """Let the C++ library take one instruction set for what is registered within the block."""
    if isa is None:
        yield
        return
    before = os.environ.get(native.ISA_VARIABLE)
    os.environ[native.ISA_VARIABLE] = isa
    try:
        yield
    finally:
        if before is None:
            del os.environ[native.ISA_VARIABLE]
        else:
            os.environ[native.ISA_VARIABLE] = before
