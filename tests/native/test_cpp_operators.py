"""The operators that the C++ library has are those of the Python contracts, in every word."""

from __future__ import annotations

import pytest

from ort_ops.native import library
from ort_ops.operators.adamstep.contract import ADAMSTEP
from ort_ops.operators.mylinear.contract import MYLINEAR
from ort_ops.operators.mylinear.version_2.contract import ALLOWED, MYLINEAR_2
from ort_ops.operators.mylineargrad.contract import MYLINEARGRAD

pytestmark = pytest.mark.native

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
OPERATORS = {MYLINEAR_2: [CPU, CUDA], MYLINEARGRAD: [CPU, CUDA], ADAMSTEP: [CPU]}


@pytest.mark.skipif(not library.status().is_usable, reason=str(library.status().reason))
def test_the_library_describes_the_operators_of_the_contracts() -> None:
    described = library.describe(library.library_path(), "mylinear_describe")["operators"]
    for operator, providers in OPERATORS.items():
        kernels = [o for o in described if (o["domain"], o["name"]) == (operator.domain, operator.name)]
        assert [kernel.pop("provider") for kernel in kernels] == providers
        overloads = [kernel.pop("overloads") for kernel in kernels]
        assert overloads[0] == [list(combination) for combination in operator.allowed]
        assert all(overload in overloads[0] for others in overloads for overload in others)
        for kernel in kernels:
            assert kernel.pop("since_version") <= operator.since_version <= kernel.pop("end_version")
        parameters = [
            [{"name": p.name, "type": p.type.name, "optional": p.is_optional, "argument": p.argument} for p in formal]
            for formal in (operator.inputs, operator.outputs)
        ]
        expected = {
            "domain": operator.domain,
            "name": operator.name,
            "types": [{"name": v.name, "types": list(v.dtypes)} for v in operator.variables],
            "inputs": parameters[0],
            "outputs": parameters[1],
            "attributes": [
                {"name": a.name, "kind": a.kind, "required": a.is_required, "default": a.default}
                for a in operator.attributes
            ],
        }
        assert kernels == [expected] * len(providers)
    assert {(o["domain"], o["name"]) for o in described} == {(o.domain, o.name) for o in OPERATORS}


@pytest.mark.skipif(not library.status().is_usable, reason=str(library.status().reason))
def test_one_kernel_serves_both_versions_of_mylinear() -> None:
    described = library.describe(library.library_path(), "mylinear_describe")["operators"]
    cpu, cuda = (kernel for kernel in described if kernel["name"] == MYLINEAR.name)
    assert cpu["since_version"] == cuda["since_version"] == MYLINEAR.since_version
    for bound in MYLINEAR.overloads():
        (element_type,) = bound.values()
        assert [element_type] * 2 in cpu["overloads"]
        assert [element_type] * 2 in cuda["overloads"]
    mixed = [list(combination) for combination in ALLOWED if combination[0] != combination[1]]
    assert all(combination in kernel["overloads"] for combination in mixed for kernel in (cpu, cuda))


def test_a_library_that_is_older_than_a_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    older = library.NativeStatus("lib.so", None, versions={"MYLINEAR": 1})
    monkeypatch.setattr(library, "status", lambda: older)
    assert library.library_path(MYLINEAR.name, MYLINEAR.since_version) == "lib.so"
    with pytest.raises(library.NativeLibraryError, match=r"^lib.so has no MYLINEAR of version 2: it was"):
        library.library_path(MYLINEAR_2.name, MYLINEAR_2.since_version)
    with pytest.raises(library.NativeLibraryError, match=r"^lib.so has no OTHER: it was built from older"):
        library.library_path("OTHER")
