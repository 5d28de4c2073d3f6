"""Python kernels in processes of their own: what aborts under onnxruntime-extensions, signals, shutdown, memory.

Long because each test carries the program of its child process.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap

import pytest

from ort_ops.native import library as native

if not native.status().is_usable:
    pytest.skip(str(native.status().reason), allow_module_level=True)

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc, sends signals"),
]

PRELUDE = """
import gc, os, signal, sys, threading, time
import ml_dtypes, numpy as np, onnxruntime, ort_ops
from onnx import helper
from ort_ops import Element, Float, Out
X = np.arange(6, dtype=np.float32).reshape(2, 3)
def define(function, **options):
    return ort_ops.python_kernel("test.process::Op", **options)(function)
def model(onnx_type=1):
    value = lambda name: helper.make_tensor_value_info(name, onnx_type, ["a", "b"])
    nodes = [helper.make_node("Op", ["x"], ["y"], domain="test.process")]
    graph = helper.make_graph(nodes, "test", [value("x")], [value("y")])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("test.process", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
def open_session(onnx_type=1, plain=False):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if not plain:
        return ort_ops.InferenceSession(model(onnx_type), options)
    ort_ops.register(options, "body")
    return onnxruntime.InferenceSession(model(onnx_type), options)
"""


def in_child(code: str, *, before: str = "", timeout: float = 120, stderr: str = "", **environment: str) -> str:
    """Run code in a fresh process, which must end well and print ``stderr`` (a pattern) to stderr."""
    code = textwrap.dedent(before) + PRELUDE + textwrap.dedent(code)
    # Newer Pythons warn of any fork in a process with threads, which some kernels here do on purpose.
    command = [sys.executable, "-X", "faulthandler", "-W", "ignore:This process:DeprecationWarning", "-c", code]
    variables = os.environ | environment
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=os.getcwd(), env=variables, timeout=timeout, check=False
    )
    assert done.returncode == 0, f"{done.returncode}: {done.stderr}"
    assert re.fullmatch(stderr, done.stderr), done.stderr
    return done.stdout


@pytest.mark.parametrize("plain", [False, True], ids=["ort_ops", "onnxruntime"])
@pytest.mark.parametrize(
    "body",
    [
        "raise ValueError('a message')",
        "raise KeyboardInterrupt('a message')",
        "raise SystemExit('a message')",
        "return x.tolist()",
        "return None",
        "return 1.0",
        "return 1j",
        "return x.astype(np.int64)",
        "return x.astype(np.float64)",
        "return x[:1]",
        "return x, x",
        "return f(x)",
        "del x; return x",
        "kept.append(x); return x",
        "return np.lib.stride_tricks.as_strided(x, (2, 3), (0, 0))[:, :2]",
    ],
)
def test_no_wrong_kernel_ends_the_process(body: str, plain: bool) -> None:
    out = in_child(f"""
        kept = []
        def f(x: Element) -> Element:
            {body}
        define(f)
        session = open_session(plain={plain})
        for _ in range(3):
            try:
                session.run(None, {{"x": X}})
            except BaseException as error:
                print(type(error).__name__, "a message" in str(error))
        del kept[:]
        def g(x: Element) -> Element:
            return x + x
        define(g)
        print((session.run(None, {{"x": X}})[0] == X + X).all())
    """)
    *errors, last = out.splitlines()
    assert last == "True"
    assert len(errors) == 3
    if "message" in body:
        assert all(line.endswith("True") for line in errors)
        assert plain or errors[0].split()[0] == body.split()[1].split("(")[0]


@pytest.mark.parametrize("plain", [False, True], ids=["ort_ops", "onnxruntime"])
def test_float16_in_and_out(plain: bool) -> None:
    out = in_child(f"""
        def f(x: Element) -> Element:
            return x + x.dtype.type(1)
        define(f)
        y = open_session(10, plain={plain}).run(None, {{"x": X.astype(np.float16)}})[0]
        print(y.dtype, (y == X + 1).all())
    """)
    assert out.split() == ["float16", "True"]


def test_ctrl_c_while_a_kernel_runs_is_a_keyboard_interrupt() -> None:
    out = in_child("""
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background ignores
        started = threading.Event()
        def f(x: Element) -> Element:
            started.set()
            for _ in range(1000):
                time.sleep(0.01)
            return x
        define(f)
        session = open_session()
        def interrupt():
            started.wait()
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=interrupt).start()
        try:
            session.run(None, {"x": X})
        except KeyboardInterrupt as error:
            print("interrupted in", [f.name for f in __import__("traceback").extract_tb(error.__traceback__)][-1])
        def g(x: Element) -> Element:
            return x
        define(g)
        print((session.run(None, {"x": X})[0] == X).all())
    """)
    assert out.splitlines() == ["interrupted in f", "True"]


def test_a_storm_of_ctrl_c_ends_neither_process_nor_session() -> None:
    """Interrupts land anywhere in the trampoline's own Python too."""
    out = in_child("""
        def f(x: Element) -> Element:
            if x[0, 0] < 0:
                raise ValueError("of the kernel")
            return x
        define(f)
        session = open_session()
        armed, count, end = [False], 0, time.time() + 2
        def interrupt(number, frame):  # disarms itself, so that no interrupt lands outside of the try
            if armed[0]:
                armed[0] = False
                raise KeyboardInterrupt
        signal.signal(signal.SIGINT, interrupt)
        def storm():
            while time.time() < end:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.0005)
        thread = threading.Thread(target=storm)
        thread.start()
        while time.time() < end:
            try:
                armed[0] = True
                while time.time() < end:
                    session.run(None, {"x": X})
                    try:
                        session.run(None, {"x": X - 9})
                    except ValueError:
                        pass
            except KeyboardInterrupt:
                count += 1
            except BaseException as error:
                print(repr(error)[:500])
            finally:
                armed[0] = False
        thread.join()
        print(count > 10, (session.run(None, {"x": X})[0] == X).all())
        print(session._failures._failures, session._failures.runs)
    """)
    assert out.splitlines() == ["True True", "{} {}"]  # and no other error, such as one of the trampoline's own


