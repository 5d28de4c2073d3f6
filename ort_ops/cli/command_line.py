"""Read the command line, run the subcommand, and turn errors into one line and an exit status."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from ort_ops.cli.commands import find_commands
from ort_ops.cli.main import INTERRUPTED
from ort_ops.console.interrupts import Terminated
from ort_ops.console.terminal import guarded_streams, one_line
from ort_ops.errors import MylinearError

BAD_INPUT = 2
READER_GONE = 141
"""The status that a shell reports for a program that SIGPIPE ended."""


def run_command(arguments: Sequence[str]) -> int:
    """Run the command line and return the exit status; see `ort_ops.cli.main.main`."""
    try:
        with guarded_streams():
            return _run_guarded(arguments)
    except MylinearError as error:  # stdout is closed
        print(f"mylinear: {error}", file=sys.stderr)
        return BAD_INPUT


def _run_guarded(arguments: Sequence[str]) -> int:
    command = ""
    try:
        try:
            options = _parser(arguments).parse_args(arguments)
            command = options.command
            if command != "doctor":  # which reports all faults, not just the first
                from ort_ops.installation import requirements

                requirements.check()
            status: int = options.run(options)
        finally:
            sys.stdout.flush()
    except MylinearError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        from ort_ops.installation.extras import missing_extra

        explained = missing_extra(error, f"`mylinear {command or '--completion'}`")
        if explained is None:
            raise
        return _fail(str(explained))
    except BrokenPipeError:  # such as `mylinear run ... | head`
        return READER_GONE
    except OSError as error:
        where = f"'{error.filename}': " if error.filename is not None else ""
        return _fail(f"{where}{error.strerror or error}")
    except KeyboardInterrupt as error:
        by = f" by {error}" if isinstance(error, Terminated) else ""
        print(f"mylinear: interrupted{by}", file=sys.stderr)
        return INTERRUPTED
    except MemoryError as error:
        return _fail(f"there is too little memory{f': {error}' if str(error) else ''}")
    except Exception as error:
        if not type(error).__module__.startswith("onnxruntime."):
            raise
        return _fail(f"onnxruntime cannot do this: {error}")
    return status


def _fail(message: str) -> int:
    print(f"mylinear: {one_line(message)}", file=sys.stderr)
    return BAD_INPUT


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line that says where the options are explained."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and end with status 2."""
        print(f"mylinear: {one_line(message)}; `{self.prog} --help` says what there is", file=sys.stderr)
        sys.exit(BAD_INPUT)


class _Help(argparse.HelpFormatter):
    """Fills text as always, and leaves indented lines as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        return "\n".join(line if line.startswith("  ") else fill(line, width, indent) for line in text.split("\n"))


class _Version(argparse.Action):
    """Print the version; it takes long to find, so only on request."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from ort_ops.installation import requirements

        version = requirements.installed_version(requirements.DISTRIBUTION)
        print(f"mylinear {version or 'of a source tree, not installed'}")
        parser.exit()


class _Folder(argparse.Action):
    """Print a folder that builds of C++ kernels need."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from ort_ops.native import library

        print(library.cmake_dir() if self.dest == "cmake_dir" else library.include_dir())
        parser.exit()


class _Completion(argparse.Action):
    """Print a shell's completion script, which knows every command and option."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        import shtab

        whole = _parser(list(find_commands()))
        for each in _parsers(whole):
            for action in each._actions:
                if action.nargs != 0 and action.choices is None and action.type is None:
                    action.complete = shtab.FILE  # type: ignore[attr-defined]  # shtab's way to say it
        print(shtab.complete(whole, shell=values))
        parser.exit()


def _parsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """Return a parser and those of its commands."""
    found = [parser]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found += action.choices.values()
    return found


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """Make the parser; import only the subcommand that is called."""
    parser = _Parser(prog="mylinear", description="Train, export, run and prove ONNX operators of your own.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and end")
    folders = (("--include-dir", "the folder of headers for kernels in C++"), ("--cmake-dir", "CMake's mylinear_DIR"))
    for option, what in folders:
        parser.add_argument(option, action=_Folder, nargs=0, help=f"print {what}, and end")
    shells = ("bash", "zsh", "tcsh")
    parser.add_argument("--completion", action=_Completion, choices=shells, help="print a shell's completion script")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, command in find_commands().items():
        subparser = subparsers.add_parser(
            name,
            help=command.summary,
            description=command.summary,
            formatter_class=_Help,
        )
        if name in arguments:
            module = importlib.import_module(command.module)
            module.add_arguments(subparser)
            examples = "\n  ".join(["examples:", *getattr(module, "EXAMPLES", ())])
            subparser.epilog = f"{subparser.epilog}\n\n{examples}" if subparser.epilog else examples
            subparser.set_defaults(run=module.run)
    return parser
