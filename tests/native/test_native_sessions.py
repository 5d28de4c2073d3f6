"""The C++ kernels in processes with several sessions, threads and registrations."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading

import numpy as np
import onnxruntime
import pytest

from ort_ops.native import library as native

if not native.status().is_usable:
    pytest.skip(str(native.status().reason), allow_module_level=True)

from ort_ops.opdef.call import make_call
from ort_ops.operators.mylineargrad.contract import MYLINEARGRAD
from ort_ops.session import InferenceSession
from tests.cases import numpy_dtype
from tests.every_operator import feed_of, one_node
from tests.native_support import (
    DTYPES,
    Array,
    Case,
    call,
    error_in_bounds,
    make_model,
    node,
    one_node_model,
    run,
    session,
    session_options,
    value,
)
from tests.runtime import is_older_than

pytestmark = pytest.mark.native


def _with_threads(count: int, isa: str | None = None) -> onnxruntime.SessionOptions:
    options = session_options(isa)
    options.intra_op_num_threads = count
    return options


def _model(case: Case) -> tuple[bytes, Array, Array, Array]:
    x, weight, bias = case.sample()
    assert bias is not None
    return one_node_model(case.dtype, 2, {"W": weight, "B": bias}).SerializeToString(), x, weight, bias


@pytest.mark.parametrize("isa", native.status().usable_isas)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("constant", [True, False], ids=["constant", "computed"])
@pytest.mark.parametrize("rows", [1, 4, 300])
def test_same_bits_for_every_number_of_threads(rows: int, constant: bool, dtype: str, isa: str) -> None:
    case = Case((rows,), 301, 300, dtype)  # several tiles in each direction, and enough work to be cut up
    x, weight, bias = case.sample()
    expected = run(x, weight, bias, constant, _with_threads(1, isa))
    for count in (2, 3, 8):
        assert run(x, weight, bias, constant, _with_threads(count, isa)).tobytes() == expected.tobytes()


@pytest.mark.parametrize("isa", native.status().usable_isas)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 300])
def test_a_backward_has_the_same_bits_for_every_number_of_threads(
    rows: int, dtype: str, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if dtype == "bfloat16" and is_older_than("1.20"):
        pytest.skip("onnxruntime takes bfloat16 arrays from Python from 1.20 on")
    monkeypatch.setenv(native.ISA_VARIABLE, isa)
    rng = np.random.default_rng(rows)
    shapes = ((rows, 301), (rows, 300), (301, 300))  # several tiles in each direction
    gradients = make_call(MYLINEARGRAD, [rng.standard_normal(shape).astype(numpy_dtype(dtype)) for shape in shapes])
    model = one_node(gradients)

    def bits(count: int) -> list[bytes]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = count
        served = InferenceSession(model.SerializeToString(), options, kernels="cpp")
        return [result.tobytes() for result in served.run(None, feed_of(gradients, model))]

    expected = bits(1)
    assert len(expected) == 3
    for count in (2, 3):
        assert bits(count) == expected


def _in_child(code: str, *arguments: str) -> str:
    """Run code in a fresh process, so that nothing of this one's threads and memory is in the way."""
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=os.getcwd(), timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")
def test_one_thread_means_no_other_thread() -> None:
    code = """
        import os
        import sys
        from tests.native_support import Case, one_node_model, session, session_options
        x, weight, bias = Case((300,), 301, 300).sample()
        before = set(os.listdir("/proc/self/task"))
        options = session_options()
        options.intra_op_num_threads = int(sys.argv[1])
        opened = session(one_node_model("float32", 2, {"W": weight, "B": bias}), options)
        for _ in range(20):
            opened.run(None, {"X": x})
        print(len(set(os.listdir("/proc/self/task")) - before))
    """
    assert int(_in_child(code, "1")) == 0
    assert int(_in_child(code, "3")) == 2, "the pool of onnxruntime is not seen, so the first half shows nothing"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads CPU times from /proc")
def test_the_pool_takes_part() -> None:
    """Measured as CPU time of the session's second thread, which the first one's share must not dwarf."""
    code = """
        import os
        from tests.native_support import Case, one_node_model, session, session_options
        x, weight, bias = Case((600,), 600, 600).sample()
        before = set(os.listdir("/proc/self/task"))
        options = session_options()
        options.intra_op_num_threads = 2
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        opened = session(one_node_model("float32", 2, {"W": weight, "B": bias}), options)
        for _ in range(100):
            opened.run(None, {"X": x})
        def ticks(task):
            fields = open(f"/proc/self/task/{task}/stat").read().rsplit(")")[1].split()
            return int(fields[11]) + int(fields[12])
        print(sum(ticks(task) for task in set(os.listdir("/proc/self/task")) - before))
    """
    assert int(_in_child(code)) >= 3