def test_ctrl_c_while_a_failure_is_described_is_a_keyboard_interrupt() -> None:
    """A second one, too: what is told of the first is written where no signal handler runs."""
    out = in_child("""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        def f(x: Element) -> Element:
            raise ValueError
        define(f)
        session = open_session()
        from ort_ops.python_kernels import trampoline
        text_of = trampoline._text_of
        def interrupted(error):
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000): pass
            return text_of(error)
        trampoline._text_of = interrupted
        for _ in range(20):
            try:
                session.run(None, {"x": X})
            except KeyboardInterrupt:
                pass
            except BaseException as error:
                print(repr(error)[:500])
        trampoline._text_of = text_of
        def g(x: Element) -> Element:
            return x
        define(g)
        print((session.run(None, {"x": X})[0] == X).all())
    """)
    assert out.splitlines() == ["True"]


@pytest.mark.parametrize("where", ["global", "cycle", "exit hook", "sys.exit", "thread"])
def test_the_interpreter_ends_cleanly_with_a_live_session(where: str) -> None:
    out = in_child(f"""
        import atexit
        where = {where!r}
        def f(x: Element) -> Element:
            return x
        define(f)
        if where == "exit hook":
            atexit.register(lambda: print("hook", session.run(None, {{"x": X}})[0].shape))
        session = open_session()
        session.run(None, {{"x": X}})
        if where == "cycle":
            loop = [session]
            loop.append(loop)
            gc.disable()
        if where == "thread":  # not a daemon: the interpreter waits for it
            def later():
                time.sleep(0.3)
                print("later", session.run(None, {{"x": X}})[0].shape)
            threading.Thread(target=later).start()
        print("done", flush=True)
        if where == "sys.exit":
            sys.exit(0)
    """)
    assert out.splitlines()[0] == "done"
    assert len(out.splitlines()) == 1 + (where in ("exit hook", "thread"))


def test_a_hook_at_exit_after_ours_gets_an_error_not_a_crash() -> None:
    out = in_child(
        """
        def f(x: Element) -> Element:
            return x
        define(f)
        session = open_session()
        """,
        before="""
        import atexit
        def late():
            try:
                session.run(None, {"x": X})
            except Exception as error:
                print("shutting down" in str(error))
        atexit.register(late)  # registered before ours, so it runs after
        """,
    )
    assert out.split() == ["True"]


def test_two_hundred_operators_after_a_session_exists() -> None:
    """onnxruntime-extensions ends in a segmentation fault at the next run."""
    out = in_child("""
        def f(x: Float) -> Float:
            return x
        define(f)
        session = open_session()
        for i in range(200):
            ort_ops.python_kernel(f"test.process::Other{i}")(f)
        open_session()
        print((session.run(None, {"x": X})[0] == X).all())
    """)
    assert out.split() == ["True"]


@pytest.mark.long
def test_memory_of_a_hundred_thousand_calls_and_of_many_sessions() -> None:
    """One leaked view or result per call would be 100 MB and more; one leaked session 20 KiB."""
    out = in_child("""
        def rss_kib():
            gc.collect()
            return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1])
        def f(x: Float) -> Float:
            if x[0, 0] < 0:
                raise ValueError(str(x))
            return x + x
        define(f)
        session = open_session()
        big = np.ones((16, 16), np.float32)
        def calls(count, x):
            for _ in range(count):
                try:
                    session.run(None, {"x": x})
                except ValueError:
                    pass
        calls(1000, big), calls(200, -big)
        before = rss_kib()
        calls(100_000, big)
        print(rss_kib() - before)
        before = rss_kib()
        calls(2000, -big)
        print(rss_kib() - before)
        def use():
            open_session().run(None, {"x": big})
        for _ in range(100): use()
        before = rss_kib()
        for _ in range(300): use()
        print(rss_kib() - before)
        """)
    of_calls, of_errors, of_sessions = map(int, out.split())
    print(f"growth: {of_calls} KiB over 100,000 calls, {of_errors} over 2000 errors, {of_sessions} over 300 sessions")
    assert of_calls < 2048
    # onnxruntime up to 1.20 at least leaks the status of every custom op that fails: here about 600 bytes.
    assert of_errors < 4096
    assert of_sessions < 4096


