"""An onnxruntime session in which every registered operator runs, by the best kernel available."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from ort_ops.kernels import extensions, prepare
from ort_ops.kernels.choose import Kernel, available_kernels, joined, select_kernel
from ort_ops.kernels.explain import raise_cause
from ort_ops.kernels.fallbacks import CpuFallbackWarning, FunctionBodyWarning
from ort_ops.kernels.providers import CPP, CUDA, EXTENSIONS
from ort_ops.kernels.refusal import KernelError
from ort_ops.kernels.register import check_request, register
from ort_ops.native import cuda
from ort_ops.opdef.element_types import ELEMENT_TYPES
from ort_ops.python_kernels import failures as kernel_failures
from ort_ops.session_options import PicklingError, SessionOptions

__all__ = [
    "CpuFallbackWarning",
    "FunctionBodyWarning",
    "InferenceSession",
    "Kernel",
    "KernelError",
    "available_kernels",
    "register",
    "select_kernel",
]


class InferenceSession(onnxruntime.InferenceSession):  # type: ignore[misc]  # onnxruntime ships no types
    """An ``onnxruntime.InferenceSession`` in which registered operators run, each by the best kernel available.

    Args:
        model: path of the model, or its bytes; also in onnxruntime's own format (``.ort``), which is not checked.
        sess_options: used unchanged if kernels were registered with them; otherwise changed by `register`.
        providers: execution providers, as onnxruntime takes them; the CPU by default, and CUDA before it for the
            ``cuda`` kernel.
        kernels: as in `register`; a name applies to every operator in the model.

    Attributes:
        kernel: name of the kernel that runs the model's operators, such as ``cpp``; where they have different ones,
            the names joined by commas, such as ``cpp, python``. For a model without any, and one that is not read
            (``.ort``): the kernels that were registered with the options.
        kernels: name of the kernel by domain and name of each operator in the model, ``{"my.domain::NAME": "cpp"}``;
            for a model that is not read, each registered operator.

    A session can be pickled, unless it was given ``onnxruntime.SessionOptions``: those cannot be read back, and
    `SessionOptions` of this package can. Unpickling opens it again, with the same ``kernels`` argument.

    Beside what onnxruntime's own session does, it takes ``ml_dtypes.bfloat16`` arrays and returns them, checks
    the model's versions of the operators and the attributes of their nodes, and raises what a Python kernel raised,
    as it was raised (another session raises onnxruntime's error with the same text).

    Raises: ModelError for a file that is not a model, ContractError for an unknown version or attribute, KernelError.
    """

    def __init__(
        self,
        model: str | Path | bytes,
        sess_options: onnxruntime.SessionOptions | None = None,
        providers: Sequence[Any] | None = None,
        *,
        kernels: str = "auto",
        **kwargs: Any,
    ) -> None:
        from ort_ops.models.files import is_ort_format, look_at_model
        from ort_ops.models.nodes import check_operator_nodes

        options = onnxruntime.SessionOptions() if sess_options is None else sess_options
        check_request(options, kernels)
        anew = model if isinstance(model, bytes) else Path(model).absolute()
        self._reopening = (anew, sess_options, providers, kernels, kwargs)
        # onnx cannot read onnxruntime's own format.
        proto = None if is_ort_format(model) else look_at_model(model, for_session=True)
        nodes = [] if proto is None else check_operator_nodes(proto)
        plan = prepare.plan_kernels(options, kernels, providers, proto, nodes)
        if proto is not None:
            prepare.check_python_nodes(proto, plan)
        used = dict.fromkeys(found.operator.op_type for found in nodes) if proto is not None else plan.providers
        chosen = {op_type: plan.providers[op_type] for op_type in used}
        self._uses_extensions = EXTENSIONS in chosen.values()
        source = prepare.complete_model(model, proto, nodes, chosen, options)
        path_or_bytes = str(source) if isinstance(source, Path) else source
        if not providers:
            providers = [cuda.PROVIDER] * (CUDA in plan.providers.values()) + ["CPUExecutionProvider"]
        self._failures = kernel_failures.Failures()
        number = self._failures.next_number()
        try:
            self._failures.runs[number] = None
            with self._failures.of_new_kernels():
                super().__init__(path_or_bytes, options, providers, **kwargs)
            # Read once: onnxruntime makes new objects for each query, which takes longer than a small model runs.
            self._output_types = {output.name: output.type for output in self.get_outputs()}
            self._has_bfloat16 = "tensor(bfloat16)" in self._output_types.values()
            if CUDA in plan.providers.values() and cuda.PROVIDER not in self.get_providers():
                # onnxruntime could not start CUDA, as its log says, and took the CPU.
                chosen = {name: CPP if provider is CUDA else provider for name, provider in chosen.items()}
            self.kernels = {op_type: provider.name for op_type, provider in chosen.items()}
            self.kernel = joined(self.kernels.values()) or plan.name or kernels
            return
        except Exception as error:
            if proto is not None:
                raise_cause(error, proto, model, (op_type.rpartition("::")[0] for op_type in plan.providers))
            failure = self._failures.take(str(error))
            if failure is None:
                raise
        finally:
            self._failures.runs.pop(number, None)
            self._failures.forget()
        raise failure

    def set_providers(self, *args: Any, **kwargs: Any) -> None:
        """As onnxruntime's, which makes all kernels anew."""
        with self._failures.of_new_kernels():
            super().set_providers(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments that open the session again: path (or bytes), options, providers and kernels.

        Raises: PicklingError for options that cannot be read back.
        """
        options = self._reopening[1]
        if options is not None and not isinstance(options, SessionOptions):
            raise PicklingError(
                "a session with onnxruntime.SessionOptions cannot be pickled, since what was added to those cannot be "
                "read back; give it ort_ops.SessionOptions, or open it in each process"
            )
        return _reopened, (type(self), *self._reopening)

    def run(
        self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any], run_options: Any = None
    ) -> list[Any]:
        """Run the model, as ``onnxruntime.InferenceSession.run`` does, also with bfloat16 arrays."""
        names = list(output_names) if output_names else list(self._output_types)
        gives_bfloat16 = self._has_bfloat16 and any(self._output_types.get(n) == "tensor(bfloat16)" for n in names)
        if gives_bfloat16 or any(_is_bfloat16(value) for value in input_feed.values()):
            feed = {name: _to_ort_value(value) for name, value in input_feed.items()}
            return [_to_numpy(value) for value in self.run_with_ort_values(names, feed, run_options)]
        results: list[Any] = self._with_original_errors(super().run, names, input_feed, run_options)
        return results

    def run_with_ort_values(self, *args: Any, **kwargs: Any) -> Any:
        """As onnxruntime's, with a Python kernel's exceptions as they were raised."""
        return self._with_original_errors(super().run_with_ort_values, *args, **kwargs)

    def run_with_iobinding(self, *args: Any, **kwargs: Any) -> Any:
        """As onnxruntime's, with a Python kernel's exceptions as they were raised."""
        return self._with_original_errors(super().run_with_iobinding, *args, **kwargs)

    def _with_original_errors(self, run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        number = self._failures.next_number()
        try:
            self._failures.runs[number] = None
            if self._uses_extensions:
                return extensions.raising_failures(run, *args, **kwargs)
            return run(*args, **kwargs)
        except Exception as error:
            failure = self._failures.take(str(error))
            if failure is None:
                raise
        finally:
            self._failures.runs.pop(number, None)
            self._failures.forget()
        raise failure  # outside of the handler, so that onnxruntime's wording is not its context


def _reopened(
    session: type[InferenceSession],
    model: Path | bytes,
    options: SessionOptions | None,
    providers: Sequence[Any] | None,
    kernels: str,
    others: dict[str, Any],
) -> InferenceSession:
    return session(model, options, providers, kernels=kernels, **others)


def _is_bfloat16(value: Any) -> bool:
    # A type of ml_dtypes has NumPy's kind "V"; its name is slow to get.
    return isinstance(value, np.ndarray) and value.dtype.kind == "V" and value.dtype.name == "bfloat16"


def _to_ort_value(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype.name != "bfloat16":
        return onnxruntime.OrtValue.ortvalue_from_numpy(np.asarray(value, order="C"))
    make = getattr(onnxruntime.OrtValue, "ortvalue_from_numpy_with_onnx_type", None)
    if make is None:
        raise KernelError(
            f"onnxruntime {onnxruntime.__version__} takes no bfloat16 arrays from Python; update it to 1.20 or newer"
        )
    return make(np.asarray(value, order="C").view(np.uint16), ELEMENT_TYPES["bfloat16"].onnx_type)


def _to_numpy(value: Any) -> Any:
    if value.data_type() != "tensor(bfloat16)":
        return value.numpy()
    import ml_dtypes

    shape = value.shape()
    buffer = (ctypes.c_uint16 * int(np.prod(shape))).from_address(value.data_ptr())
    return np.array(buffer, np.uint16).reshape(shape).view(ml_dtypes.bfloat16)
