"""Kernels and sessions: what can run MYLINEAR here, and an onnxruntime session in which it does."""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from packaging.version import Version

from ort_ops.errors import MylinearError
from ort_ops.kernels import extensions as pyop
from ort_ops.native import cuda
from ort_ops.native import library as native
from ort_ops.opdef.operator import ContractError
from ort_ops.operators.mylinear import numpy_kernel
from ort_ops.operators.mylinear.contract import ELEMENT_TYPES, MYLINEAR
from ort_ops.python_kernels import decorator as python_op
from ort_ops.python_kernels import failures as kernel_failures
from ort_ops.python_kernels import node as python_node
from ort_ops.python_kernels import trampoline
from ort_ops.session_options import PicklingError, SessionOptions, num_recorded, record_registration

if TYPE_CHECKING:
    import onnx

    from ort_ops.models.nodes import OperatorNode

ALL_ELEMENT_TYPES = tuple(element_type.name for element_type in ELEMENT_TYPES)
_BFLOAT16 = MYLINEAR.element_type("bfloat16").onnx_type
# These remember in the options themselves what was registered.
_CONFIG_KEY = "mylinear.kernels"
_PYOP_KEY = "mylinear.pyop"
_PYTHON_OPS_KEY = "mylinear.python_ops"
_domain_sets: list[frozenset[str]] = []  # what the entry of _PYTHON_OPS_KEY is an index of: a value holds 8192 bytes
# Where the external data of a model in memory lies; tried with 1.20.1, which does not know it, and 1.21.1.
_FOLDER_KEY, _TAKES_FOLDER = "session.model_external_initializers_file_folder_path", Version("1.21")
_warned: set[tuple[str, ...]] = set()


class KernelError(MylinearError, RuntimeError):
    """Kernels that are not there, do not serve a model's element types, or are registered already."""


class FunctionBodyWarning(RuntimeWarning):
    """A model runs by the function body inside it, because no kernel at hand serves its element types."""


class CpuFallbackWarning(RuntimeWarning):
    """MYLINEAR runs on the CPU in a session that asks for CUDA, because the CUDA kernel is not available."""


@dataclass(frozen=True)
class Kernel:
    """One way to compute MYLINEAR in onnxruntime.

    Attributes:
        name: what `register` takes: ``cuda`` (with ``cpp`` for what stays on the CPU), ``cpp``, ``python`` or ``body``
            (the definition inside the model).
        element_types: names of the element types that it serves.
        reason: why it is not available, with the remedy; None if it is.
        detail: more about it, such as the instruction set in use.
    """

    name: str
    element_types: tuple[str, ...]
    reason: str | None = None
    detail: str = ""

    @property
    def is_available(self) -> bool:
        return self.reason is None


def available_kernels() -> list[Kernel]:
    """Return every kernel that this version knows, the preferred first, with the reason where one is missing.

    >>> [kernel.name for kernel in available_kernels()]
    ['cuda', 'cpp', 'python', 'body']
    """
    found = cuda.status()
    return [Kernel("cuda", ALL_ELEMENT_TYPES, found.reason, found.detail), *_cpu_kernels()]


def _cpu_kernels() -> list[Kernel]:
    library = native.status()
    return [
        Kernel("cpp", ALL_ELEMENT_TYPES, library.reason, library.isa or ""),
        _python_kernel(library),
        Kernel("body", ALL_ELEMENT_TYPES),
    ]


def _python_kernel(library: native.NativeStatus) -> Kernel:
    """The Python kernel: through the C++ library, or without it through onnxruntime-extensions."""
    if library.is_usable:
        return Kernel("python", ALL_ELEMENT_TYPES, None, "NumPy, called by the C++ library")
    return Kernel("python", pyop.ELEMENT_TYPE_NAMES, pyop.unavailable_reason(), "NumPy, by onnxruntime-extensions")


