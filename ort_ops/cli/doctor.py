"""`mylinear doctor`: say what is installed, what can run, what is wrong and how to mend it. Needs no torch."""

from __future__ import annotations

import argparse

EXAMPLES = (
    "mylinear doctor",
    "mylinear doctor --json",
)
"""Of command lines, for the help."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `mylinear doctor`."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the diagnosis; the exit status is 1 if there is a fault."""
    from ort_ops.console.report_text import json_text
    from ort_ops.console.table import print_table
    from ort_ops.console.tone import Tone, Toned
    from ort_ops.inspection.doctor import diagnose

    found = diagnose()
    if args.json:
        print(json_text(found.as_dict()))
        return 1 if found.faults else 0
    print(found.platform)
    print()
    absent = Toned("not installed", Tone.QUIET)
    print_table(["package", "version"], [[name, version or absent] for name, version in found.packages.items()])
    print()
    library = found.library
    print(f"C++ library   {library.path or 'not found'}")
    if library.version:
        print(f"built         version {library.version}, by {library.compiler}")
        print(f"ISA in use    {library.isa or 'none'} (compiled: {', '.join(library.compiled_isas)}; ", end="")
        print(f"this CPU has: {', '.join(library.usable_isas)})")
    cuda = found.cuda
    if cuda is None:
        print("CUDA backend  not looked at")
    elif cuda.reason is not None:
        print(f"CUDA backend  not available: {cuda.reason}")
    else:
        print(f"CUDA backend  {cuda.path}")
        print(f"built         with CUDA {cuda.toolkit} for sm_{', sm_'.join(cuda.architectures.split())}")
        print(f"here          {', '.join(cuda.devices)}, driver for CUDA {cuda.driver}, ", end="")
        print(f"cuBLASLt {cuda.cublaslt or 'not loaded: ' + str(cuda.cublaslt_error)}")
    print()
    rows = [
        [
            kernel["name"],
            ", ".join(kernel["element_types"]),
            Toned("yes", Tone.GOOD) if kernel["is_available"] else Toned("no", Tone.QUIET),
            kernel["detail"],
        ]
        for kernel in found.kernels
    ]
    print_table(["kernel", "dtypes", "available", "detail"], rows)
    print()
    operators = [
        [
            entry["operator"],
            str(entry["version"]),
            entry["package"] or Toned("not stated", Tone.QUIET),
            ", ".join(kernel["name"] for kernel in entry["kernels"] if kernel["is_available"]) or "none",
            ", ".join(kernel["name"] for kernel in entry["kernels"] if not kernel["is_available"]) or "none",
        ]
        for entry in found.operators
    ]
    if operators:
        print_table(["operator", "version", "package", "kernels", "not available"], operators)
        print()
    for fault in found.faults:
        print(f"fault    {fault.what}")
        print(f"remedy   {fault.remedy}")
    if not found.faults:
        print("no faults")
    return 1 if found.faults else 0
