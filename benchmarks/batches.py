"""Time predictions for many rows: `mylinear run` and its engines, beside a plain loop over onnxruntime.

    python benchmarks/batches.py --parts files                  # parquet, arrow and npy: run beside the plain loop
    python benchmarks/batches.py --parts engines --rows 10000000    # Parquet: ray and spark too; the extras, and Java
    python benchmarks/batches.py --parts memory --rows 1000000,10000000,100000000 --contenders run

The plain loop is what one writes without us: read some rows, run them in batches, write them; the same files, kernels,
batch size and threads. All contenders are processes of their own, timed as a whole, in turn and in a new random order
each round; their results are compared, bit for bit, before any is timed. Memory is the sum over the process and its
children, every 20 ms: anonymous pages and those of shared memory; pages of files that are mapped count apart.

The small model (8 columns, layers of 32 and 3) is little work for a row, so reading and writing decide; that of digits
(64 columns, layers of 128 and 10) has the size of the one in models/. Rows are generated and removed again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MODELS = {"small": (8, 32, 3), "digits": (64, 128, 10), "tiny": (4, 8, 1)}  # in_features, hidden, out_features
FORMATS = ("parquet", "arrow", "npy")
ENGINES = ("ray", "spark")
FILES = 8
GOALS = {"run": 0.9, "ray": 0.7}
READ_ROWS = 65536  # of the plain loop: read and written at once
BLOCK_ROWS = 131072  # generated at once: a row group, or a record batch


@dataclass(frozen=True)
class Measured:
    """Seconds, and the most memory in bytes: anonymous and shared pages, and pages of mapped files."""

    seconds: float
    anonymous: int
    mapped: int


def plain_loop(model: str, form: str, source: str, output: str, batch_size: int, threads: int) -> None:
    """Read, run and write: the peer. It knows nothing of us but the library of kernels."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if library := os.environ.get("MYLINEAR_BENCHMARK_LIBRARY"):
        options.register_custom_ops_library(library)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    Path(output).mkdir()

    def predicted(x: NDArray[Any]) -> NDArray[Any]:
        parts = [session.run(None, {name: x[i : i + batch_size]})[0] for i in range(0, len(x), batch_size)]
        return np.concatenate(parts)

    for path in sorted(Path(source).iterdir()):
        target = Path(output) / path.name
        if form == "npy":
            rows = np.load(path, mmap_mode="r")
            width = session.get_outputs()[0].shape[1]
            written = np.lib.format.open_memmap(target, "w+", np.float32, (len(rows), width))
            for start in range(0, len(rows), batch_size):
                batch = rows[start : start + batch_size]
                written[start : start + batch_size] = session.run(None, {name: batch})[0]
        else:
            plain_table(path, target, predicted)


def plain_table(path: Path, target: Path, predicted: Any) -> None:
    """Do the same for a file of Parquet or Arrow; the results are lists, beside the column ``id``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    is_parquet = path.suffix == ".parquet"
    if is_parquet:
        batches: Iterator[Any] = pq.ParquetFile(path).iter_batches(READ_ROWS)
    else:
        file = pa.ipc.open_file(pa.memory_map(str(path)))
        batches = (file.get_batch(i) for i in range(file.num_record_batches))
    writer: Any = None
    for batch in batches:
        x = np.column_stack([batch.column(i).to_numpy() for i in range(batch.num_columns - 1)])
        y = predicted(x)
        offsets = np.arange(0, y.size + 1, y.shape[1], dtype=np.int32)
        lists = pa.ListArray.from_arrays(offsets, y.ravel())
        result = pa.RecordBatch.from_arrays([batch.column(batch.num_columns - 1), lists], ["id", "y"])
        if writer is None:
            make = pq.ParquetWriter if is_parquet else pa.ipc.new_file
            writer = make(str(target), result.schema)
        writer.write_batch(result)
    writer.close()


def write_model(path: Path, sizes: Sequence[int]) -> None:
    """Write two layers of MYLINEAR with a Relu between them; its input's columns are f0, f1, and so on."""
    import torch

    from exporter import MyLinear, export

    torch.manual_seed(0)
    width, hidden, out = sizes
    network = torch.nn.Sequential(MyLinear(width, hidden), torch.nn.ReLU(), MyLinear(hidden, out))
    names = json.dumps([f"f{i}" for i in range(width)])
    export(network, torch.zeros(2, width), path, metadata={"mylinear.features": names})


