"""What a library says of its kernels is compared with the descriptions of all versions that they serve."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from exporter.promises.description import _check_same, _check_superset, _serves
from exporter.promises.subject import BrokenError
from ort_ops.operators.mylinear.contract import MYLINEAR
from ort_ops.operators.mylinear.version_2.contract import MYLINEAR_2

DESCRIBED: dict[str, Any] = {
    "since_version": 1,
    "end_version": 1000,
    "provider": "CPUExecutionProvider",
    "types": [{"name": v.name, "types": list(v.dtypes)} for v in MYLINEAR_2.variables],
    "overloads": [list(combination) for combination in MYLINEAR_2.allowed],
    "inputs": [{"name": p.name, "type": p.type.name, "optional": p.is_optional} for p in MYLINEAR_2.inputs],
    "outputs": [{"name": p.name, "type": p.type.name, "optional": p.is_optional} for p in MYLINEAR_2.outputs],
    "attributes": [{"name": "activation", "kind": 3, "required": False, "default": "none"}],
}


def test_one_kernel_may_serve_two_versions() -> None:
    assert _serves(DESCRIBED, MYLINEAR)
    assert _serves(DESCRIBED, MYLINEAR_2)
    assert not _serves({"since_version": 1}, MYLINEAR_2)
    _check_same(DESCRIBED, MYLINEAR_2)
    _check_superset(DESCRIBED, MYLINEAR)


Change = Callable[[dict[str, Any]], Any]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["overloads"].pop(), "combinations of types"),
        (lambda d: d["attributes"].clear(), "has the attributes"),
        (lambda d: d["attributes"][0].update(default="relu"), "the default of activation is relu in C"),
        (lambda d: d["inputs"].reverse(), "has the inputs"),
    ],
)
def test_a_difference_from_the_newest_version_is_named(change: Change, words: str) -> None:
    changed = deepcopy(DESCRIBED)
    change(changed)
    with pytest.raises(BrokenError, match=words):
        _check_same(changed, MYLINEAR_2)
    if "combinations" in words:  # a device may lack some
        _check_same({**changed, "provider": "CUDAExecutionProvider"}, MYLINEAR_2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["overloads"].pop(0), "no kernel for float64, of version 1"),
        (lambda d: d["attributes"][0].update(required=True), "has the attributes"),
        (lambda d: d["inputs"][2].update(optional=False), "has the inputs"),
        (lambda d: d["outputs"].clear(), "has the outputs"),
    ],
)
def test_what_an_older_version_would_miss_is_named(change: Change, words: str) -> None:
    changed = deepcopy(DESCRIBED)
    change(changed)
    with pytest.raises(BrokenError, match=words):
        _check_superset(changed, MYLINEAR)
