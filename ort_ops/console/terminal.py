"""Make text from models and files safe to show: it neither controls a terminal nor breaks a line or a report.

Imports next to nothing, so that the command line starts at once.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

_CONTROL = r"\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 with ESC but without tab and newline, DEL, C1
_ORDER = r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # change the order in which text is shown
_NO_TEXT = r"\u2028\u2029\ud800-\udfff\ufffe\uffff"  # other line ends; characters that UTF-8 or XML cannot hold
_STEERING = re.compile(f"[{_CONTROL}{_ORDER}{_NO_TEXT}]")
_NOT_IN_ONE_LINE = re.compile(f"[\t\n{_CONTROL}{_ORDER}{_NO_TEXT}]")


def printable(text: str) -> str:
    r"""Return a name in a form that is safe in a terminal, in HTML and in XML: one line without control codes.

    >>> print(printable("a\x1b[31mb\n"))
    a\x1b[31mb\n
    """
    return _NOT_IN_ONE_LINE.sub(_escaped, text)


def one_line(text: str) -> str:
    r"""Return a message as one line.

    >>> one_line("it is damaged:\n  two\x07 bytes")
    'it is damaged: two\\x07 bytes'
    """
    lines = (line.strip(" \t\r") for line in text.split("\n"))
    return printable(" ".join(line for line in lines if line))


def _escaped(found: re.Match[str]) -> str:
    number = ord(found[0])
    short = {9: "\\t", 10: "\\n", 13: "\\r"}.get(number)
    return short or (f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}")


def takes_control_codes(stream: TextIO) -> bool:
    """Whether a stream is a terminal that understands colors and a cursor; a dumb one is written to like a file."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")


def write_control(stream: TextIO, text: str) -> None:
    """Write text with our own control codes, which a `GuardedStream` would escape."""
    getattr(stream, "write_control", stream.write)(text)


class GuardedStream:
    """A text stream for people: escapes control codes, and characters that its encoding does not have.

    A failed write is reported to ``on_error``, and again at each flush, since some callers would miss it. From then on
    everything goes to the null device.
    """

    def __init__(self, stream: TextIO, on_error: Callable[[OSError], None]) -> None:
        self._stream = stream
        self._on_error = on_error
        self._error: OSError | None = None

    def write(self, text: str) -> int:
        """Write the text; line ends and tabs stay."""
        self.write_control(_STEERING.sub(_escaped, text))
        return len(text)

    def write_control(self, text: str) -> None:
        """Write our own text, which may have control codes."""
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        if not text.isascii() and encoding.lower() != "utf-8":
            text = text.encode(encoding, "backslashreplace").decode(encoding)
        self._do(lambda: self._stream.write(text))

    def writelines(self, lines: Iterator[str]) -> None:
        """Write each of the lines."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush the stream."""
        self._do(self._stream.flush)
        if self._error is not None:
            self._on_error(self._error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _do(self, act: Callable[[], object]) -> None:
        try:
            act()
        except OSError as error:
            self._error = error
            _send_to_null(self._stream)
            self._on_error(error)


@contextmanager
def guarded_streams() -> Iterator[None]:
    """Guard stdout and stderr during the block.

    Within it, a failed write to stdout raises OutputError, or BrokenPipeError if its reader has gone. A failed write to
    stderr is lost, since there is nowhere to report it.

    Raises: OutputError if stdout is closed.
    """
    before = sys.stdout, sys.stderr
    is_closed = sys.stdout is None
    _open_closed_descriptors()
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # for the rest of the process
    sys.stderr = cast(TextIO, GuardedStream(sys.stderr, lambda error: None))
    try:
        if is_closed:
            from ort_ops.files.atomic import OutputError

            raise OutputError("standard output is closed; write `> /dev/null` to do without it")
        sys.stdout = cast(TextIO, GuardedStream(sys.stdout, _stdout_error))
        yield
    finally:
        sys.stdout, sys.stderr = before


def _stdout_error(error: OSError) -> None:
    if isinstance(error, BrokenPipeError):
        raise error
    from ort_ops.files.atomic import OutputError

    raise OutputError(f"standard output cannot be written: {error.strerror or error}; send it elsewhere") from error


def _send_to_null(stream: TextIO) -> None:
    """Redirect the descriptor, so that the rest of the stream's buffer, which Python writes at exit, goes somewhere."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


def _open_closed_descriptors() -> None:
    """Occupy the first three descriptors, so that no file that is opened later gets printed into."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
