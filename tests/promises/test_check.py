"""`mylinear check` finds what an operator does not keep, and names it."""

from __future__ import annotations

import itertools
import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper

from exporter.promises import in_torch
from exporter.promises.check import UnknownOperatorError, check_operator, find_kit
from exporter.promises.description import description_promises
from exporter.promises.kernels import kernel_promises
from exporter.promises.result import OperatorCheck, Outcome, Promise, PromiseError
from exporter.promises.runtimes import runtime_promises, session_promises
from exporter.promises.subject import Subject
from exporter.torch_ops.gradients import GradientError, check_gradients
from exporter.torch_ops.kit import TorchKit
from exporter.torch_ops.library_ops.define import define_library_op
from ort_ops.cli import main as cli
from ort_ops.numerics.bound import Bound
from ort_ops.opdef import registry
from ort_ops.opdef.call import make_call
from ort_ops.opdef.kit import OperatorKit
from ort_ops.python_kernels.decorator import implements
from ort_ops.scaffold.request import read_request
from tests.scaffold.packages import imported


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorKit]:
    request = read_request("ToCheck", attributes="", with_cpp=False, dtypes="float64,float32")
    with imported(request, tmp_path_factory.mktemp("written")) as kit:
        yield kit


@contextmanager
def instead(kit: OperatorKit, **changes: Any) -> Iterator[Subject]:
    """Register a kit with changes in the place of itself."""
    changed = replace(kit, **changes)
    registry.remove(kit)
    try:
        registry.add(changed)
        try:
            yield Subject(changed)
        finally:
            registry.remove(changed)
    finally:
        registry.add(kit)


def broken(promises: Iterator[Promise]) -> dict[str, str]:
    return {f"{p.promise}: {p.subject}": p.detail for p in promises if p.outcome is Outcome.BROKEN}


def test_a_new_package_keeps_every_promise(
    written: OperatorKit, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "found.json"
    assert cli.main(["check", written.operator.name, "--compile", "none", "--json", str(path)]) == 0
    said = capsys.readouterr().out
    assert "to_check::ToCheck keeps all" in said
    found = json.loads(path.read_text())
    assert found["is_ok"]
    promised = {row["promise"] for row in found["promises"] if row["outcome"] == "kept"}
    assert promised == {
        *("samples", "schema", "shapes", "reference", "torch function", "kernel", "body"),
        *("gradients", "opcheck", "export", "runtime", "one session"),
    }
    subjects = [row["subject"] for row in found["promises"] if row["promise"] == "one session"]
    assert len(set(subjects)) == len(registry.kits()) - 1
    for kit in registry.kits():
        assert kit is written or any(f"with {kit.operator.op_type}" in subject for subject in subjects)


def python_kernel(written: OperatorKit, compute: Callable[[Any], Any]) -> Any:
    def kernel(x: Any) -> Any:
        return compute(x)

    real = Annotated[NDArray[Any], written.operator.inputs[0].type]
    kernel.__annotations__ = {"x": real, "return": real}
    return implements(written.operator)(kernel)


def test_a_wrong_python_kernel_is_named(written: OperatorKit) -> None:
    wrong = python_kernel(written, lambda x: x * x.dtype.type(1 + 1e-5))
    with instead(written, python_kernel=lambda: wrong, torch="") as subject:
        found = broken(kernel_promises(subject, None))
        assert set(found) == {"kernel: python, float64", "kernel: python, float32"}
        assert all(detail.startswith("[3, 4], defaults") for detail in found.values())
        assert len(broken(session_promises(subject))) == len(registry.kits()) - 1


def test_a_python_kernel_that_leaves_an_element_as_it_was_is_named(written: OperatorKit) -> None:
    def compute(x: NDArray[Any]) -> NDArray[Any]:
        result = np.empty_like(x)
        result.reshape(-1)[:-1] = written.reference(make_call(written.operator, [x]))[0].reshape(-1)[:-1]
        return result

    wrong = python_kernel(written, compute)
    with instead(written, python_kernel=lambda: wrong, torch="") as subject:
        found = broken(kernel_promises(subject, None))
    assert set(found) == {"kernel: python, float64", "kernel: python, float32"}
    assert all(re.search(r"1 of \d+ values of y are never written", detail) for detail in found.values()), found


def test_a_kernel_that_raises_is_named(written: OperatorKit) -> None:
    def fail() -> Any:
        raise ValueError("this kernel is not finished")

    with instead(written, python_kernel=fail, torch="") as subject:
        found = broken(kernel_promises(subject, None))
    assert set(found) == {"kernel: python, float64", "kernel: python, float32"}
    assert all("this kernel is not finished" in detail for detail in found.values())


def test_a_wrong_body_is_named(written: OperatorKit) -> None:
    operator = replace(written.operator, make_body=lambda opset, types: [helper.make_node("Neg", ["x"], ["y"])])
    with instead(written, operator=operator, torch="") as subject:
        found = broken(kernel_promises(subject, None))
        assert set(found) == {"body: body, float64", "body: body, float32"}
        found = broken(runtime_promises(subject))
    assert len(found) == 4
    assert all("body" in name for name in found)


def torch_part(written: OperatorKit, name: str, compute: Any, backward: Any) -> TorchKit:
    return define_library_op(written.operator, f"promises_tests::{name}", compute, backward=backward)


@pytest.mark.parametrize(
    ("name", "compute", "backward", "expected"),
    [
        ("wrong_backward", lambda x: x * 1.0, lambda ctx, grad: 1.5 * grad, {"gradients"}),
        ("no_backward", lambda x: x * 1.0, lambda ctx, grad: None, {"gradients"}),
        ("wrong_function", lambda x: x * 1.001, None, {"torch function"}),
    ],
)
def test_what_is_wrong_in_torch_is_named(
    written: OperatorKit, name: str, compute: Any, backward: Any, expected: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), name, torch_part(written, name, compute, backward))
    with instead(written, torch=f"{__name__}:{name}") as subject:
        found = broken(kernel_promises(subject, None)) | broken(in_torch._gradients(subject))
    assert {key.split(":")[0] for key in found} == expected
    if name == "wrong_backward":
        (detail,) = (detail for key, detail in found.items() if key.startswith("gradients"))
        worst = r"worst by x(\[[^]]*\]) of output 0\1: numerical 1, analytical 1.5, difference 0.5$"
        assert re.search(worst, detail), detail
        part = globals()[name]
        with pytest.raises(GradientError, match="the gradient of x is wrong") as raised:
            check_gradients(part.function, torch.rand(2, 3))
        assert raised.value.__suppress_context__  # so that nobody reads Jacobians


