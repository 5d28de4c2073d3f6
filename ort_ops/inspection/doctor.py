"""Diagnose this installation: packages, kernels, and for each fault its remedy. Needs no other package."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ort_ops.installation.extras import install_extra
from ort_ops.installation.requirements import (
    DISTRIBUTION,
    OLDEST_OF_OTHERS,
    RUNTIMES,
    Fault,
    describe_python,
    first_import_fault,
    import_fault,
    installed_version,
    version_faults,
)
from ort_ops.native import library as native

if TYPE_CHECKING:
    from ort_ops.kernels.choose import Kernel
    from ort_ops.native import cuda

EXTENSIONS = "onnxruntime-extensions"
PACKAGES = (DISTRIBUTION, "numpy", "onnx", "onnxruntime", EXTENSIONS, "torch", "onnxscript")


@dataclass(frozen=True)
class Diagnosis:
    """The result of `diagnose`; `as_dict` is plain data, for JSON.

    Attributes:
        platform: operating system, machine and Python.
        packages: version by distribution; None where it is not installed.
        library: of the C++ kernels.
        cuda: their CUDA backend, which is a fault only if it was built and fails; None without onnxruntime.
        kernels: those of `ort_ops.available_kernels`; empty without onnxruntime.
        operators: the registered ones, each with ``operator`` (domain and name), ``version``, ``package`` and
            ``kernels``; empty without onnxruntime.
        faults: empty on a healthy machine.
    """

    platform: str
    packages: dict[str, str | None]
    library: native.NativeStatus
    cuda: cuda.CudaStatus | None
    kernels: list[dict[str, Any]]
    operators: list[dict[str, Any]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as dictionaries, lists and strings."""
        return asdict(self)


def diagnose() -> Diagnosis:
    """Examine this installation. Never raises, whatever is missing."""
    runtimes = {name: found for name in RUNTIMES if (found := installed_version(name))}
    packages = {name: installed_version(name) for name in PACKAGES} | runtimes
    library = native.status(in_child_first=True)
    faults = [*_package_faults(packages, list(runtimes), library), *_library_faults(library)]
    broken = first_import_fault()
    others = (fault for module in OLDEST_OF_OTHERS if (fault := import_fault(module)) is not None)
    first = broken or next(others, None)  # the later modules need it
    if first is not None and first.package not in {fault.package for fault in faults}:
        faults.append(first)
    kernels, backend, kernel_faults = _kernels() if broken is None else ([], None, [])
    operators, operator_faults = _operators(library) if kernels else ([], [])
    kernel_faults += operator_faults
    said = {fault.what for fault in faults} | {fault.package for fault in faults if fault.package}
    faults += [fault for fault in kernel_faults if fault.what not in said and fault.package not in said]
    return Diagnosis(describe_python(), packages, library, backend, kernels, operators, faults)


def _package_faults(
    packages: dict[str, str | None], runtimes: list[str], library: native.NativeStatus
) -> Iterator[Fault]:
    for fault in version_faults():
        # It runs Python kernels only if the C++ library does not.
        if fault.package != EXTENSIONS or not library.is_usable:
            yield fault
    if len(runtimes) > 1:
        names = " and ".join(runtimes)
        remedy = f"pip uninstall -y {' '.join(runtimes)} && pip install {runtimes[-1]}"
        yield Fault(f"{names} overwrite each other", remedy)
    if (packages["torch"] is None) != (packages["onnxscript"] is None):
        present = "torch" if packages["torch"] else "onnxscript"
        yield Fault(f"only {present} of torch and onnxscript is here", install_extra("torch"))


def _library_faults(library: native.NativeStatus) -> Iterator[Fault]:
    if library.reason is not None:
        yield Fault("the cpp kernel is not available", library.reason)
    unused = native.unused_builds()
    if unused:
        remedy = f"remove {' and '.join(unused)}, or set {native.LIBRARY_VARIABLE} to the one that is meant"
        yield Fault(f"other builds of the C++ library lie beside {library.path}, which is the newest", remedy)


def _kernels() -> tuple[list[dict[str, Any]], cuda.CudaStatus | None, list[Fault]]:
    """Return the kernels, the CUDA backend, and their faults."""
    try:
        from ort_ops.kernels.choose import available_kernels
        from ort_ops.native import cuda

        kernels, backend = available_kernels(), cuda.status()
    except Exception as error:  # a broken installation may raise anything
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        package = (error.name or "").split(".")[0] if isinstance(error, ModuleNotFoundError) else ""
        return [], None, [Fault("the kernels cannot be looked at", f"mend this first: {first_line}", package)]
    faults = [
        Fault(f"the {kernel.name} kernel is not available", kernel.reason)
        for kernel in kernels
        if kernel.reason is not None and (kernel.name != "cuda" or backend.path is not None)
    ]
    return [_plain(kernel) for kernel in kernels], backend, faults


def _plain(kernel: Kernel) -> dict[str, Any]:
    return {**asdict(kernel), "is_available": kernel.is_available}


def _operators(library: native.NativeStatus) -> tuple[list[dict[str, Any]], list[Fault]]:
    """Return the registered operators with their kernels, and the faults of other packages."""
    from ort_ops.kernels.choose import available_kernels
    from ort_ops.opdef import registry

    found = []
    faults = [
        Fault(
            f"the operators of entry point '{name}' of group {registry.GROUP} do not load: {reason}",
            "mend or uninstall the package that has this entry point",
        )
        for name, reason in registry.failures().items()
    ]
    for kit in registry.kits():
        operator = kit.operator
        try:
            kernels = available_kernels(operator.op_type)
        except Exception as error:  # another package may raise anything
            remedy = (
                f"mend or uninstall {operator.package or 'the package that has it'}: {type(error).__name__}: {error}"
            )
            faults.append(Fault(f"the kernels of {operator.op_type} cannot be looked at", remedy))
            kernels = []
        faults += [
            Fault(f"the {kernel.name} kernel of {operator.op_type} is not available", kernel.reason)
            for kernel in kernels
            # Without our library no Python kernel runs, which is reported already. A CUDA library is optional.
            if kernel.reason is not None and kernel.name != "cuda" and kernel.reason != library.reason
            if kernel.name != "python" or library.is_usable
        ]
        found.append(
            {
                "operator": operator.op_type,
                "version": operator.since_version,
                "package": operator.package,
                "kernels": [_plain(kernel) for kernel in kernels],
            }
        )
    return found, faults
