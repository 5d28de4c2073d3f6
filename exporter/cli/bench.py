"""`mylinear bench`: time our operators beside their peers and the machine's ceilings; peers need not be installed."""

from __future__ import annotations

import argparse

EXAMPLES = (
    "mylinear bench --quick",
    "mylinear bench --shapes 768x3072 --dtypes float32 --threads 1,2",
    "mylinear bench --model model.onnx --inputs real.npz",
)
"""Of command lines, for the help."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `mylinear bench`."""
    parser.add_argument(
        "--model", metavar="FILE.onnx", help="time this whole model, by each kernel and lowered, instead"
    )
    parser.add_argument(
        "--inputs", metavar="FILE.npz", help="with --model: on these real inputs, an array for each by name"
    )
    parser.add_argument("--output", default="mylinear-bench", help="folder to write into (default: ./mylinear-bench)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where all of them run (default: cpu)")
    parser.add_argument("--quick", action="store_true", help="a part of the grid, briefly: under four minutes")
    parser.add_argument("--quiet", action="store_true", help="time a case until two medians agree within 3 %%")
    parser.add_argument("--fresh", action="store_true", help="measure anew what the folder has already")
    parser.add_argument("--M", dest="rows", metavar="M,...", help="rows of x, such as 1,8")
    parser.add_argument("--shapes", metavar="KxN,...", help="numbers in x numbers out, such as 768x3072,64x64")
    parser.add_argument("--dtypes", metavar="D,...", help="such as float32,bfloat16")
    parser.add_argument("--threads", metavar="T,...", help="of the CPU, such as 1,2 (default: 1 and all cores)")
    parser.add_argument(
        "--activations", metavar="A,...", help="after the sum: of none, relu, gelu, gelu_tanh, silu, sigmoid, tanh"
    )
    parser.add_argument("--weights", metavar="W,...", help="their dtype under float32: of same, bfloat16, float16")
    parser.add_argument("--cold", action="store_true", help="take every weight of 1 MiB and more from memory")
    parser.add_argument("--peers", metavar="P,...", help="of gemm, matmul, torch, compile, openvino, zentorch; or none")
    parser.add_argument("--parts", metavar="P,...", help="of ceilings, grid, load, memory, chain, bits (default: all)")
    parser.add_argument("--goals", action="store_true", help="compare the result with the goals of this project too")
    parser.add_argument(
        "--again-below", type=float, metavar="R", help="measure cells anew whose best peer / ours is less"
    )
    parser.add_argument("--budget", type=float, metavar="S", help="seconds of timing for a cell (default: 2.5)")


def run(args: argparse.Namespace) -> int:
    """Measure, write the files, print the results."""
    import sys

    from exporter.bench.measure.cells import BenchError
    from exporter.bench.measure.options import make_plan
    from exporter.bench.measure.runner import run_bench
    from ort_ops.console.progress import progress
    from ort_ops.installation.extras import install_extra

    if args.inputs is not None and args.model is None:
        raise BenchError("--inputs needs --model")
    if args.model is not None:
        return _run_model(args)
    from exporter.bench.show.report import show, write_files

    if args.goals and args.device != "cpu":
        raise BenchError(f"--goals must be left out with --device {args.device}: they are goals for the CPU's kernels")
    plan = make_plan(
        device=args.device,
        rows=args.rows,
        shapes=args.shapes,
        dtypes=args.dtypes,
        threads=args.threads,
        activations=args.activations,
        weights=args.weights,
        peers=args.peers,
        parts=args.parts,
        budget_s=args.budget,
        is_quick=args.quick,
        is_cold=args.cold,
        is_quiet=args.quiet,
    )
    try:
        with progress("bench", plan.num_steps) as line:
            bench = run_bench(
                plan,
                args.output,
                is_fresh=args.fresh,
                again_below=args.again_below,
                on_progress=line.update,
            )
    except KeyboardInterrupt:
        print(f"mylinear: what was measured is in {args.output}; the same command goes on from there", file=sys.stderr)
        raise
    written = write_files(bench, args.output, with_goals=args.goals)
    show(bench, sys.stdout, with_goals=args.goals)
    print(f"wrote     {', '.join(str(path) for path in written)}")
    if bench.cells and not any(path.suffix == ".png" for path in written):
        print(f"pictures need matplotlib: {install_extra('matplotlib')}; the page has tables in their place")
    return 0


def _run_model(args: argparse.Namespace) -> int:
    """Time one whole model and print a table; status 1 if a result is wrong."""
    from exporter.bench.measure.cells import BenchError
    from exporter.bench.measure.outcome import Outcome
    from exporter.bench.parts.whole_model import bench_model, table
    from ort_ops.console.table import print_table

    if args.threads is not None and not (args.threads.isdigit() and int(args.threads)):
        raise BenchError(f"--threads must be one number with --model, got {args.threads}")
    threads = None if args.threads is None else int(args.threads)
    found = bench_model(args.model, args.inputs, budget_s=args.budget or 5.0, threads=threads)
    print_table(*table(found))
    return 1 if any(backend.outcome is Outcome.WRONG for backend in found.values()) else 0
