"""`mylinear demo`: the whole path on one small problem."""

from __future__ import annotations

import argparse

EXAMPLES = (
    "mylinear demo",
    "mylinear demo --output somewhere",
)
"""Of command lines, for the help."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `mylinear demo`."""
    parser.add_argument("--output", default="mylinear-demo", help="folder to write into (default: ./mylinear-demo)")


def run(args: argparse.Namespace) -> int:
    """Run the demonstration, print its result, and return 1 if parity does not hold."""
    from ort_ops.console.progress import progress

    with progress("demo", None) as line:
        line.update(0, "loading torch")
        from exporter.cli.demo_path import (
            ENGINE_HEADER,
            HEADER,
            REPORT_NAME,
            engine_rows,
            learned_parameters,
            run_demo,
        )

        result = run_demo(args.output, lambda done, total, note: line.update(done, note, total=total))
    from ort_ops.console.table import print_table

    for engine, values in learned_parameters(result).items():
        learned = ", ".join(f"{value:.4f}" for value in values)
        print(f"trained   y = 2 x0 + 3 x1 + 4 in 300 steps of {engine}: learned ({learned}), true (2, 3, 4)")
    for kernel, prediction in result.predictions.items():
        print(f"served    f(3, 2) = {prediction!r} by the {kernel} kernel, true value 16")
    engines = result.engines
    print()
    print(
        f"steps of both engines, each from torch's state: {engines.equal_steps} of {engines.steps} have the same bits"
    )
    print_table(ENGINE_HEADER, engine_rows(engines))
    print()
    print_table(HEADER, result.rows)
    print()
    print("parity holds" if result.is_ok else "parity is VIOLATED")
    print(f"wrote     {args.output}: open {args.output}/{REPORT_NAME} in a browser")
    return 0 if result.is_ok else 1