def select_kernel(kernels: str, element_types: Collection[str] = (), providers: Sequence[Any] | None = None) -> Kernel:
    """Return the kernel that ``kernels`` names, or for ``auto`` the first that serves ``element_types``.

    The CUDA kernel is looked for only where it is named or the execution providers have CUDA's.

    Raises: KernelError if it is unknown, not available, or does not serve the element types.
    """
    needs_cpu_only = kernels != "cuda" and not (kernels == "auto" and cuda.asks_for_cuda(providers))
    known = {kernel.name: kernel for kernel in (_cpu_kernels() if needs_cpu_only else available_kernels())}
    if kernels == "auto":
        usable = [k for k in known.values() if k.is_available and set(element_types) <= set(k.element_types)]
        return usable[0]  # the body serves everything
    if kernels not in known:
        raise KernelError(f"kernels must be auto, cuda, {', '.join([*known][:-1])} or {[*known][-1]}, got {kernels!r}")
    kernel = known[kernels]
    if not kernel.is_available:
        raise KernelError(f"the {kernel.name} kernel is not available: {kernel.reason}")
    missing = [name for name in element_types if name not in kernel.element_types]
    if missing:
        raise KernelError(
            f"the {kernel.name} kernel serves {' and '.join(kernel.element_types)}, and the model has "
            f"{' and '.join(sorted(missing))}; use kernels='auto' or 'body'"
        )
    return kernel


def register(
    session_options: onnxruntime.SessionOptions,
    kernels: str = "auto",
    *,
    element_types: Collection[str] = (),
    providers: Sequence[Any] | None = None,
    python_domains: Collection[str] | None = None,
    versions: Mapping[str, int] | None = None,
) -> Kernel:
    """Register kernels of MYLINEAR, and operators of your own, with session options, before a session is made of them.

    Args:
        session_options: changed in place.
        kernels: ``auto`` takes the best available; a name from `available_kernels` takes that one.
        element_types: those of the model, such as ``("float16",)``. Once a kernel is registered, onnxruntime
            does not fall back to the function body for types that the kernel lacks, so where the C++ kernel is
            missing, ``auto`` needs to know of float16 and bfloat16. `InferenceSession` finds them out by itself.
        providers: the execution providers that the session will have, as onnxruntime takes them. Where CUDA's is among
            them, ``auto`` is ``cuda`` if that is available; a CPU kernel serves otherwise, with a CpuFallbackWarning.
        python_domains: domains of `python_kernel` operators to register too. By default all that have any at this
            time, where the C++ library is there, without which none can run. Others, of operators defined later,
            need new options; a new kernel for an operator that is registered does not.
        versions: of the domains that the model imports, where an operator of yours has several.

    Returns: the kernel registered for MYLINEAR.
    Raises: KernelError if these options have kernels already, or the kernel cannot be had.
    """
    _check_request(session_options, kernels)
    before = registered_kernel(session_options)
    if before is not None:
        raise KernelError(
            f"these session options have the {before} kernel of domain '{MYLINEAR.domain}' registered already, and "
            "onnxruntime takes a domain once; make new SessionOptions"
        )
    num_calls = num_recorded(session_options)
    kernel = select_kernel(kernels, element_types, providers)
    library = native.status()
    domains = _python_domains(python_domains, versions, library)
    uses_pyop = kernel.name == "python" and not library.is_usable
    if kernel.name == "python" and not uses_pyop:
        domains = [numpy_kernel.domain(), *domains]
    is_native = kernel.name in ("cuda", "cpp")
    if kernel.name == "cuda":
        session_options.add_session_config_entry(cuda.CONFIG_KEY, "require")
    elif kernels == "auto" and cuda.asks_for_cuda(providers):
        _warn_of_cpu()
    if is_native or domains:
        trampoline.register(session_options, domains, with_mylinear=is_native)
    if uses_pyop:
        session_options.register_custom_ops_library(pyop.library_path())
        session_options.add_session_config_entry(_PYOP_KEY, "1")
    if kernel.name == "body" and kernels == "auto":
        _warn_once(element_types)
    session_options.add_session_config_entry(_CONFIG_KEY, kernel.name)
    names = frozenset(domain[0] for domain in domains)
    if names not in _domain_sets:
        _domain_sets.append(names)
    session_options.add_session_config_entry(_PYTHON_OPS_KEY, str(_domain_sets.index(names)))
    request = {"kernels": kernels, "element_types": tuple(element_types), "providers": providers}
    record_registration(session_options, num_calls, {**request, "python_domains": python_domains, "versions": versions})
    return kernel


