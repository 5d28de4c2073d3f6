"""`mylinear adopt`: put registered operators in place of what they match in any ONNX model. Needs no torch."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ort_ops.console.counts import counted

if TYPE_CHECKING:
    from ort_ops.rewrite.report import Rewrite


EXAMPLES = (
    "mylinear adopt model.onnx model.ours.onnx",
    "mylinear adopt model.onnx model.ours.onnx --inputs real.npz --json",
    "mylinear adopt model.onnx small.onnx --fuse-activations --weights bfloat16",
)
"""Of command lines, for the help."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `mylinear adopt`."""
    add_rewrite_arguments(parser)
    parser.add_argument(
        "--fuse-activations", action="store_true",
        help="let an operator take in the activation that follows it: Relu, Gelu, SiLU, Sigmoid, Tanh, in any spelling",
    )  # fmt: skip
    parser.add_argument(
        "--weights",
        metavar="DTYPE",
        help="store float32 weights in bfloat16 or float16, rounded (default: as they are)",
    )


def add_rewrite_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `mylinear adopt` and `mylinear lower` have in common."""
    parser.add_argument("source", metavar="in.onnx", help="the model to read")
    parser.add_argument("target", metavar="out.onnx", help="the model to write; may be the same; - for standard output")
    parser.add_argument(
        "--inputs", metavar="FILE.npz", help="compare the whole model on these real inputs (default: drawn numbers)"
    )
    parser.add_argument(
        "--operator", metavar="DOMAIN::NAME", action="append", dest="operators",
        help="rewrite this operator only; may be given more than once (default: all that are registered)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON: every node, with the reason if left alone")


def run(args: argparse.Namespace) -> int:
    """Rewrite and print a summary."""
    from ort_ops.rewrite import adopt

    result = adopt(
        args.source,
        args.target,
        inputs=args.inputs,
        operators=args.operators,
        fuse_activations=args.fuse_activations,
        weight_dtype=args.weights,
    )
    return show(result, args)


def show(result: Rewrite, args: argparse.Namespace) -> int:
    """Print the report of a rewrite, as a table or as JSON."""
    from ort_ops.console.report_text import json_text
    from ort_ops.console.table import print_table
    from ort_ops.files.atomic import summary_stream

    stream = summary_stream(args.target)
    if args.json:
        print(json_text(result.as_dict()), file=stream)
        return 0
    if result.rewritten or result.left:
        print_table(*result.table(), stream)
        print(file=stream)
    print(
        f"{args.target}: {counted(result.num_nodes_before, 'node')} became {result.num_nodes_after}, "
        f"{len(result.rewritten)} rewritten, {len(result.left)} left alone; weights {result.nbytes / 2**20:.1f} MiB",
        file=stream,
    )
    for entry in result.left_out:
        print(f"left out: {entry}", file=stream)
    if result.rounded:
        print(result.rounding_note, file=stream)
    for check in result.checks:
        print(f"compared: {check}", file=stream)
    return 0
