"""Sessions with several registered operators: each by its best kernel, by name, and what is said where none can.

Long because all tests share the same made-up operators and their libraries.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import ort_ops
from ort_ops.errors import MylinearError
from ort_ops.kernels import fallbacks, providers
from ort_ops.kernels.refusal import Lack
from ort_ops.native import library as native
from ort_ops.python_kernels.decorator import implements
from tests.sessions.operator_kits import (
    AFFINE,
    DOMAIN,
    NEGATE,
    Real,
    affine,
    affine_kit,
    affine_node,
    calls,
    chain,
    in_domain,
    linear_node,
    make_kit,
    negate,
    negate_kit,
    negate_node,
    registered,
)

needs_native = pytest.mark.skipif(not native.status().is_usable, reason=f"no C++ library: {native.status().reason}")
X = np.array([[1, -2, 3]], np.float32)
LINEAR = "mylinear::MYLINEAR"


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.LIBRARY_VARIABLE, "/nowhere/libmylinear_ort.so")


def run(session: onnxruntime.InferenceSession, x: np.ndarray = X) -> np.ndarray:
    result: np.ndarray = session.run(None, {"x": x})[0]
    return result


@needs_native
@pytest.mark.parametrize("shift", [False, True])
def test_each_operator_runs_by_its_best_kernel(shift: bool) -> None:
    with registered(affine_kit(), make_kit(in_domain(NEGATE, "test.bodies"))):
        model = chain(linear_node(), affine_node(shift=shift), negate_node("test.bodies"), domain="test.bodies")
        session = ort_ops.InferenceSession(with_import(model, DOMAIN))
        assert session.kernels == {LINEAR: "cpp", f"{DOMAIN}::Affine": "python", "test.bodies::Negate": "body"}
        assert session.kernel == "cpp, python, body"
        np.testing.assert_array_equal(run(session), -(2 * X + (np.array([1, 2, 3]) if shift else 0)))
        assert calls == ["Affine"]


def with_import(model: bytes, domain: str) -> bytes:
    proto = onnx.load_model_from_string(model)
    proto.opset_import.append(onnx.helper.make_opsetid(domain, 1))
    data: bytes = proto.SerializeToString()
    return data


@needs_native
def test_one_kernel_for_all_is_one_name() -> None:
    with registered(affine_kit(), negate_kit()):
        session = ort_ops.InferenceSession(chain(affine_node(), negate_node()))
        assert session.kernel == "python"
        np.testing.assert_array_equal(run(session), -2 * X)
        assert calls == ["Affine", "Negate"]


@pytest.mark.parametrize("kernels", ["python", "body"])
def test_a_kernel_by_name_is_that_of_all_operators(kernels: str) -> None:
    if kernels == "python" and not native.status().is_usable:
        pytest.skip("onnxruntime-extensions cannot run an operator with attributes")
    with registered(affine_kit(), negate_kit()):
        session = ort_ops.InferenceSession(chain(linear_node(), affine_node(), negate_node()), kernels=kernels)
        assert set(session.kernels.values()) == {kernels}
        np.testing.assert_array_equal(run(session), -2 * X)
        assert calls == (["Affine", "Negate"] if kernels == "python" else [])


@needs_native
def test_an_operator_that_lacks_the_kernel_is_named() -> None:
    with registered(affine_kit()):
        model = chain(linear_node(), affine_node())
        with pytest.raises(
            ort_ops.KernelError, match=f"{DOMAIN}::Affine: there is no cpp kernel; use kernels='auto'"
        ) as raised:
            ort_ops.InferenceSession(model, kernels="cpp")
        (refusal,) = raised.value.refusals
        assert (refusal.op_type, refusal.kernel, refusal.lack) == (f"{DOMAIN}::Affine", "cpp", Lack.NONE_WRITTEN)
        assert ort_ops.InferenceSession(chain(linear_node()), kernels="cpp").kernels == {LINEAR: "cpp"}


def test_an_operator_that_nothing_runs_is_an_error_with_all_reasons() -> None:
    def no_library() -> str:
        raise MylinearError("it was not built; build it")

    operator = replace(NEGATE, make_body=None)
    with registered(make_kit(operator, library=no_library)):
        with pytest.raises(ort_ops.KernelError) as raised:
            ort_ops.InferenceSession(chain(negate_node()))
        message = str(raised.value)
        assert message.startswith(f"{DOMAIN}::Negate: no kernel can run it here (cpp: it was not built; build it; ")
        assert [refusal.lack for refusal in raised.value.refusals] == [
            Lack.NOT_AVAILABLE,
            Lack.NONE_WRITTEN,
            Lack.NONE_WRITTEN,
        ]


@pytest.mark.parametrize(
    ("library", "reason"),
    [
        (lambda: "/no/such/library.so", "the library of test.kits::Negate is not there: '/no/such/library.so'"),
        (lambda: 1 / 0, "ZeroDivisionError: division by zero"),
    ],
    ids=["missing", "raises"],
)
def test_a_broken_library_of_another_package_leaves_the_next_kernel(library: object, reason: str) -> None:
    with registered(negate_kit(library=library)):
        session = ort_ops.InferenceSession(chain(negate_node()))
        assert session.kernels == {f"{DOMAIN}::Negate": "python"}
        with pytest.raises(
            ort_ops.KernelError, match=r"test\.kits::Negate: the cpp kernel is not available: "
        ) as raised:
            ort_ops.InferenceSession(chain(negate_node()), kernels="cpp")
        assert reason in str(raised.value)


def test_a_file_that_is_no_library_is_an_error_that_names_the_operator(tmp_path: Path) -> None:
    path = tmp_path / "lib.so"
    path.write_text("no library")
    with registered(negate_kit(library=lambda: str(path))):
        with pytest.raises(ort_ops.KernelError, match=r"the library of test\.kits::Negate cannot be registered"):
            ort_ops.InferenceSession(chain(negate_node()))
        assert ort_ops.InferenceSession(chain(negate_node()), kernels="body").kernel == "body"


@needs_native
def test_a_library_of_another_package_is_registered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own library stands in for one of another package: here it is not known as our own."""
    registered_paths: list[str] = []
    path = native.library_path()

    class Options(onnxruntime.SessionOptions):  # type: ignore[misc]
        def register_custom_ops_library(self, path: str) -> None:
            registered_paths.append(path)
            super().register_custom_ops_library(path)

    monkeypatch.setattr(native, "is_own", lambda path: False)
    with registered(make_kit(in_domain(NEGATE, "mylinear"), library=lambda: path)):
        session = ort_ops.InferenceSession(chain(linear_node()), Options(), kernels="cpp")
        assert run(session).tolist() == X.tolist()
        assert registered_paths == [path]
        registered_paths.clear()
        assert ort_ops.register(Options(), "cpp").name == "cpp"
        assert registered_paths == [path]


