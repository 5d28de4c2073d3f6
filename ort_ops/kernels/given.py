"""Register libraries that a caller names, in place of those that the operators' packages have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnxruntime

from ort_ops.kernels.providers import BODY, CPP
from ort_ops.kernels.refusal import KernelError
from ort_ops.kernels.register import Plan, enter_plan, plan_of
from ort_ops.opdef.operator import Operator


def register_given(
    session_options: onnxruntime.SessionOptions,
    libraries: Iterable[str],
    operators: Mapping[str, tuple[Operator, bool]],
) -> None:
    """Register libraries with session options, before an `ort_ops.session.InferenceSession` is made of them.

    Args:
        libraries: absolute paths.
        operators: the registered operators of the model, by domain and name, each with whether one of the libraries
            has its kernel; the others run by the definition in the model.

    Raises: KernelError if the options have kernels already, or onnxruntime cannot load a library.
    """
    if plan_of(session_options) is not None:
        raise KernelError("these session options have kernels registered already; make new SessionOptions")
    for library in libraries:
        try:
            session_options.register_custom_ops_library(library)
        except Exception as error:  # onnxruntime's own errors are of many types
            reason = " ".join(str(error).split())
            raise KernelError(f"the library '{library}' cannot be registered: {reason}") from error
    providers = {op_type: CPP if has_kernel else BODY for op_type, (_, has_kernel) in operators.items()}
    plan = Plan("auto", providers, frozenset(), {op_type: operator for op_type, (operator, _) in operators.items()})
    enter_plan(session_options, plan)
