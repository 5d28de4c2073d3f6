"""Let Ctrl-C, SIGTERM and SIGHUP end a command with status 128 + signal, at any moment, leaving nothing behind.

Imports next to nothing, so that it works before the modules that take time to import.
"""

from __future__ import annotations

import os
import signal
import sys

from ort_ops.files import temporaries

TYPE_CHECKING = False  # as typing has it; the command line handles signals before it imports that
if TYPE_CHECKING:
    from types import CodeType, FrameType
    from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM) + ((signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ())  # not on Windows
_IMPORT_MACHINERY = "<frozen importlib."


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP came; code that stops at Ctrl-C stops at these too."""


class Interrupts:
    """The signal handlers of one command.

    Within the function that does the work, the first signal raises KeyboardInterrupt, or `Terminated`: blocks clean
    up, and a training says where its checkpoint is. Anywhere else an exception could be lost or turned into another:
    while a module is imported, in a destructor, at the end of the process, or when a second signal comes. There the
    process ends at once; its temporary files are removed first.

    Attributes:
        received: the signal that has come, or None.
    """

    def __init__(self, code: CodeType) -> None:
        """Take the code object of the function that does the work."""
        self.received: int | None = None
        self._code = code
        self._previous: dict[int, Any] = {}
        self._is_over = False
        self._unraisable_hook = sys.unraisablehook

    def install(self) -> None:
        """Handle the signals from now on, except those that the parent process told this one to ignore."""
        sys.unraisablehook = self._unraisable
        for number in SIGNALS:
            if signal.getsignal(number) is signal.SIG_IGN:
                continue
            try:
                self._previous[number] = signal.signal(number, self._handle)
            except ValueError:  # not the main thread, which decides then
                return

    def finish(self, *, is_process_over: bool) -> None:
        """Stop handling signals: the work is done and its status is known.

        Args:
            is_process_over: whether the process is about to end. Signals are ignored then, as they can change nothing;
                otherwise the earlier handlers are put back.
        """
        self._is_over = True
        sys.unraisablehook = self._unraisable_hook
        for number, previous in self._previous.items():
            signal.signal(number, signal.SIG_IGN if is_process_over else previous)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._is_over:
            return
        if self.received is not None or not self._is_at_work(frame):
            self._end(number)
        self.received = number
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated(signal.Signals(number).name)

    def _is_at_work(self, frame: FrameType | None) -> bool:
        while frame is not None:
            if frame.f_code.co_filename.startswith(_IMPORT_MACHINERY):
                return False
            if frame.f_code is self._code:
                return True
            frame = frame.f_back
        return False

    def _unraisable(self, found: Any) -> None:
        """Look at an exception that Python is about to drop, as it does in destructors and in callbacks from C."""
        if self.received is not None and isinstance(found.exc_value, KeyboardInterrupt):
            self._end(self.received)
        self._unraisable_hook(found)

    def _end(self, number: int) -> None:
        temporaries.remove_all()
        self.say(number)
        os._exit(128 + number)

    def say(self, number: int) -> None:
        """Say on stderr which signal ended the command; not by Python's stream, which may be in use."""
        name = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
        try:  # noqa: SIM105  # contextlib takes time to import
            os.write(2, f"mylinear: interrupted{name}\n".encode())
        except OSError:  # it is closed or full
            pass
