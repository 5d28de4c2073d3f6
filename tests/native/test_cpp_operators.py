"""The operators that the C++ library has are those of the Python contracts, in every word."""

from __future__ import annotations

import pytest

from ort_ops.native import library
from ort_ops.operators.adamstep.contract import ADAMSTEP
from ort_ops.operators.mylinear.contract import MYLINEAR
from ort_ops.operators.mylineargrad.contract import MYLINEARGRAD

pytestmark = pytest.mark.native

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
OPERATORS = {MYLINEAR: [CPU, CUDA], MYLINEARGRAD: [CPU, CUDA], ADAMSTEP: [CPU]}


@pytest.mark.skipif(not library.status().is_usable, reason=str(library.status().reason))
def test_the_library_describes_the_operators_of_the_contracts() -> None:
    described = library.describe(library.library_path(), "mylinear_describe")["operators"]
    for operator, providers in OPERATORS.items():
        kernels = [o for o in described if (o["domain"], o["name"]) == (operator.domain, operator.name)]
        assert [kernel.pop("provider") for kernel in kernels] == providers
        parameters = [
            [{"name": p.name, "type": p.type.name, "optional": p.is_optional, "argument": p.argument} for p in formal]
            for formal in (operator.inputs, operator.outputs)
        ]
        expected = {
            "domain": operator.domain,
            "name": operator.name,
            "since_version": operator.since_version,
            "types": [{"name": v.name, "types": list(v.dtypes)} for v in operator.variables],
            "inputs": parameters[0],
            "outputs": parameters[1],
            "attributes": [],
        }
        assert kernels == [expected] * len(providers)
    assert {(o["domain"], o["name"]) for o in described} == {(o.domain, o.name) for o in OPERATORS}