@needs_native
def test_a_domain_has_one_host_so_the_second_operator_runs_by_its_body() -> None:
    operator = in_domain(NEGATE, "mylinear")
    kernel = implements(operator)(negate.__wrapped__)
    with registered(make_kit(operator, kernel)):
        session = ort_ops.InferenceSession(chain(linear_node(), negate_node("mylinear")))
        assert session.kernels == {LINEAR: "cpp", "mylinear::Negate": "body"}
        np.testing.assert_array_equal(run(session), -X)
        python = ort_ops.InferenceSession(chain(linear_node(), negate_node("mylinear")), kernels="python")
        assert python.kernel == "python"
        np.testing.assert_array_equal(run(python), -X)


@needs_native
def test_register_gives_plain_sessions_every_operator() -> None:
    with registered(affine_kit()):
        options = onnxruntime.SessionOptions()
        assert ort_ops.register(options).name == "cpp, python"
        plain = onnxruntime.InferenceSession(chain(linear_node(), affine_node()), options)
        np.testing.assert_array_equal(run(plain), 2 * X)
        with pytest.raises(
            ort_ops.KernelError, match=r"have the cpp, python kernel of domain 'mylinear' and 'test.kits' registered"
        ):
            ort_ops.register(options)


@needs_native
def test_operators_choose_what_is_registered() -> None:
    with registered(affine_kit()):
        options = onnxruntime.SessionOptions()
        assert ort_ops.register(options, operators=[LINEAR]).name == "cpp"
        with pytest.raises(ort_ops.KernelError, match=f"{DOMAIN}::Affine: these session options have no kernel for it"):
            ort_ops.InferenceSession(chain(affine_node()), options)
        with pytest.raises(ort_ops.KernelError, match=r"the operator must be among .*Affine.*, got 'a::B'"):
            ort_ops.register(onnxruntime.SessionOptions(), operators=["a::B"])
    with pytest.raises(ort_ops.KernelError, match="the operator must be among"):
        ort_ops.available_kernels(f"{DOMAIN}::Affine")


def test_unknown_element_types_are_refused() -> None:
    with pytest.raises(ort_ops.KernelError, match=r"element_types must be among float64, .* got float23"):
        ort_ops.register(onnxruntime.SessionOptions(), element_types=["float23"])


def test_kernels_of_one_operator() -> None:
    with registered(affine_kit()):
        assert [kernel.name for kernel in ort_ops.available_kernels(f"{DOMAIN}::Affine")] == ["python", "body"]
        assert ort_ops.available_kernels(f"{DOMAIN}::Affine")[1].element_types == ("float64", "float32", "float16")
        assert [kernel.name for kernel in ort_ops.available_kernels()] == ["cuda", "cpp", "python", "body"]


@needs_native
def test_what_a_kernel_of_a_kit_raises_comes_out_of_run() -> None:
    with registered(affine_kit()):
        session = ort_ops.InferenceSession(chain(affine_node()))
        with pytest.raises(ArithmeticError, match="thirteen"):
            run(session, np.array([[13, 0, 0]], np.float32))
        np.testing.assert_array_equal(run(session), 2 * X)