def test_a_library_op_that_torch_refuses_is_named(written: OperatorKit) -> None:
    @torch.library.custom_op("promises_tests::no_fake", mutates_args=())
    def no_fake(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    part = TorchKit(written.operator, "promises_tests::no_fake", no_fake)
    found = in_torch.attempt("opcheck", "it", lambda: in_torch._opcheck(part, Subject(written).overloads[0]))
    assert found.outcome is Outcome.BROKEN
    assert "fake" in found.detail


WRONG: dict[str, tuple[dict[str, Callable[..., Any]], str]] = {
    "samples": ({"samples": lambda g, t: []}, "there are none of float64"),
    "reference": (
        {"reference": lambda call: [call.arrays[0].astype(np.float32)]},
        "the reference must return y in float64, got float32",
    ),
    "reference, count": ({"reference": lambda call: [call.arrays[0]] * 2}, "it must have 1 results and bounds"),
    "reference, bound": (
        {"bound": lambda call, arithmetic: [Bound(np.full(call.arrays[0].shape, math.inf))]},
        "the bound of y is never less than its value, so it proves nothing",
    ),
    "shapes": ({"reference": lambda call: [np.ones(3)]}, "the shape rule says y is"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_description_is_named(written: OperatorKit, what: str) -> None:
    changes, expected = WRONG[what]
    with instead(written, **changes) as subject:
        found = broken(description_promises(subject))
    assert any(key.startswith(what.split(",")[0]) and expected in found[key] for key in found), found


def test_samples_must_try_what_there_is(written: OperatorKit) -> None:
    def samples(generator: Any, types: Any) -> Iterator[Any]:
        yield make_call(written.operator, [np.ones(3, types["T"].name)])

    with instead(written, samples=samples) as subject:
        found = broken(description_promises(subject))
    assert found["samples: the kit"] == "of float64 they lack an empty array"


def test_a_shape_rule_that_is_wrong_of_unknown_dimensions_is_named(written: OperatorKit) -> None:
    rule = written.operator.infer_shape

    def wrong(shapes: Any, attributes: Any) -> Any:
        return rule(shapes, attributes) if isinstance(shapes[0] and shapes[0][0], int) else [[7]]

    with instead(written, operator=replace(written.operator, infer_shape=wrong), torch="") as subject:
        found = broken(description_promises(subject))
    assert "shapes: float64" in found


def test_what_cannot_be_tried_here_is_not_proved(written: OperatorKit) -> None:
    def missing() -> str:
        raise PromiseError("it is not built")

    with instead(written, library=missing, torch="") as subject:
        promises = [*description_promises(subject), *kernel_promises(subject, None)]
    result = OperatorCheck("it", tuple(promises))
    assert {f"{p.promise}: {p.detail}" for p in result.of(Outcome.UNTESTED)} >= {"kernel: it is not built"}
    assert result.is_kept
    assert not result.is_ok
    assert "is NOT PROVED: untested here: " in result.conclusion()
    with pytest.raises(PromiseError, match="it is not built"):
        result.check()
    result.check(allow_untested=True)


def test_another_python_is_another_runtime(written: OperatorKit) -> None:
    subject = Subject(replace(written, samples=lambda g, t: itertools.islice(written.samples(g, t), 1)))
    found = {p.subject: p for p in runtime_promises(subject, [sys.executable, "/no/such/python"])}
    for dtype in ("float64", "float32"):
        assert found[f"{sys.executable}, body, {dtype}"].outcome is Outcome.KEPT
        missing = found[f"/no/such/python, body, {dtype}"]
        assert missing.outcome is Outcome.BROKEN
        assert "'/no/such/python' is no Python that runs" in missing.detail


def test_kernels_that_nobody_wrote_are_not_missed(written: OperatorKit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYLINEAR_LIBRARY", "/no/such/library")
    operator = replace(written.operator, make_body=None)
    with instead(written, operator=operator, torch="", python_kernel=None) as subject:
        found = {p.subject: p.outcome for p in kernel_promises(subject, None)}
    assert set(found.values()) == {Outcome.NOT_MADE}
    assert {subject.split(",")[0] for subject in found} == {"torch eager", "cpp", "python", "body"}


def test_an_operator_that_nobody_knows_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "NoSuchOperator"]) == 2
    said = capsys.readouterr().err
    assert "no installed operator is called 'NoSuchOperator'; there are " in said
    assert said.count("\n") == 1
    kit = registry.kits()[0]
    newest = registry.newest_version(kit.operator.domain)
    assert find_kit(f"{kit.operator.op_type}@{kit.operator.since_version}") is kit
    assert find_kit(kit.operator.op_type).operator.since_version == newest
    with pytest.raises(UnknownOperatorError, match=r"has no version '99'; there are 1, 2"):
        find_kit(f"{kit.operator.name}@99")
    with pytest.raises(UnknownOperatorError, match="must be registered"):
        check_operator(replace(kit))
