"""`mylinear run`: predictions of a model. Needs no torch."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ort_ops.console.counts import counted

if TYPE_CHECKING:
    import onnxruntime

    from ort_ops.prediction.predict import SideBySide
    from ort_ops.session import InferenceSession

FORMATS = ("parquet", "arrow", "feather", "csv", "npy")

EXAMPLES = (
    'mylinear run model.onnx --input "3,2; 1,5"',
    "mylinear run model.onnx --input rows.csv --output results.parquet",
    "mylinear run model.onnx --input rows/ --output results/ --keep id",
)
"""Of command lines, for the help."""

LOCAL = "local"
_SMALL_MODEL = 2**26  # bytes of a file up to which a second session costs nobody's memory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `mylinear run`."""
    parser.add_argument("model", help="the .onnx file")
    parser.add_argument(
        "--input",
        required=True,
        action="append",
        help='a .csv, .npy, .parquet, .arrow or .feather file; rows such as "3,2" or "3,2; 1,5"; or a folder, a '
        'pattern such as "rows/*.parquet", or several of them by --input again, with a folder as output',
    )
    parser.add_argument(
        "--output",
        help="a file of the same kinds (default: CSV on standard output); or a folder, for the results in parts: "
        "the same command again goes on where a run was killed",
    )
    parser.add_argument("--kernels", default="auto", help="auto, or one that ort_ops.available_kernels() lists")
    parser.add_argument("--batch-size", type=int, default=1024, help="rows per run (default: 1024)")
    parser.add_argument("--raw", action="store_true", help="the model's own numbers in place of class and probability")
    parser.add_argument(
        "--positional",
        action="store_true",
        help="take a table's columns in their order, whatever they are called (default: by the names in the model)",
    )
    parser.add_argument(
        "--keep", action="append", default=[], metavar="COLUMN", help="copy a column of a Parquet or Arrow file (again)"
    )
    parser.add_argument(
        "--format", choices=FORMATS, help="of the parts in an output folder (default: that of each file with rows)"
    )
    parser.add_argument("--part-rows", type=int, default=1_000_000, help="rows in a part (default: 1000000)")
    parser.add_argument(
        "--engine",
        default=LOCAL,
        help="local (default), or ray or spark: Parquet files to a new folder, on the cluster that it is set up for",
    )


def run(args: argparse.Namespace) -> int:
    """Predict, and say on stderr how many rows went where."""
    from ort_ops.batch.sources import are_many
    from ort_ops.models.checks import function_difference
    from ort_ops.models.external_data import external_locations
    from ort_ops.models.files import look_at_model
    from ort_ops.models.nodes import check_operator_nodes
    from ort_ops.opdef.operator import ContractError
    from ort_ops.session import InferenceSession

    model = look_at_model(args.model)
    nodes = check_operator_nodes(model)
    difference = function_difference(model)
    if difference is not None:  # a kernel would compute something other than the definition in the model
        raise ContractError(f"'{args.model}': {difference}")
    is_folder = args.engine != LOCAL or are_many(args.input) or _is_folder(args.output)
    session = InferenceSession(args.model, _session_options(), kernels=args.kernels)
    by = "".join(f", {name.rpartition('::')[2]} by the {kernel} kernel" for name, kernel in session.kernels.items())
    said = _run_folder(args, session, by, external_locations(model)) if is_folder else _run_file(args, session, by)
    if not nodes:  # at the end: an error is one line
        _tell(f"'{args.model}' has no node of a registered operator; onnxruntime's own kernels ran it")
    if said:
        print(said, file=sys.stderr)
    return 0


def _run_file(args: argparse.Namespace, session: InferenceSession, by: str) -> str:
    from ort_ops.files.inputs import InputError
    from ort_ops.prediction.predict import predict

    if args.format is not None:
        raise InputError("--format is for an output folder; the suffix of --output says what a file is")
    count = predict(
        session,
        args.input[0],
        args.output,
        batch_size=args.batch_size,
        stream=sys.stdout,
        raw=args.raw,
        positional=args.positional,
        keep=args.keep,
        tell=_tell,
        side_by_side=_side_by_side(args, session),
    )
    return "" if args.output is None else f"{args.output}: {counted(count, 'row')}{by}"


def _run_folder(args: argparse.Namespace, session: InferenceSession, by: str, external: list[str]) -> str:
    from ort_ops.batch.engines import predict_by
    from ort_ops.batch.folder import predict_folder
    from ort_ops.batch.predictor import Predictor
    from ort_ops.batch.sources import find_sources
    from ort_ops.files.inputs import InputError
    from ort_ops.prediction.predict import Job

    if args.output is None:
        raise InputError("many files need a folder for their results; name one by --output")
    sources, output = find_sources(args.input), Path(args.output)
    if args.engine != LOCAL:
        if args.positional or args.format not in (None, "parquet"):
            raise InputError(f"the engine {args.engine} takes columns by their names, and writes Parquet")
        options = {"keep": args.keep, "raw": args.raw, "batch_size": args.batch_size, "kernels": args.kernels}
        count = predict_by(args.engine, Predictor(args.model, **options), sources, output)
        return f"{args.output}: {counted(count, 'row')} by {args.engine}{by}"
    job = Job(
        session,
        batch_size=args.batch_size,
        raw=args.raw,
        positional=args.positional,
        keep=args.keep,
        tell=_tell,
        side_by_side=_side_by_side(args, session),
    )
    done = predict_folder(
        job,
        sources,
        output,
        suffix=None if args.format is None else f".{args.format}",
        part_rows=args.part_rows,
        made_from={
            "model": _hash(args.model, external),
            "kernels": session.kernels,
            "raw": args.raw,
            "positional": args.positional,
            "keep": args.keep,
        },
        tell=_tell,
    )
    found = f" ({done.num_found} parts were there)" if done.num_found else ""
    return f"{args.output}: {counted(done.num_rows, 'row')} in {counted(done.num_parts, 'part')}{found}{by}"


def _side_by_side(args: argparse.Namespace, session: InferenceSession) -> SideBySide | None:
    """Return how to run several blocks at a time; None where that costs memory, or a kernel may not be called twice."""
    from ort_ops.prediction.predict import SideBySide
    from ort_ops.session import InferenceSession

    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    is_safe = {*session.kernels.values()} <= {"cpp", "body"} and session.get_providers() == ["CPUExecutionProvider"]
    if count < 2 or not is_safe or Path(args.model).stat().st_size > _SMALL_MODEL:
        return None
    return SideBySide(lambda: InferenceSession(args.model, _session_options(1), kernels=args.kernels), count)


def _is_folder(output: str | None) -> bool:
    return output is not None and (Path(output).is_dir() or output.endswith(("/", os.sep)))


def _hash(model: str, external: list[str]) -> str:
    """Return the SHA-256 of a model and of the files beside it that hold its weights."""
    from hashlib import file_digest, sha256

    digest = sha256()
    for path in [Path(model), *(Path(model).parent / name for name in external)]:
        with path.open("rb") as file:
            digest.update(file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _tell(text: str) -> None:
    print(f"mylinear: {text}", file=sys.stderr)


def _session_options(num_threads: int = 0) -> onnxruntime.SessionOptions:
    from ort_ops.batch.sessions import quiet_options

    return quiet_options(num_threads)
