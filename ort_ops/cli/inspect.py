"""`mylinear inspect`: say what is in a model, and what would run it here; a gate for pipelines. Needs no torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from ort_ops.cli.option_types import kernel, provider

if TYPE_CHECKING:
    from ort_ops.inspection.model import Inspection
    from ort_ops.inspection.trial_run import OutputInfo


EXAMPLES = (
    "mylinear inspect model.onnx",
    "mylinear inspect model.onnx --require-kernel cpp --run",
    "mylinear inspect model.onnx --html model.html",
)
"""Of command lines, for the help."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `mylinear inspect`."""
    parser.add_argument("model", help="the .onnx file")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--html", metavar="FILE", help="write a page that draws the graph, colored by kernel")
    parser.add_argument(
        "--require-kernel",
        metavar="NAME",
        type=kernel,
        help="exit with status 1 if a registered operator would not run by this kernel here",
    )
    parser.add_argument(
        "--run", dest="is_run", action="store_true", help="run the model once too, and say what comes out"
    )
    parser.add_argument(
        "--inputs", metavar="FILE.npz", help="with --run: on these real inputs, an array for each by name"
    )
    parser.add_argument(
        "--provider", type=provider, action="append", help="execution provider of onnxruntime; may be repeated"
    )


def run(args: argparse.Namespace) -> int:
    """Print what was found; status 1 if the model breaks the contract, or does not run as required."""
    from ort_ops.console.report_text import json_text
    from ort_ops.files.atomic import check_output, summary_stream
    from ort_ops.inspection.model import GateError, inspect_model, require_kernel
    from ort_ops.inspection.trial_run import TrialRunError, trial_run

    if args.inputs is not None and not args.is_run:
        raise TrialRunError("--inputs needs --run")
    if args.html is not None:
        check_output(args.html)
        _require_page()
    found = inspect_model(args.model, providers=args.provider)
    verdict = ""
    if args.require_kernel is not None:
        try:
            require_kernel(found, args.require_kernel)
        except GateError as error:
            verdict = str(error)
    outputs = []
    if args.is_run and not found.faults:
        outputs = trial_run(args.model, args.inputs, args.provider)
    stream = sys.stdout if args.html is None else summary_stream(args.html)
    if args.json:
        ran = {"run": [output.as_dict() for output in outputs]} if args.is_run else {}
        print(json_text({**found.as_dict(), "gate": verdict or "passed", **ran}), file=stream)
    else:
        _show(found, outputs, verdict, stream)
    if args.html is not None:
        from ort_ops.inspection.page import write_page

        write_page(found, args.html, gate=None if args.require_kernel is None else verdict, outputs=outputs)
    return 1 if verdict or found.faults else 0


def _require_page() -> None:
    """Fail now where the packages of a page are missing, not after the work. Raises: ModuleNotFoundError."""
    from ort_ops.inspection.drawing import require_graphviz

    require_graphviz()
    import jinja2  # noqa: F401


def _show(found: Inspection, outputs: Sequence[OutputInfo], verdict: str, stream: TextIO) -> None:
    from ort_ops.console.table import print_table
    from ort_ops.inspection.shown import parts

    for part in parts(found):
        if isinstance(part, str):
            print(part, file=stream)
        else:
            print_table(*part, stream)
    for output in outputs:
        span = "no finite number" if output.least is None else f"{output.least:.6g} to {output.largest:.6g}"
        rest = f", {output.num_not_finite} not finite" if output.num_not_finite else ""
        print(f"run        {output.name}: {output.dtype} {output.shape}, {span}{rest}", file=stream)
    for fault in found.faults:
        print(f"fault      {fault}", file=stream)
    if verdict:
        print(f"gate       {verdict}", file=stream)
