"""The `mylinear` command: handle signals before any slow import; `command_line` does the rest."""

from __future__ import annotations

import sys

from ort_ops.console.interrupts import Interrupts
from ort_ops.files import temporaries

TYPE_CHECKING = False  # as typing has it; the command line handles signals before it imports that
if TYPE_CHECKING:
    from collections.abc import Sequence

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    0 for success, 1 for a failed proof, 2 for bad input, 141 where the reader of stdout went away, 128 + signal for
    Ctrl-C (130), SIGTERM (143) and SIGHUP (129).

    Args:
        arguments: of the command line; None for those of this process, which then ends with the command.
    """
    interrupts = Interrupts(_work.__code__)
    interrupts.install()
    status = 0
    try:
        status = _work(sys.argv[1:] if arguments is None else arguments)
    except BaseException:
        if interrupts.received is None:
            raise
    finally:
        temporaries.remove_all()
        interrupts.finish(is_process_over=arguments is None)
    if interrupts.received is None:
        return status
    if status != INTERRUPTED:  # then no message was printed yet
        interrupts.say(interrupts.received)
    return 128 + interrupts.received


def _work(arguments: Sequence[str]) -> int:
    from ort_ops.cli.command_line import run_command

    return run_command(arguments)
