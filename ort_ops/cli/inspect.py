"""`mylinear inspect`: say what is in a model, and what would run it here; a gate for pipelines. Needs no torch."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ort_ops.cli.option_types import kernel, provider

if TYPE_CHECKING:
    from ort_ops.inspection.model import Inspection


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `mylinear inspect`."""
    parser.add_argument("model", help="the .onnx file")
    parser.add_argument("--json", action="store_true", help="print JSON")
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
    from ort_ops.inspection.model import GateError, inspect_model, require_kernel
    from ort_ops.inspection.trial_run import TrialRunError, trial_run

    found = inspect_model(args.model, providers=args.provider)
    verdict = ""
    if args.require_kernel is not None:
        try:
            require_kernel(found, args.require_kernel)
        except GateError as error:
            verdict = str(error)
    outputs = []
    if args.inputs is not None and not args.is_run:
        raise TrialRunError("--inputs needs --run")
    if args.is_run and not found.faults:
        outputs = trial_run(args.model, args.inputs, args.provider)
    if args.json:
        ran = {"run": [output.as_dict() for output in outputs]} if args.is_run else {}
        print(json_text({**found.as_dict(), "gate": verdict or "passed", **ran}))
        return 1 if verdict or found.faults else 0

    _show(found)
    for output in outputs:
        span = "no finite number" if output.least is None else f"{output.least:.6g} to {output.largest:.6g}"
        rest = f", {output.num_not_finite} not finite" if output.num_not_finite else ""
        print(f"run        {output.name}: {output.dtype} {output.shape}, {span}{rest}")
    for fault in found.faults:
        print(f"fault      {fault}")
    if verdict:
        print(f"gate       {verdict}")
    return 1 if verdict or found.faults else 0


def _show(found: Inspection) -> None:
    """Print all but the faults."""
    from ort_ops.console.table import print_table
    from ort_ops.inspection import training
    from ort_ops.inspection.nodes import table

    fed = {} if found.training is None else found.training.feeds
    rows = [["input", name, what] for name, what in found.inputs.items()]
    rows += [["output", name, what] for name, what in found.outputs.items() if name not in fed]
    print_table(["", "name", "type"], rows)
    print()
    if found.training is not None:
        header, state = training.table(found.training)
        if state:
            print_table(header, state)
            print()
        for line in training.lines(found.training):
            print(line)
    opsets = ", ".join(f"{domain} {version}" for domain, version in found.opsets.items())
    oldest = f"onnxruntime {found.oldest_runtime}" if found.oldest_runtime else "no known onnxruntime"
    print(f"opsets     {opsets}; IR version {found.ir_version}; loads from {oldest} on")
    print(f"weights    {found.weights_nbytes / 2**20:.2f} MiB;  nodes  {sum(found.operators.values())}")
    print(f"body       {found.body}")
    if found.training is not None:
        print(f"operators  {training.operators(found.training, found.nodes)}")
    running = found.running
    if running.error:
        print(f"here       does not run: {running.error}")
    else:
        each = [f"{op_type} by the {name} kernel" for op_type, name in running.kernels.items()]
        kernels = ", ".join(each) if len(set(running.kernels.values())) > 1 else f"by the {running.kernel} kernel"
        if not each:
            kernels = "by onnxruntime's own kernels (no node of a registered operator)"
        print(f"here       {kernels}, on {', '.join(running.providers)}")
        for provider, nodes in running.assignment.items():
            print(f"           {provider}: {', '.join(f'{count} {name}' for name, count in nodes.items())}")
        print(f"inserted   {running.copies} copies between devices, {running.casts} casts")
    print()
    for header, body in table(found.nodes, running.kernels):
        print_table(header, body)