@needs_native
@pytest.mark.parametrize("options", [False, True])
def test_a_session_with_kits_can_be_pickled(options: bool) -> None:
    with registered(affine_kit()):
        made = ort_ops.SessionOptions() if options else None
        session = ort_ops.InferenceSession(chain(linear_node(), affine_node()), made)
        again = pickle.loads(pickle.dumps(session))
        assert again.kernels == session.kernels
        np.testing.assert_array_equal(run(again), 2 * X)
        data = pickle.dumps(session)
    with pytest.raises(Exception, match=r"not a registered function/op|the operator must be among"):
        pickle.loads(data)


@needs_native
def test_a_kit_that_is_added_again_has_its_new_kernel() -> None:
    with registered(negate_kit()):
        run(ort_ops.InferenceSession(chain(negate_node())))

    @implements(NEGATE)
    def other(x: Real) -> Real:
        return x * 5

    with registered(make_kit(NEGATE, other)):
        np.testing.assert_array_equal(run(ort_ops.InferenceSession(chain(negate_node()))), 5 * X)


def test_an_unknown_version_is_refused() -> None:
    with registered(affine_kit()), pytest.raises(ort_ops.ContractError, match=r"'test\.kits' must be 1, got 2"):
        ort_ops.InferenceSession(chain(affine_node(), version=2))


def test_an_unknown_attribute_is_refused() -> None:
    node = affine_node()
    node.attribute[0].name = "beta"
    with registered(affine_kit()), pytest.raises(ort_ops.ContractError, match="must be among alpha, got beta"):
        ort_ops.InferenceSession(chain(node))


def test_a_kernel_of_another_operator_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fallbacks, "_warned", set())
    with registered(make_kit(NEGATE, affine)):
        with pytest.warns(ort_ops.FunctionBodyWarning, match="python: its kit must have a kernel made by implements"):
            session = ort_ops.InferenceSession(chain(negate_node()))
        assert session.kernel == "body"
        with pytest.raises(ort_ops.KernelError, match="its kit must have a kernel made by implements"):
            ort_ops.InferenceSession(chain(negate_node()), kernels="python")


def test_without_the_library_an_operator_with_attributes_runs_by_its_body(
    no_library: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fallbacks, "_warned", set())
    with registered(affine_kit()):
        with pytest.warns(ort_ops.FunctionBodyWarning, match=r"so Affine runs by the .*it has attributes"):
            session = ort_ops.InferenceSession(chain(linear_node(), affine_node(shift=True)))
        assert session.kernels == {LINEAR: "python", f"{DOMAIN}::Affine": "body"}
        np.testing.assert_array_equal(run(session), 2 * X + [1, 2, 3])


def test_an_operator_with_its_body_alone_gets_no_warning() -> None:
    with registered(make_kit(NEGATE)):
        assert ort_ops.InferenceSession(chain(negate_node())).kernel == "body"


_WITHOUT_LIBRARY = """
    import numpy as np, ort_ops
    from tests.sessions.operator_kits import *
    x = np.array([[1, -2, 3]], np.float32)
    with registered(negate_kit()):
        model = chain(linear_node(), negate_node())
        session = ort_ops.InferenceSession(model)
        assert set(session.kernels.values()) == {"python"}, session.kernels
        assert session.run(None, {"x": x})[0].tolist() == (-x).tolist()
        assert calls == ["Negate"], calls
        half = ort_ops.InferenceSession(chain(negate_node(), dtype="float16"), kernels="body")
        assert half.run(None, {"x": x.astype("float16")})[0].tolist() == (-x).tolist()
        try:
            ort_ops.InferenceSession(chain(negate_node(), dtype="float16"), kernels="python")
        except ort_ops.KernelError as error:
            print(error)
    late = make_kit(in_domain(NEGATE, "test.late"))
    from ort_ops.python_kernels.decorator import implements
    with registered(make_kit(late.operator, implements(late.operator)(negate.__wrapped__))):
        try:
            ort_ops.InferenceSession(chain(negate_node("test.late"), domain="test.late"), kernels="python")
        except ort_ops.KernelError as error:
            print(error)
"""


def test_without_the_library_extensions_run_kits_too(tmp_path: Path) -> None:
    """In a process of its own: what onnxruntime-extensions has declared stays declared."""
    code = textwrap.dedent(_WITHOUT_LIBRARY)
    environment = {**os.environ, native.LIBRARY_VARIABLE: "/nowhere/libmylinear_ort.so"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith(
        f"{DOMAIN}::Negate: the python kernel serves float64 and float32, and the model has float16"
    )
    assert "it was added after the first session; add it before" in second


@needs_native
def test_a_session_s_kernels_do_not_change_with_the_registry() -> None:
    kit = affine_kit()
    with registered(kit):
        session = ort_ops.InferenceSession(chain(affine_node()))
    np.testing.assert_array_equal(run(session), 2 * X)
    assert session.kernels == {AFFINE.op_type: "python"}


def test_every_provider_says_what_it_is() -> None:
    assert [provider.name for provider in providers.PROVIDERS] == ["cuda", "cpp", "python", "python", "body"]
    assert len({repr(provider) for provider in providers.PROVIDERS}) == 5