def _check_request(session_options: object, kernels: object) -> None:
    """Tell what is no options, or no name of a kernel. Raises: TypeError."""
    if not isinstance(session_options, onnxruntime.SessionOptions):
        rule = "onnxruntime.SessionOptions"
        if isinstance(session_options, onnxruntime.InferenceSession):
            rule += ", before a session is made of them"
        raise TypeError(f"the session options must be {rule}, got {type(session_options).__name__}")
    if not isinstance(kernels, str):
        raise TypeError(f"kernels must be one name, such as 'auto' or 'cpp', got {kernels!r}")


def _python_domains(
    names: Collection[str] | None, versions: Mapping[str, int] | None, library: native.NativeStatus
) -> list[trampoline.Domain]:
    """The domains of operators with Python kernels. Raises: KernelError if one that was named cannot be had."""
    if names is None and not library.is_usable:
        return []
    domains = python_node.domains_to_register(names, versions)
    missing = sorted(set(names or ()) - {domain[0] for domain in domains})
    if missing:
        known = ", ".join(domain[0] for domain in python_node.domains_to_register()) or "none"
        raise KernelError(f"python_domains must be among those of python_kernel ({known}), got {', '.join(missing)}")
    if domains and not library.is_usable:
        raise KernelError(f"Python kernels of your own need the C++ library: {library.reason}")
    return domains


def registered_kernel(session_options: onnxruntime.SessionOptions) -> str | None:
    """Return the name of the kernel that `register` put into the options, or None."""
    return _entry(session_options, _CONFIG_KEY)


def _entry(session_options: onnxruntime.SessionOptions, key: str) -> str | None:
    try:
        value: str = session_options.get_session_config_entry(key)
    except RuntimeError:  # onnxruntime's way to say that there is no such entry
        return None
    return value


