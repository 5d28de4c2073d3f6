"""Packages as `mylinear new` writes them, to test: the variants, and how to import one without installing it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from ort_ops.opdef import registry
from ort_ops.opdef.kit import OperatorKit
from ort_ops.scaffold.request import PackageRequest, read_request
from ort_ops.scaffold.write import write_package

VARIANTS: dict[str, dict[str, Any]] = {
    "ExampleInPython": {"with_cpp": False, "attributes": "", "dtypes": "float32,float64"},
    "ExampleInCpp": {},
    "ExampleOfTwo": {
        "inputs": "x,weight,bias:optional",
        "attributes": "a:float=0.5,times:int=3,mode:string=plain,scales:floats,steps:ints",
        "outputs": "y,twice",
        "with_cuda": True,
    },
}


def request_of(name: str) -> PackageRequest:
    """Return a variant as it is asked for."""
    return read_request(name, **VARIANTS[name])


@contextmanager
def imported(request: PackageRequest, folder: Path) -> Iterator[OperatorKit]:
    """Write a package, import it, and register its operator until the block ends; once in a process for each name."""
    made = write_package(request, folder / request.distribution)
    sys.path.insert(0, str(made.folder))
    try:
        kit: OperatorKit = import_module(f"{request.module}.operator").KIT
        registry.add(kit)
        try:
            yield kit
        finally:
            registry.remove(kit)
    finally:
        sys.path.remove(str(made.folder))
        for name in [name for name in sys.modules if name.split(".")[0] == request.module]:
            del sys.modules[name]
