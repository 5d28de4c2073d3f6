"""`mylinear verify`: the parity table of one model. Exit status 1 if any road leaves its bound."""

from __future__ import annotations

import argparse

from ort_ops.contract import ELEMENT_TYPES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `mylinear verify`."""
    parser.add_argument("model", help="the .onnx file")
    parser.add_argument(
        "--checkpoint", help="checkpoint to run in torch (default: the operator in torch, node by node)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random input (default: 0)")
    parser.add_argument(
        "--batch-size",
        type=int,
        action="append",
        help="size of the dynamic dimensions; repeat (default: 1, 2, 7, 64; 32 for 64 where an input has several)",
    )
    names = [element_type.name for element_type in ELEMENT_TYPES]
    parser.add_argument("--dtype", action="append", choices=names, help="run each node alone in this one too; repeat")
    parser.add_argument(
        "--compile",
        default="aot_eager",
        choices=("aot_eager", "inductor", "none"),
        help="backend of the road torch.compile; inductor generates code, which takes long (default: aot_eager)",
    )
    parser.add_argument(
        "--device",
        default="auto",
        choices=("auto", "cpu", "cuda"),
        help="cuda fails where the CUDA kernel cannot run, cpu leaves its roads out (default: auto, as there is)",
    )
    parser.add_argument("--json", metavar="FILE", help="write everything as JSON; - for standard output, and no table")
    parser.add_argument("--junit", metavar="FILE", help="write JUnit XML")
    parser.add_argument("--html", metavar="FILE", help="write a page with histograms and the graph")


def run(args: argparse.Namespace) -> int:
    """Verify, print the table, and write what was asked for."""
    from ort_ops.files import check_output, summary_stream, write_atomically

    outputs = [path for path in (args.json, args.junit, args.html) if path is not None]
    for path in outputs:
        check_output(path)
    from exporter.verification import verify
    from exporter.verification_report import to_junit, write_html
    from ort_ops.progress import progress
    from ort_ops.table import format_table

    with progress("verify", None) as line:
        result = verify(
            args.model,
            checkpoint=args.checkpoint,
            batch_sizes=args.batch_size,
            seed=args.seed,
            dtypes=args.dtype or (),
            compile_backend=None if args.compile == "none" else args.compile,
            device=args.device,
            on_progress=lambda done, total, road: line.update(done, road, total=total),
        )
    if args.json != "-":
        stream = summary_stream(*outputs)
        print(format_table(*result.table()), file=stream)
        print(f"outputs are bounded by {result.bound}", file=stream)
        print("parity holds" if result.is_ok else "parity is VIOLATED", file=stream)
    if args.json is not None:
        write_atomically(args.json, result.to_json().encode() + b"\n")
    if args.junit is not None:
        write_atomically(args.junit, to_junit(result).encode())
    if args.html is not None:
        write_html(result, args.html)
    return 0 if result.is_ok else 1