def test_two_sessions_side_by_side() -> None:
    opened = []
    for dtype in ("float32", "float16"):
        model, x, weight, bias = _model(Case((7,), 40, 30, dtype))
        opened.append((session(model), x, weight, bias))
    for _ in range(2):
        for one, x, weight, bias in opened:
            assert error_in_bounds(call(one, {"X": x}), x, weight, bias) <= 1


def test_one_options_object_serves_two_sessions_and_may_go_first() -> None:
    model, x, weight, bias = _model(Case((7,), 40, 30))
    options = session_options()
    first, second = session(model, options), session(model, options)
    del options
    for one in (first, second):
        assert error_in_bounds(call(one, {"X": x}), x, weight, bias) <= 1


@pytest.mark.parametrize("rows", [1, 200])
def test_eight_threads_on_one_session(rows: int) -> None:
    model, x, _, _ = _model(Case((rows,), 130, 140))
    opened = session(model, _with_threads(2))
    inputs = [x * scale for scale in range(1, 9)]
    expected = [call(opened, {"X": one}).tobytes() for one in inputs]
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(100):
            if call(opened, {"X": inputs[index]}).tobytes() != expected[index]:
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads memory from /proc")
def test_a_thousand_sessions_leave_no_memory_behind() -> None:
    """The model has 256 KiB of weights: one leaked copy per session would be 256 MiB."""
    code = """
        from tests.native_support import Case, one_node_model, session, session_options
        x, weight, bias = Case((20,), 256, 256).sample()
        model = one_node_model("float32", 2, {"W": weight, "B": bias}).SerializeToString()
        def rss_kib():
            return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1])
        def use():
            options = session_options()
            options.intra_op_num_threads = 1
            session(model, options).run(None, {"X": x})
        for _ in range(200):
            use()
        before = rss_kib()
        for _ in range(1000):
            use()
        print(rss_kib() - before)
    """
    growth_kib = int(_in_child(code))
    print(f"growth over 1000 sessions: {growth_kib} KiB")
    assert growth_kib < 4096


def test_registering_twice_is_an_error_not_a_crash() -> None:
    model, *_ = _model(Case((7,), 40, 30))
    options = session_options()
    options.register_custom_ops_library(native.library_path())
    with pytest.raises(Exception, match="Domain already set in registry"):
        session(model, options)
    _, x, weight, bias = _model(Case((7,), 40, 30))
    assert error_in_bounds(run(x, weight, bias, True), x, weight, bias) <= 1  # and nothing is broken after it


def test_sessions_of_several_isas_in_one_process() -> None:
    model, x, weight, bias = _model(Case((7,), 40, 30))
    opened = [session(model, session_options(isa)) for isa in native.status().usable_isas]
    for one in opened:
        assert error_in_bounds(call(one, {"X": x}), x, weight, bias) <= 1


def test_many_nodes_in_one_model() -> None:
    weight = np.eye(12, dtype=np.float32)
    nodes = [node(f"h{i}", "W", output=f"h{i + 1}") for i in range(100)]
    model = make_model(nodes, [value("h0", "float32", [3, 12])], [value("h100", "float32", [3, 12])], {"W": weight})
    x = np.arange(36, dtype=np.float32).reshape(3, 12)
    np.testing.assert_array_equal(session(model).run(None, {"h0": x})[0], x)


def test_python_and_native_kernels_in_two_sessions_of_one_process() -> None:
    ort_ops = pytest.importorskip("ort_ops")
    kernels = {kernel.name: kernel for kernel in ort_ops.available_kernels()}
    if not kernels["python"].is_available:
        pytest.skip(kernels["python"].reason)
    model, x, weight, bias = _model(Case((7,), 40, 30, "float64"))
    by_python = ort_ops.InferenceSession(model, kernels="python")
    natively = session(model)
    for one in (by_python, natively, by_python, natively):
        assert error_in_bounds(one.run(None, {"X": x})[0], x, weight, bias) <= 1
