"""The `mylinear` command. Each subcommand is a module of `exporter.commands`, imported when it is asked for."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import version

from ort_ops import requirements
from ort_ops.errors import MylinearError

COMMANDS = {
    "demo": "train, export, run and verify the example from one end to the other",
    "train": "train a model of MyLinear layers",
    "export": "export a checkpoint to ONNX",
    "run": "predict with a model",
    "verify": "prove that training and serving compute the same",
    "adopt": "make MYLINEAR nodes of the linear layers of any ONNX model",
    "lower": "make standard operators of MYLINEAR nodes",
    "bench": "time MYLINEAR beside its peers and the machine's ceilings",
    "inspect": "say what is in a model, and what would run it here",
    "doctor": "say what is installed, which kernels there are, and how to mend what is wrong",
}
_EXTRA = "export"  # of pyproject.toml: what the torch side needs
_EXTRA_MODULES = ("torch", "onnxscript", "onnx_ir", "matplotlib", "sklearn")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0, 1 for a failed proof, 2 for bad input, 130 for Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser(arguments).parse_args(arguments)
    try:
        if options.command != "doctor":  # which says all that is wrong, not the first
            requirements.check()
        status: int = options.run(options)
    except MylinearError as error:
        print(f"mylinear: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in _EXTRA_MODULES:
            raise
        print(
            f"mylinear: `mylinear {options.command}` needs {error.name}; pip install 'ort-mylinear[{_EXTRA}]'",
            file=sys.stderr,
        )
        return 2
    except BrokenPipeError:  # such as `mylinear run ... | head`
        sys.stderr.close()
        return 1
    except KeyboardInterrupt:
        print("mylinear: interrupted", file=sys.stderr)
        return 130
    return status


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """Make the parser; only the subcommand that is asked for is imported."""
    parser = argparse.ArgumentParser(prog="mylinear", description="Train, export, run and prove the MYLINEAR operator.")
    parser.add_argument("--version", action="version", version=f"mylinear {version('ort-mylinear')}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, summary in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary)
        if name in arguments:
            module = importlib.import_module(f"exporter.commands.{name}")
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