class InferenceSession(onnxruntime.InferenceSession):  # type: ignore[misc]  # onnxruntime ships no types
    """An ``onnxruntime.InferenceSession`` in which MYLINEAR runs, by the best kernel at hand.

    Args:
        model: path of the model, or its bytes; also in onnxruntime's own format (``.ort``), which is not checked.
        sess_options: used as they are if kernels were registered with them, else changed by `register`.
        providers: execution providers, as onnxruntime takes them; the CPU by default, and CUDA before it for the
            ``cuda`` kernel.
        kernels: as in `register`.

    A session can be pickled, unless it was given ``onnxruntime.SessionOptions``: those cannot be read back, and
    `SessionOptions` of this package can. It is opened anew where it is loaded, by ``kernels`` as they were asked for.

    Beside what onnxruntime's own session does, it takes ``ml_dtypes.bfloat16`` arrays and returns them, checks
    the model's version of the operator and the attributes of operators with Python kernels, and raises what a
    Python kernel raised, as it was raised (another session raises onnxruntime's error with the same text).

    Raises: ModelError for no model, ContractError for an unknown version or attribute, KernelError.
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
        _check_request(options, kernels)
        anew = model if isinstance(model, bytes) else Path(model).absolute()
        self._reopening = (anew, sess_options, providers, kernels, kwargs)
        proto = (
            None if is_ort_format(model) else look_at_model(model, for_session=True)
        )  # onnx cannot read onnxruntime's own format
        nodes = [] if proto is None else check_operator_nodes(proto)
        types = _element_types(proto, nodes)
        name = registered_kernel(options)
        if name is None:
            versions = {} if proto is None else {entry.domain: entry.version for entry in proto.opset_import}
            name = register(options, kernels, element_types=types, providers=providers, versions=versions).name
        else:
            select_kernel(name, types)
        if proto is not None:
            _check_python_nodes(proto, options)
        self.kernel = name
        self._uses_pyop = _entry(options, _PYOP_KEY) is not None
        source = _completed(model, proto, nodes, "pyop" if self._uses_pyop else name, options)
        path_or_bytes = str(source) if isinstance(source, Path) else source
        if not providers:
            providers = [cuda.PROVIDER] * (name == "cuda") + ["CPUExecutionProvider"]
        self._failures = kernel_failures.Failures()
        number = self._failures.next_number()
        try:
            self._failures.runs[number] = None
            with self._failures.of_new_kernels():
                super().__init__(path_or_bytes, options, providers, **kwargs)
            # Asked once: onnxruntime makes new objects for each question, which takes longer than a small model.
            self._output_types = {output.name: output.type for output in self.get_outputs()}
            self._has_bfloat16 = "tensor(bfloat16)" in self._output_types.values()
            if name == "cuda" and cuda.PROVIDER not in self.get_providers():
                self.kernel = "cpp"  # onnxruntime could not start CUDA, as its log says, and took the CPU
            return
        except Exception as error:
            if proto is not None:
                _explain(error, proto, model)
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
        """Pickle what opens the session anew: path (or bytes), options, providers and kernels.

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
        """Run the model, as ``onnxruntime.InferenceSession.run`` does; bfloat16 arrays are welcome."""
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
            results = run(*args, **kwargs)
            if self._uses_pyop:
                pyop.raise_failure()
            return results
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


def _check_python_nodes(proto: onnx.ModelProto, options: onnxruntime.SessionOptions) -> None:
    """Check the nodes whose operators have Python kernels; onnxruntime can list no node's attributes to a kernel.

    Raises: KernelError if the options lack the operator's domain, PythonKernelError for an unknown attribute.
    """
    from ort_ops.models.graphs import nodes_in

    versions = {entry.domain: entry.version for entry in proto.opset_import}
    kernels = {
        (kernel.domain, kernel.name): kernel
        for kernel in sorted(python_op.defined_kernels(), key=lambda kernel: kernel.since_version)
        if kernel.since_version <= versions.get(kernel.domain, 0)
    }
    index = _entry(options, _PYTHON_OPS_KEY)
    registered = frozenset() if index is None else _domain_sets[int(index)]
    functions = {(function.domain, function.name) for function in proto.functions}
    for node in nodes_in(proto.graph) if kernels else ():
        kernel = kernels.get((node.domain, node.op_type))
        if kernel is None:
            continue
        if node.domain in registered:
            kernel.check_attributes([attribute.name for attribute in node.attribute])
        elif (node.domain, node.op_type) not in functions:
            reason = native.status().reason
            why = f"needs the C++ library: {reason}" if reason else "was defined after these options were registered"
            raise KernelError(f"node '{node.name}': the Python kernel of {kernel.op_type} {why}")


def _element_types(proto: onnx.ModelProto | None, nodes: Sequence[OperatorNode]) -> set[str]:
    """Return the element types of the nodes: those that the model states, and where it matters those it implies."""
    from ort_ops.models.nodes import element_types, has_all_types, stated_types

    if proto is None:
        return set()
    serve_all = all(kernel.element_types == ALL_ELEMENT_TYPES for kernel in _cpu_kernels() if kernel.is_available)
    if not serve_all and not all(map(has_all_types, nodes)):
        return element_types(proto)  # shape inference, which takes time
    stated = {(found.operator, element_type) for found in nodes for element_type in stated_types(found).values()}
    return {operator.element_type(element_type).name for operator, element_type in stated}


