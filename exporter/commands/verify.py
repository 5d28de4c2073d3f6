"""`mylinear verify`: the parity table of one model. Exit status 1 if any road leaves its bound."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `mylinear verify`."""
    parser.add_argument("model", help="the .onnx file")
    parser.add_argument(
        "--checkpoint", help="checkpoint to run in torch (default: the operator in torch, node by node)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random input (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Verify and print the table."""
    from exporter.verification import verify
    from ort_ops.progress import progress
    from ort_ops.table import format_table

    with progress("verify", None) as line:
        result = verify(
            args.model,
            checkpoint=args.checkpoint,
            seed=args.seed,
            on_progress=lambda done, total, road: line.update(done, f"of {total}: {road}"),
        )
    print(format_table(*result.table()))
    print("parity holds" if result.is_ok else "parity is VIOLATED")
    return 0 if result.is_ok else 1
