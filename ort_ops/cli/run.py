"""`mylinear run`: predictions of a model. Needs no torch."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnxruntime


EXAMPLES = (
    'mylinear run model.onnx --input "3,2; 1,5"',
    "mylinear run model.onnx --input rows.csv --output results.csv",
)
"""Of command lines, for the help."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `mylinear run`."""
    parser.add_argument("model", help="the .onnx file")
    parser.add_argument("--input", required=True, help='a .csv or .npy file, or rows such as "3,2" or "3,2; 1,5"')
    parser.add_argument("--output", help="a .csv or .npy file (default: CSV on standard output)")
    parser.add_argument("--kernels", default="auto", help="auto, or one that ort_ops.available_kernels() lists")
    parser.add_argument("--batch-size", type=int, default=1024, help="rows per run (default: 1024)")
    parser.add_argument("--raw", action="store_true", help="the model's own numbers in place of class and probability")
    parser.add_argument(
        "--positional",
        action="store_true",
        help="take a CSV file's columns in their order, whatever its header says (default: by the names in the model)",
    )


def run(args: argparse.Namespace) -> int:
    """Predict, and say on stderr how many rows went where."""
    from ort_ops.models.checks import function_difference
    from ort_ops.models.files import look_at_model
    from ort_ops.models.nodes import check_operator_nodes
    from ort_ops.opdef.operator import ContractError
    from ort_ops.prediction.predict import predict
    from ort_ops.session import InferenceSession

    model = look_at_model(args.model)
    nodes = check_operator_nodes(model)
    difference = function_difference(model)
    if difference is not None:  # a kernel would compute something other than the definition in the model
        raise ContractError(f"'{args.model}': {difference}")
    session = InferenceSession(args.model, _session_options(), kernels=args.kernels)
    count = predict(
        session,
        args.input,
        args.output,
        batch_size=args.batch_size,
        stream=sys.stdout,
        raw=args.raw,
        positional=args.positional,
        tell=lambda text: print(f"mylinear: {text}", file=sys.stderr),
    )
    if not nodes:  # at the end: an error is one line
        text = f"'{args.model}' has no node of a registered operator; onnxruntime's own kernels ran it"
        print(f"mylinear: {text}", file=sys.stderr)
    if args.output is not None:
        by = "".join(f", {name.rpartition('::')[2]} by the {kernel} kernel" for name, kernel in session.kernels.items())
        print(f"{args.output}: {count} rows{by}", file=sys.stderr)
    return 0


def _session_options() -> onnxruntime.SessionOptions:
    """Return options without a log, and with threads that sleep between batches; by default they would spin."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors come as exceptions too
    for pool in ("intra_op", "inter_op"):
        options.add_session_config_entry(f"session.{pool}.allow_spinning", "0")
    return options