def write_rows(folder: Path, form: str, count: int, width: int) -> None:
    """Write random rows into some files, a block at a time."""
    folder.mkdir(parents=True)
    for number in range(FILES):
        first, end = count * number // FILES, count * (number + 1) // FILES
        blocks = block_rows(first, end, width)
        path = folder / f"r{number}.{form}"
        if form == "npy":
            rows = np.lib.format.open_memmap(path, "w+", np.float32, (end - first, width))
            for start, x in blocks:
                rows[start - first : start - first + len(x)] = x
        else:
            write_table(path, form, blocks)


def block_rows(first: int, end: int, width: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield blocks of rows with the number of the first one."""
    for start in range(first, end, BLOCK_ROWS):
        rng = np.random.default_rng(start)
        yield start, rng.standard_normal((min(BLOCK_ROWS, end - start), width), np.float32)


def write_table(path: Path, form: str, blocks: Iterator[tuple[int, NDArray[np.float32]]]) -> None:
    """Write blocks as columns f0, f1, ..., and the number of each row as id."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer: Any = None
    for start, x in blocks:
        columns = {f"f{i}": np.ascontiguousarray(x[:, i]) for i in range(x.shape[1])}
        table = pa.table(columns | {"id": np.arange(start, start + len(x))})
        if writer is None:
            make = pq.ParquetWriter if form == "parquet" else pa.ipc.new_file
            writer = make(str(path), table.schema)
        writer.write_table(table)
    writer.close()


def read_results(folder: Path, form: str) -> NDArray[np.float32]:
    """Return all results in the order of the rows."""
    if form == "npy":
        return np.concatenate([np.load(path) for path in sorted(folder.glob("*.npy"))])
    import pyarrow as pa
    import pyarrow.parquet as pq

    if form == "parquet":
        tables = [pq.read_table(path) for path in sorted(folder.rglob("*.parquet"))]
    else:
        tables = [pa.ipc.open_file(str(path)).read_all() for path in sorted(folder.glob("*.arrow"))]
    ids = np.concatenate([table.column("id").to_numpy() for table in tables])
    y = np.concatenate([table.column("y").combine_chunks().flatten().to_numpy() for table in tables])
    if len(np.unique(ids)) != len(ids):
        sys.exit(f"{folder}: a row came twice")
    return y.reshape(len(ids), -1)[np.argsort(ids)]


def command(contender: str, folder: Path, form: str, output: Path, options: argparse.Namespace) -> list[str]:
    """Return the command line of a contender."""
    model, source = str(folder / "model.onnx"), str(folder / form)
    size, threads = str(options.batch_size), str(options.threads)
    if contender == "plain":
        return [sys.executable, __file__, "--plain", model, form, source, str(output), size, threads]
    given = ["--input", source, "--output", str(output) + os.sep, "--batch-size", size]
    kept = [] if form == "npy" else ["--keep", "id"]
    engine = ["--engine", contender] if contender in ENGINES else []
    return [sys.executable, "-m", "ort_ops.cli", "run", model, *given, *kept, *engine]


def measure(arguments: list[str], log: Path) -> Measured:
    """Run a process to its end. Exits with the last lines of its output if it fails."""
    start = time.perf_counter()
    with log.open("wb") as file:
        child = subprocess.Popen(arguments, stdout=file, stderr=subprocess.STDOUT)
        anonymous = mapped = 0
        while child.poll() is None:
            found = [memory(pid) for pid in tree(child.pid)]
            anonymous = max(anonymous, sum(each[0] for each in found))
            mapped = max(mapped, sum(each[1] for each in found))
            time.sleep(0.02)
        seconds = time.perf_counter() - start
    if child.returncode:
        sys.exit(f"{' '.join(arguments)}: exit status {child.returncode}\n{log.read_text()[-2000:]}")
    return Measured(seconds, anonymous, mapped)


def tree(pid: int) -> list[int]:
    """Return a process and all below it."""
    found = [pid]
    for parent in found:
        try:
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue
    return found


def memory(pid: int) -> tuple[int, int]:
    """Return the bytes of anonymous and shared pages, and of mapped files; 0 for a process that is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0, 0
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith("Rss")}
    return sizes.get("RssAnon", 0) + sizes.get("RssShmem", 0), sizes.get("RssFile", 0)


def compare(contenders: Sequence[str], folder: Path, form: str, count: int, options: argparse.Namespace) -> list[str]:
    """Measure all contenders, and return a line of the table for each."""
    runs: dict[str, list[Measured]] = {contender: [] for contender in contenders}
    wanted: NDArray[np.float32] | None = None
    for number in range(options.rounds):
        for contender in random.sample([*runs], len(runs)) if number else runs:
            output = folder / "out"
            runs[contender].append(measure(command(contender, folder, form, output, options), folder / "log"))
            if number == 0 and not options.unchecked:
                got = read_results(output, form)
                wanted = got if wanted is None else wanted
                if got.shape != wanted.shape or len(got) != count or got.tobytes() != wanted.tobytes():
                    sys.exit(f"{contender}, {form}: the results differ from those of {contenders[0]}")
            shutil.rmtree(output)
    lines = []
    base = statistics.median(run.seconds for run in runs[contenders[0]])
    for contender, found in runs.items():
        seconds = statistics.median(run.seconds for run in found)
        ratio, goal = base / seconds, GOALS.get(contender)
        verdict = "" if goal is None or contenders[0] != "plain" else f" (goal {goal})"
        lines.append(
            f"| {options.model} | {form} | {count:,} | {contender} | {seconds:.2f} | {count / seconds / 1e6:.2f} | "
            f"{ratio:.2f}{verdict} | {max(run.anonymous for run in found) / 2**20:.0f} | "
            f"{max(run.mapped for run in found) / 2**20:.0f} |"
        )
    return lines


def main() -> None:
    """Generate rows, measure and print the table."""
    if sys.argv[1:2] == ["--plain"]:
        *texts, batch_size, threads = sys.argv[2:]
        plain_loop(texts[0], texts[1], texts[2], texts[3], int(batch_size), int(threads))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", choices=("files", "engines", "memory"), default="files")
    parser.add_argument("--model", choices=[*MODELS], default="small")
    parser.add_argument("--formats", help=f"of {','.join(FORMATS)} (default: all; of engines: parquet)")
    parser.add_argument("--contenders", help="the first is the base of the ratios (default: plain,run and the engines)")
    parser.add_argument("--rows", default="4000000", help="one number or several (default: 4000000)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the plain loop (default: all cores)")
    parser.add_argument("--unchecked", action="store_true", help="do not read the results, for rows beyond the memory")
    parser.add_argument("--folder", help="where the rows are written (default: a temporary folder)")
    options = parser.parse_args()
    forms = (options.formats or ("parquet" if options.parts == "engines" else ",".join(FORMATS))).split(",")
    engines = ENGINES if options.parts == "engines" else ()
    contenders = options.contenders.split(",") if options.contenders else ["plain", "run", *engines]

    from ort_ops import library_path

    library = library_path()
    if library is not None:
        os.environ["MYLINEAR_BENCHMARK_LIBRARY"] = str(library)
    print("| model | format | rows | | seconds | 1e6 rows/s | of the first | MiB | MiB of mapped files |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        for count in [int(float(text)) for text in options.rows.split(",")]:
            for form in forms:
                folder = Path(name) / f"{form}{count}"
                write_rows(folder / form, form, count, MODELS[options.model][0])
                write_model(folder / "model.onnx", MODELS[options.model])
                print("\n".join(compare(contenders, folder, form, count, options)), flush=True)
                shutil.rmtree(folder)


if __name__ == "__main__":
    main()
