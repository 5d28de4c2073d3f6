"""Find the commands: those of this package, and those that installed packages add by entry points.

An entry point of group ``mylinear.commands`` names a dictionary in a package; each key is a command, and a module of
that package with `add_arguments` and `run`; each value is the summary that the help shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata

GROUP = "mylinear.commands"

_SERVING = {
    "run": "predict with a model",
    "adopt": "put our operators in for what they can stand for, in any ONNX model",
    "lower": "replace our operators by standard ones",
    "bundle": "seal a model, its libraries, a sample and the proof in one folder, to deploy",
    "inspect": "say what is in a model, and what would run it here",
    "new": "write the package of an operator of your own",
    "doctor": "say what is installed, which kernels there are, and how to mend what is wrong",
}


@dataclass(frozen=True)
class Command:
    """A subcommand of `mylinear`.

    Attributes:
        module: full name of the module with `add_arguments` and `run`.
        summary: what the help says.
    """

    module: str
    summary: str


def find_commands() -> dict[str, Command]:
    """Return every command by name: first those of other packages, in their order, then ours."""
    found = {}
    for entry in metadata.entry_points(group=GROUP):
        package = entry.value.partition(":")[0]
        for name, summary in entry.load().items():
            found[name] = Command(f"{package}.{name}", summary)
    for name, summary in _SERVING.items():
        found[name] = Command(f"ort_ops.cli.{name}", summary)
    return found