def test_the_library_is_the_only_thing_that_a_plain_host_needs() -> None:
    """A session made of the library by its path has MYLINEAR and no Python, whatever was registered before."""
    out = in_child("""
        from tests.linear_model import make_linear_model
        linear = make_linear_model(["batch", 3], np.ones((2, 3), np.float32), None, with_function=False)
        linear.ir_version = 9
        def f(x: Float) -> Float:
            return x
        define(f)
        open_session()
        options = onnxruntime.SessionOptions()
        options.register_custom_ops_library(ort_ops.library_path())
        session = onnxruntime.InferenceSession(linear.SerializeToString(), options)
        print(session.run(None, {"x": X})[0].tolist())
    """)
    assert out.strip() == "[[3.0, 3.0], [12.0, 12.0]]"


@pytest.mark.parametrize(
    "body", ["return x.summ()", "raise OwnError([x])", "raise OwnError(x) from OwnError((x,))", "return inner(x)"]
)
def test_an_exception_survives_the_memory_that_it_showed(body: str) -> None:
    """Freed memory is overwritten by the C library here, or is gone: large blocks are given back to the system."""
    out = in_child(
        f"""
        class OwnError(Exception):
            pass
        def inner(y):
            def innermost():
                return y.summ()
            return innermost()
        def f(x: Element) -> Element:
            {body}
        define(f)
        value = lambda name: helper.make_tensor_value_info(name, 1, ["a", "b"])
        nodes = [helper.make_node("Neg", ["x"], ["h"]), helper.make_node("Op", ["h"], ["y"], domain="test.process")]
        graph = helper.make_graph(nodes, "test", [value("x")], [value("y")])
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("test.process", 1)]
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.enable_cpu_mem_arena = False
        made = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
        session = ort_ops.InferenceSession(made, options)
        for shape in (3, 5), (1000, 3000):
            x = np.ones(shape, np.float32)
            for _ in range(3):
                try:
                    session.run(None, {{"x": x}})
                except (AttributeError, OwnError) as error:
                    caught = error
                found = [getattr(caught, "obj", None), *caught.args, *getattr(caught.__cause__, "args", ())]
                for item in found:
                    item = item[0] if isinstance(item, (list, tuple)) else item
                    if isinstance(item, np.ndarray):
                        print(item.shape == shape, (item == -1).all())
        """,
        MALLOC_PERTURB_="165",
    )
    assert set(out.splitlines()) == {"True True"}


FORKED = r"ort_ops: a process that is forked inside a kernel must end inside it, by os._exit\(\) or sys.exit\(\), .*\n"


@pytest.mark.parametrize("mode", ["SEQUENTIAL", "PARALLEL"])
@pytest.mark.parametrize(
    ("ending", "status", "stderr"),
    [
        ("return x", 1, FORKED),
        ("raise ValueError('in the child')", 1, rf"(?s:Traceback.*)ValueError: in the child\n{FORKED}"),
        ("sys.exit(7)", 7, ""),
        ("os._exit(5)", 5, ""),
    ],
)
def test_a_child_that_is_forked_inside_a_kernel_ends(ending: str, status: int, stderr: str, mode: str) -> None:
    """It has none of onnxruntime's threads: going on in it, or ending a session in it, would wait for ever."""
    out = in_child(
        f"""
        def f(x: Element) -> Element:
            child = os.fork()
            if not child:
                {ending}
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
            return x + x
        define(f)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.execution_mode = onnxruntime.ExecutionMode.ORT_{mode}
        options.inter_op_num_threads = 2
        session = ort_ops.InferenceSession(model(), options)
        print((session.run(None, {{"x": X}})[0] == X + X).all())
        """,
        stderr=stderr,
        timeout=30,
    )
    assert out.splitlines() == [str(status), "True"]


@pytest.mark.skipif(
    sys.version_info[:2] > (3, 11),
    reason="3.12 itself crashes once two sub-interpreters have imported datetime; later, their module has another name",
)
@pytest.mark.parametrize("is_used_before", [False, True])
def test_a_sub_interpreter_gets_an_error_and_the_main_one_works(is_used_before: bool) -> None:
    """Importing onnxruntime in one would wait for ever."""
    code = f"""
import _xxsubinterpreters as interpreters
if {is_used_before}:
    import ort_ops
    ort_ops.InferenceSession
for name in "python_kernel", "InferenceSession":
    try:
        interpreters.run_string(
            interpreters.create(), f"import sys; sys.path.insert(0, '.'); import ort_ops; ort_ops.{{name}}"
        )
    except interpreters.RunFailedError as error:
        print("RequirementError" in str(error), "do not work in a sub-interpreter of Python" in str(error))
import ort_ops
print(ort_ops.available_kernels()[1].is_available)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=os.getcwd(), timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["True"] * 5
