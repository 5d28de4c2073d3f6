"""`mylinear lower`: put standard operators in place of registered ones, for other tools. Needs no torch."""

from __future__ import annotations

import argparse

EXAMPLES = ("mylinear lower model.onnx standard.onnx",)
"""Of command lines, for the help."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `mylinear lower`."""
    from ort_ops.cli.adopt import add_rewrite_arguments

    add_rewrite_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Rewrite and print a summary."""
    from ort_ops.cli.adopt import show
    from ort_ops.rewrite import lower

    return show(lower(args.source, args.target, inputs=args.inputs, operators=args.operators), args)
