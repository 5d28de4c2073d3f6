"""Measure whether cost grows linearly with a model: time and memory of commands and sessions, as a Markdown table.

    python benchmarks/scale.py                                    # all of it: about half an hour on two cores
    python benchmarks/scale.py --parts inspect,lower --layers 250,500,1000
    python benchmarks/scale.py --parts verify --layers "" --megabytes 50,210,840

Each measurement runs in a process of its own, so that its peak memory is its own. Commands are timed as a user calls
them, with the import of Python's modules; for sessions only the opening is timed, and the smallest of several runs
counts, taken in turns. ``session`` is ``ort_ops.InferenceSession``, ``register`` is ``ort_ops.register`` with a session
of onnxruntime's own. Chains have layers of 8 x 8, the models that are given in megabytes layers of 1024 x 1024 in
float32, and the model with external data layers of 4096 x 4096 in a sparse file.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ort_ops.console.table import format_table
from ort_ops.models.nodes import attach_functions
from ort_ops.operators.mylinear.contract import DOMAIN, NAME

PARTS = ("inspect", "lower", "adopt", "verify", "session", "register")
SESSIONS = ("session", "register")
TINY, WIDE, HUGE = 8, 1024, 4096
ROUNDS = 3  # of sessions, which open in a moment
OPEN = {
    "session": "session = ort_ops.InferenceSession(path)",
    "register": "options = onnxruntime.SessionOptions(); ort_ops.register(options); "
    "session = onnxruntime.InferenceSession(path, options)",
}
CHILD = """
import sys, time, onnxruntime, ort_ops, ort_ops.models.nodes, ort_ops.models.checks
ort_ops.available_kernels()
path, began = sys.argv[1], time.perf_counter()
{}
print("opened in", time.perf_counter() - began)
"""


@dataclass(frozen=True)
class Measured:
    """One measurement.

    Attributes:
        seconds: the smallest of all runs.
        cpu: processor seconds of all threads of the process, its imports included; other work on the machine does not
            change them.
        peak: bytes, the largest of all runs.
        status: of the process; 0 for success.
    """

    seconds: float
    cpu: float
    peak: int
    status: int


def chain(path: Path, layers: int, width: int, *, is_linear: bool) -> Path:
    """Write a chain of MYLINEAR nodes, or of MatMul and Add, through which numbers keep their size."""
    rng = np.random.default_rng(0)
    nodes, tensors, x = [], [], "x"
    for i in range(layers):
        weight = (rng.standard_normal((width, width)) / width**0.5).astype(np.float32)
        tensors += [numpy_helper.from_array(weight, f"w{i}")]
        tensors += [numpy_helper.from_array(rng.standard_normal(width).astype(np.float32), f"b{i}")]
        y = "y" if i == layers - 1 else f"h{i}"
        if is_linear:
            nodes.append(helper.make_node(NAME, [x, f"w{i}", f"b{i}"], [y], f"linear{i}", domain=DOMAIN))
        else:
            nodes.append(helper.make_node("MatMul", [x, f"w{i}"], [f"p{i}"], f"product{i}"))
            nodes.append(helper.make_node("Add", [f"p{i}", f"b{i}"], [y], f"bias{i}"))
        x = y
    onnx.save(_model(nodes, tensors, width, is_linear=is_linear), path)
    return path


def external(path: Path, nbytes: int) -> Path:
    """Write a model whose weights lie in a file beside it, which is sparse and takes no space on the disk."""
    layers = max(1, nbytes // (4 * HUGE * HUGE))
    nodes, tensors, x = [], [], "x"
    data = path.with_suffix(".data")
    with data.open("wb") as file:
        file.truncate(layers * 4 * HUGE * HUGE)
    for i in range(layers):
        tensor = TensorProto(name=f"w{i}", data_type=TensorProto.FLOAT, dims=[HUGE, HUGE])
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", data.name), ("offset", i * 4 * HUGE * HUGE), ("length", 4 * HUGE * HUGE)):
            tensor.external_data.add(key=key, value=str(value))
        tensors += [tensor, numpy_helper.from_array(np.zeros(HUGE, np.float32), f"b{i}")]
        y = "y" if i == layers - 1 else f"h{i}"
        nodes.append(helper.make_node(NAME, [x, f"w{i}", f"b{i}"], [y], f"linear{i}", domain=DOMAIN))
        x = y
    path.write_bytes(_model(nodes, tensors, HUGE, is_linear=True).SerializeToString())
    return path


def _model(nodes: list[onnx.NodeProto], tensors: list[TensorProto], width: int, *, is_linear: bool) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "chain", values[:1], values[1:], tensors)
    imports = [helper.make_opsetid("", 20), *([helper.make_opsetid(DOMAIN, 1)] if is_linear else [])]
    model = helper.make_model(graph, opset_imports=imports, ir_version=9)
    if is_linear:
        attach_functions(model)
    return model


def command(part: str, model: Path, plain: Path | None, folder: Path) -> list[str]:
    """Return the command that measures a part: one of ours, or a process that opens a session."""
    if part in SESSIONS:
        return [sys.executable, "-c", CHILD.format(OPEN[part]), str(model)]
    mylinear = [sys.executable, "-m", "ort_ops.cli", part]
    if part == "adopt":
        return [*mylinear, str(plain), str(folder / "adopted.onnx")]
    if part == "lower":
        return [*mylinear, str(model), str(folder / "lowered.onnx")]
    return [*mylinear, str(model)]


def measure(arguments: Sequence[str], timeout: float) -> Measured:
    """Run a process and return its time (what it printed, or all of it) and its peak memory.

    The status is -9 if it took too long.
    """
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(arguments, stdout=output, stderr=errors)
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if time.perf_counter() - began > timeout:
                process.kill()
            time.sleep(0.01)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        for line in output:
            if line.startswith("opened in "):
                seconds = float(line.split()[2])
        if process.returncode not in (0, -9):
            errors.seek(0)
            print(f"{' '.join(arguments[-4:])}: {errors.read()[-300:]}", file=sys.stderr)
    return Measured(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, process.returncode)


def measured(
    parts: Sequence[str], model: Path, plain: Path | None, folder: Path, timeout: float
) -> Iterator[tuple[str, Measured]]:
    """Measure the commands once, and the sessions several times in turns."""
    for part in parts:
        if part not in SESSIONS:
            yield part, measure(command(part, model, plain, folder), timeout)
    found: dict[str, list[Measured]] = {part: [] for part in parts if part in SESSIONS}
    for _ in range(ROUNDS):
        for part, runs in found.items():
            runs.append(measure(command(part, model, plain, folder), timeout))
    for part, runs in found.items():
        worst = max(run.status for run in runs) or min(run.status for run in runs)
        seconds, cpu = min(run.seconds for run in runs), min(run.cpu for run in runs)
        yield part, Measured(seconds, cpu, max(run.peak for run in runs), worst)


def row(part: str, what: str, found: Measured, layers: int, nbytes: int) -> list[str]:
    """Return a line of the table."""
    if found.status:
        why = "took too long" if found.status == -9 else f"exit status {found.status}"
        return [
            part,
            what,
            f"{found.seconds:.2f} s ({why})",
            f"{found.cpu:.1f} s",
            "-",
            f"{found.peak / 2**20:.0f} MiB",
            "-",
        ]
    each = f"{found.seconds / layers * 1e3:.2f} ms"
    return [
        part, what, f"{found.seconds:.2f} s", f"{found.cpu:.1f} s", each, f"{found.peak / 2**20:.0f} MiB",
        f"{max(0, found.peak - 2**30) / nbytes:.1f}" if nbytes >= 2**24 else "-",
    ]  # fmt: skip


def main() -> None:
    """Measure and print the table; print each line on standard error too, as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--layers", default="250,500,1000,2000,10000", help="lengths of the chains of tiny layers")
    parser.add_argument("--megabytes", default="50,210,840", help="of weights of wide layers, for verify")
    parser.add_argument("--external", type=float, default=3.0, help="GB of external data, for sessions; 0 for none")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds of one process (default: 900)")
    parser.add_argument("--folder", help="where models are written (default: a temporary folder)")
    options = parser.parse_args()
    parts = [part for part in options.parts.split(",") if part]
    unknown = sorted(set(parts) - set(PARTS))
    if unknown:
        parser.error(f"--parts must be of {', '.join(PARTS)}, got {', '.join(unknown)}")
    header = ["what", "model", "time", "processor time", "time a layer", "peak", "(peak - 1 GiB) / weights"]
    rows: list[list[str]] = []

    def add(part: str, what: str, found: Measured, layers: int, nbytes: int) -> None:
        rows.append(row(part, what, found, layers, nbytes))
        print("  ".join(rows[-1]), file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        for layers in [int(text) for text in options.layers.split(",") if text]:
            model = chain(folder / "model.onnx", layers, TINY, is_linear=True)
            plain = chain(folder / "plain.onnx", layers, TINY, is_linear=False) if "adopt" in parts else None
            for part, found in measured(parts, model, plain, folder, options.timeout):
                add(part, f"{layers} tiny layers", found, layers, model.stat().st_size)
        for megabytes in [int(text) for text in options.megabytes.split(",") if text and "verify" in parts]:
            layers = max(1, round(megabytes * 1e6 / (4 * WIDE * WIDE)))
            model = chain(folder / "wide.onnx", layers, WIDE, is_linear=True)
            found = measure(command("verify", model, None, folder), options.timeout)
            add("verify", f"{layers} layers of {WIDE} x {WIDE}, {megabytes} MB", found, layers, model.stat().st_size)
            model.unlink()
        sessions = [part for part in parts if part in SESSIONS]
        if options.external and sessions:
            model = external(folder / "external.onnx", int(options.external * 1e9))
            nbytes = model.with_suffix(".data").stat().st_size
            for part, found in measured(sessions, model, None, folder, options.timeout):
                add(part, f"{options.external:g} GB of external data", found, nbytes // (4 * HUGE * HUGE), nbytes)
    print(format_table(header, rows))


if __name__ == "__main__":
    main()
