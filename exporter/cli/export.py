"""`mylinear export`: turn a checkpoint of `mylinear train` into an ONNX file."""

from __future__ import annotations

import argparse

from ort_ops.opdef.element_types import FLOATS

NARROW_TYPES = ("bfloat16", "float16")
"""Those of ``exporter.export(weight_dtype=...)``; help must not import it."""

EXAMPLES = (
    "mylinear export mylinear-train/checkpoint.pt model.onnx",
    "mylinear export mylinear-train/checkpoint.pt model.onnx --target 1.17 --dtype float16",
)
"""Of command lines, for the help."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `mylinear export`."""
    parser.add_argument("checkpoint", help="checkpoint written by `mylinear train`")
    parser.add_argument("output", help="the .onnx file to write; - for standard output")
    parser.add_argument("--engine", choices=("dynamo", "torchscript"), default="dynamo", help="torch's exporter")
    parser.add_argument("--opset", type=int, help="version of ONNX's own operators (default: 20)")
    parser.add_argument("--target", help="an onnxruntime that must load it, such as 1.17; picks opset and IR version")
    parser.add_argument("--target-python", metavar="PYTHON", help="a Python that has the target, to run the file there")
    dtypes = [element_type.name for element_type in FLOATS]
    parser.add_argument("--dtype", choices=dtypes, help="element type of the model (default: as trained)")
    parser.add_argument("--weights", choices=NARROW_TYPES, help="store float32 weights so, and compute in float32")


def run(args: argparse.Namespace) -> int:
    """Export, and print what was written."""
    from exporter.training.trained import export_checkpoint
    from ort_ops.files.atomic import is_stream, summary_stream
    from ort_ops.numerics.compare import Verdict

    result = export_checkpoint(
        args.checkpoint,
        args.output,
        engine=args.engine,
        opset=args.opset,
        dtype=args.dtype,
        target=args.target,
        target_python=args.target_python,
        weight_dtype=args.weights,
    )
    stream = summary_stream(args.output)
    worst = max(comparison.max_in_bounds for comparison in result.comparisons.values())
    print(
        f"{result.path}: {result.nodes_in_words}, opset {result.opset}, IR version {result.ir_version}; "
        f"onnxruntime agrees with torch (largest error {worst:.3f} of its bound)",
        file=stream,
    )
    if result.weights is not None:
        print(result.weights, file=stream)
    for name, comparison in result.comparisons.items():
        if comparison.verdict is not Verdict.OK:
            print(f"output '{name}' is not proved in full: {comparison.text}", file=stream)
    if is_stream(args.output):
        return 0
    suffix = "" if args.dtype or args.weights else f" --checkpoint {args.checkpoint}"
    print(f"next: mylinear verify {result.path}{suffix}", file=stream)
    return 0