def _completed(
    model: str | Path | bytes,
    proto: onnx.ModelProto | None,
    nodes: Sequence[OperatorNode],
    kernel: str,
    options: onnxruntime.SessionOptions,
) -> str | Path | bytes:
    """Return the model as it is, or the bytes of one that the chosen kernel can run.

    External data stays where it is, where onnxruntime can be told the folder; it is read into the model otherwise.
    """
    from ort_ops.models.complete import complete_inputs
    from ort_ops.models.files import load_model
    from ort_ops.models.nodes import attach_functions, has_function

    if proto is None or not nodes or kernel not in ("pyop", "body"):
        return model
    lacks_input = any(found.lacks_input for found in nodes)
    lacks_function = kernel == "body" and not all(has_function(proto, found.operator) for found in nodes)
    if not (lacks_input or lacks_function):
        return model
    stays_outside = not isinstance(model, bytes) and Version(onnxruntime.__version__) >= _TAKES_FOLDER
    proto = load_model(model, external_data=not stays_outside, may_be_linked=stays_outside)
    if not isinstance(model, bytes) and stays_outside:
        options.add_session_config_entry(_FOLDER_KEY, str(Path(model).parent.absolute()))
    complete_inputs(proto)
    if kernel == "body":
        attach_functions(proto)
    data: bytes = proto.SerializeToString()
    return data


def _warn_once(element_types: Collection[str]) -> None:
    key = tuple(sorted(element_types))
    if key in _warned:
        return
    _warned.add(key)
    reasons = "; ".join(
        f"{k.name}: {k.reason or 'serves ' + ' and '.join(k.element_types) + ' only'}" for k in _cpu_kernels()[:-1]
    )
    warnings.warn(
        f"no kernel at hand serves {' and '.join(key) or 'the model'}, so MYLINEAR runs by the function body inside "
        f"the model ({reasons}); kernels='body' says that this is wanted",
        FunctionBodyWarning,
        stacklevel=4,
    )


def _warn_of_cpu() -> None:
    reason = cuda.status().reason
    # Without the provider the session has no CUDA at all, which onnxruntime says itself.
    if cuda.PROVIDER not in onnxruntime.get_available_providers() or ("cuda",) in _warned:
        return
    _warned.add(("cuda",))
    warnings.warn(
        f"MYLINEAR runs on the CPU in this CUDA session, and what it reads and writes is copied, because the CUDA "
        f"kernel is not available: {reason}; kernels='cpp' says that this is wanted",
        CpuFallbackWarning,
        stacklevel=4,
    )


def _explain(error: Exception, proto: onnx.ModelProto, model: str | Path | bytes) -> None:
    """Raise an error of ours for what onnxruntime reports in words of its own; else do nothing."""
    from ort_ops.models.checks import check_shapes, function_difference
    from ort_ops.models.files import describe_source, look_at_model

    try:
        look_at_model(model)
        check_shapes(proto)
    except MylinearError as cause:
        raise cause from error
    difference = function_difference(proto)
    if difference is not None:
        raise ContractError(f"{describe_source(model)}: {difference}; onnxruntime says: {error}") from error
    text = str(error)
    if "Domain already set in registry" in text or "Conflicting with a registered kernel" in text:
        raise KernelError(
            f"domain '{MYLINEAR.domain}' or a domain of onnxruntime-extensions was registered twice with these session "
            "options; register onnxruntime-extensions' library through ort_ops alone, or use kernels='body'"
        ) from error


def _is_bfloat16(value: Any) -> bool:
    # A type of ml_dtypes is of NumPy's kind "V"; its name is slow to ask for.
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
    return make(np.asarray(value, order="C").view(np.uint16), _BFLOAT16)


def _to_numpy(value: Any) -> Any:
    if value.data_type() != "tensor(bfloat16)":
        return value.numpy()
    import ml_dtypes

    shape = value.shape()
    buffer = (ctypes.c_uint16 * int(np.prod(shape))).from_address(value.data_ptr())
    return np.array(buffer, np.uint16).reshape(shape).view(ml_dtypes.bfloat16)
