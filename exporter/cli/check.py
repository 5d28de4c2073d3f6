"""`mylinear check`: try every promise of an installed operator. Exit status 1 unless all are kept."""

from __future__ import annotations

import argparse

from ort_ops.cli.option_types import seed

EXAMPLES = (
    "mylinear check ScaledSum",
    "mylinear check my.domain::ScaledSum --compile none",
)
"""Of command lines, for the help."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `mylinear check`."""
    parser.add_argument("name", metavar="NAME", help="of an operator: NAME, domain::NAME, or NAME@1 of version 1")
    parser.add_argument("--seed", type=seed, default=0, help="of the samples (default: 0)")
    parser.add_argument(
        "--compile",
        default="aot_eager",
        choices=("aot_eager", "inductor", "none"),
        help="backend of torch.compile; inductor generates code, which takes long (default: aot_eager)",
    )
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="as for `mylinear verify`")
    parser.add_argument(
        "--python", action="append", metavar="PYTHON", help="a Python with another onnxruntime, to run in too; repeat"
    )
    parser.add_argument(
        "--allow-untested",
        action="store_true",
        help="exit with status 0 though promises could not be tried here; they are named all the same",
    )
    parser.add_argument("--json", metavar="FILE", help="write everything as JSON; - for standard output, and no table")


def run(args: argparse.Namespace) -> int:
    """Check, print the table, and write the requested file."""
    from exporter.promises.check import check_operator
    from ort_ops.console.progress import progress
    from ort_ops.console.table import print_table
    from ort_ops.files.atomic import check_output, summary_stream, write_atomically

    if args.json is not None:
        check_output(args.json)
    with progress("check", None) as line:
        result = check_operator(
            args.name,
            seed=args.seed,
            compile_backend=None if args.compile == "none" else args.compile,
            device=args.device,
            pythons=args.python or (),
            on_promise=lambda done, what: line.update(done, what),
        )
    stream = summary_stream(*([] if args.json is None else [args.json]))
    if args.json != "-":
        print_table(*result.table(), stream)
        print(file=stream)
        print(result.conclusion(), file=stream)
    if args.json is not None:
        write_atomically(args.json, result.to_json().encode() + b"\n")
    return 0 if (result.is_kept if args.allow_untested else result.is_ok) else 1
