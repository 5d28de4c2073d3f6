"""Locks are free again wherever Ctrl-C comes, also between taking one and what it guards."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import onnxruntime
import pytest

from ort_ops import Float32
from ort_ops.batch import sessions
from ort_ops.exclusive import guarded, new_lock
from ort_ops.native import library as native_library
from ort_ops.opdef import registry
from ort_ops.python_kernels import decorator, trampoline


class InterruptedLock(type(new_lock())):  # type: ignore[misc]
    """A lock whose taker is interrupted as soon as it has it, once: what Python 3.14 does to ``with lock:``."""

    was_taken = False

    def acquire(self, *args: Any) -> bool:
        super().acquire(*args)
        if not self.was_taken:
            self.was_taken = True
            raise KeyboardInterrupt
        return True

    __enter__ = acquire


def is_free(lock: Any) -> bool:
    """Whether another thread gets the lock."""
    found = []

    def take() -> None:
        found.append(lock.acquire(False))
        if found[0]:
            lock.release()

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    return bool(found[0])


def define() -> None:
    @decorator.python_kernel("tests.exclusive::Once")
    def once(x: Float32) -> Float32:
        return x

    once.remove()


def register() -> None:
    path = native_library.library_path()
    trampoline.register(onnxruntime.SessionOptions(), path, [("tests.exclusive", (), list)], with_cpp_kernels=True)


def serve() -> None:
    sessions.served_model(str(Path(__file__).parents[2] / "models" / "linear.onnx"), "body", 1)


@pytest.mark.parametrize(
    ("module", "call"),
    [
        pytest.param(registry, lambda: registry.remove(registry.kits()[0]), id="registry"),
        pytest.param(decorator, define, id="define"),
        pytest.param(decorator, decorator.defined_kernels, id="defined"),
        pytest.param(trampoline, register, id="register", marks=pytest.mark.native),
        pytest.param(sessions, serve, id="serve"),
    ],
)
def test_a_lock_is_free_after_an_interrupt(
    module: ModuleType, call: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = InterruptedLock()
    monkeypatch.setattr(module, "_lock", lock)
    with pytest.raises(KeyboardInterrupt):
        call()
    assert lock.was_taken
    assert is_free(lock)


def test_the_registry_loads_again_after_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    before = registry.kits()

    class Interrupting:
        name, value = "interrupted", "nowhere:KIT"

        def load(self) -> None:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(registry, "_kits", {})
        patch.setattr(registry, "_failures", {})
        patch.setattr(registry, "_is_loaded", False)
        with monkeypatch.context() as inner:
            inner.setattr(registry.metadata, "entry_points", lambda group: [Interrupting()])
            with pytest.raises(KeyboardInterrupt):
                registry.kits()
            assert registry._kits == {}
        assert [kit.operator.key for kit in registry.kits()] == [kit.operator.key for kit in before]
        assert registry.failures() == {}


def test_guarded_functions_call_each_other_and_wait_for_other_threads() -> None:
    lock, inside, order = new_lock(), threading.Event(), []

    @guarded(lambda: lock)
    def inner(name: str) -> None:
        order.append(name)

    @guarded(lambda: lock)
    def outer() -> None:
        inside.set()
        other.join(0.2)
        inner("outer")

    def wait() -> None:
        inside.wait()
        inner("other")

    other = threading.Thread(target=wait)
    other.start()
    outer()
    other.join()
    assert order == ["outer", "other"]
    assert is_free(lock)
