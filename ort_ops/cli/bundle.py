"""`mylinear bundle`: seal a model, its libraries, a sample and the proof in one folder. Needs no torch."""

from __future__ import annotations

import argparse

EXAMPLES = (
    "mylinear bundle model.onnx deployed",
    "mylinear bundle model.onnx deployed --target 1.17 --for python --for triton",
    "mylinear bundle model.onnx deployed --library linux-aarch64=ort_mylinear-aarch64.whl --sample real.npz",
)
"""Of command lines, for the help."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `mylinear bundle`."""
    parser.add_argument("model", metavar="model.onnx", help="the model")
    parser.add_argument("folder", metavar="DIR", help="the folder to make, which must not exist")
    parser.add_argument("--target", metavar="1.17", help="the oldest onnxruntime that must run it (default: as it is)")
    parser.add_argument(
        "--platforms",
        metavar="NAMES",
        help="to have libraries for, such as linux-x86_64,linux-aarch64; none for no library (default: this machine's, "
        "and those of --library)",
    )
    parser.add_argument(
        "--library",
        metavar="PLATFORM=PATH",
        action="append",
        default=[],
        dest="libraries",
        help="a library, or a wheel that has it, of another platform; may be given more than once",
    )
    parser.add_argument(
        "--for",
        metavar="HOST",
        action="append",
        default=[],
        dest="for_hosts",
        help="add the files of a host, ready to run, such as python or triton; may be given more than once",
    )
    parser.add_argument(
        "--sample", metavar="FILE.npz", help="the sample: an array for each input (default: drawn numbers)"
    )
    parser.add_argument(
        "--allow-untested",
        action="store_true",
        help="write it though an output cannot be compared with exact values; the manifest says so",
    )
    parser.add_argument("--force", action="store_true", help="replace the bundle that DIR is")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Write the bundle, and say what is in it."""
    from ort_ops.bundle.write import write_bundle
    from ort_ops.console.report_text import json_text

    result = write_bundle(
        args.model,
        args.folder,
        target=args.target,
        platforms=args.platforms,
        libraries=args.libraries,
        for_hosts=[name for text in args.for_hosts for name in text.split(",")],
        sample=args.sample,
        allow_untested=args.allow_untested,
        force=args.force,
    )
    print(json_text(result.as_dict()) if args.json else result)
    return 0
