"""`mylinear export`: a checkpoint of `mylinear train` becomes an ONNX file."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `mylinear export`."""
    parser.add_argument("checkpoint", help="checkpoint written by `mylinear train`")
    parser.add_argument("output", help="the .onnx file to write")
    parser.add_argument("--engine", choices=("dynamo", "torchscript"), default="dynamo", help="torch's exporter")
    parser.add_argument("--opset", type=int, help="version of ONNX's own operators (default: 20)")


def run(args: argparse.Namespace) -> int:
    """Export and say what was written."""
    from exporter.checkpoint import load_checkpoint, load_network
    from exporter.export import export
    from exporter.network import example_input, metadata

    checkpoint = load_checkpoint(args.checkpoint)
    network = load_network(args.checkpoint)
    result = export(
        network,
        example_input(network),
        args.output,
        engine=args.engine,
        opset=args.opset,
        metadata=metadata(checkpoint),
    )
    worst = max(comparison.max_in_bounds for comparison in result.comparisons.values())
    print(
        f"{result.path}: {result.num_linear} MYLINEAR nodes, opset {result.opset}, IR version {result.ir_version}; "
        f"onnxruntime agrees with torch (largest error {worst:.3f} of its bound)"
    )
    print(f"next: mylinear verify {result.path} --checkpoint {args.checkpoint}")
    return 0
