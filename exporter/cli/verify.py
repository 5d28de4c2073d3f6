"""`mylinear verify`: print the parity table of one model. Exit status 1 unless every node of ours is proved."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, TextIO

from ort_ops.cli.option_types import seed
from ort_ops.opdef.element_types import FLOATS

if TYPE_CHECKING:
    from exporter.verification.result import Verification


EXAMPLES = (
    "mylinear verify model.onnx",
    "mylinear verify model.onnx --inputs real.npz --html report.html",
    "mylinear verify model.onnx --dtype float16 --junit results.xml",
)
"""Of command lines, for the help."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `mylinear verify`."""
    parser.add_argument("model", help="the .onnx file")
    parser.add_argument(
        "--checkpoint", help="checkpoint to run in torch (default: the operator in torch, node by node)"
    )
    parser.add_argument(
        "--inputs",
        metavar="FILE.npz",
        action="append",
        help="run the whole model on these real inputs, an array for each by name; repeat (default: drawn numbers)",
    )
    parser.add_argument("--seed", type=seed, default=0, help="of the drawn numbers (default: 0)")
    parser.add_argument(
        "--batch-size",
        type=int,
        action="append",
        help="size of the dynamic dimensions; repeat (default: 1, 2, 7, 64; 32 for 64 where an input has several)",
    )
    names = [element_type.name for element_type in FLOATS]
    parser.add_argument("--dtype", action="append", choices=names, help="run each node alone in this one too; repeat")
    parser.add_argument(
        "--compile",
        default="aot_eager",
        choices=("aot_eager", "inductor", "none"),
        help="backend of torch.compile; inductor generates code, which takes long (default: aot_eager)",
    )
    parser.add_argument(
        "--device",
        default="auto",
        choices=("auto", "cpu", "cuda"),
        help="cuda fails where the CUDA kernel cannot run, cpu leaves its backends out (default: auto, as there is)",
    )
    parser.add_argument("--all", action="store_true", help="print every row, not one for each backend and dtype")
    parser.add_argument(
        "--allow-untested",
        action="store_true",
        help="exit with status 0 though nodes went untested; they are named all the same",
    )
    parser.add_argument("--json", metavar="FILE", help="write everything as JSON; - for standard output, and no table")
    parser.add_argument("--junit", metavar="FILE", help="write JUnit XML")
    parser.add_argument("--html", metavar="FILE", help="write a page with histograms and the graph")


def run(args: argparse.Namespace) -> int:
    """Verify, print the table, and write the requested files."""
    from ort_ops.files.atomic import check_output, summary_stream, write_atomically

    outputs = [path for path in (args.json, args.junit, args.html) if path is not None]
    for path in outputs:
        check_output(path)
    if args.html is not None:
        import jinja2  # noqa: F401  # fails now where it is missing, not after the work
    from exporter.verification.report import to_junit, write_html
    from exporter.verification.verify import verify
    from ort_ops.console.progress import progress

    with progress("verify", None) as line:
        result = verify(
            args.model,
            checkpoint=args.checkpoint,
            batch_sizes=args.batch_size,
            inputs=args.inputs or (),
            seed=args.seed,
            dtypes=args.dtype or (),
            compile_backend=None if args.compile == "none" else args.compile,
            device=args.device,
            allow_untested=args.allow_untested,
            on_progress=lambda done, total, what: line.update(done, what, total=total),
        )
    if args.json != "-":
        show(result, summary_stream(*outputs), with_all=args.all)
    if args.json is not None:
        write_atomically(args.json, result.to_json().encode() + b"\n")
    if args.junit is not None:
        write_atomically(args.junit, to_junit(result).encode())
    if args.html is not None:
        write_html(result, args.html)
    return 0 if result.passes() else 1


def show(result: Verification, stream: TextIO, *, with_all: bool) -> None:
    """Print the table, edge values, what did not run or was not tested, and the conclusion."""
    from exporter.verification.row import EDGES_IN_WORDS
    from ort_ops.console.table import print_table

    print_table(*(result.table() if with_all else result.summary()), stream)
    lines = [""]
    edges = [] if with_all else result.edge_rows()
    wrong = [row for row in edges if not row.is_ok]
    if edges:
        of_right = f"{len(edges) - len(wrong)} of {len(edges)} ok" if wrong else f"all {len(edges)} ok"
        lines.append(f"edge values ({EDGES_IN_WORDS}): {of_right}")
    lines += [f"edge values, {row.backend}, {row.dtype}: {row.verdict}" for row in wrong]
    lines += [] if with_all else [f"not run: {row.backend}, {row.inputs}: {row.reason}" for row in result.not_run()]
    lines += [f"note: {note}" for note in result.notes]
    lines += result.untested_lines()
    lines.append("error / bound: the largest error in units of what a right backend may be off; above 1 it is wrong")
    lines.append(f"bound of the whole model's outputs: {result.bound}")
    lines += [result.training] if result.training else []
    lines.append(result.conclusion())
    for line in lines:
        print(line, file=stream)
