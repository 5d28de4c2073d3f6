"""The scripts for Ray and Spark, and `mylinear run --engine`, also while workers are killed.

Needs the extras ray and spark, and Java: pytest -m slow tests/batch/test_engines.py.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import onnx
import pytest

from ort_ops.bundle.hosts import find_host
from ort_ops.bundle.write import write_bundle
from ort_ops.prediction.metadata import FEATURES_KEY
from tests.linear_model import make_linear_model

pytestmark = pytest.mark.slow
ENGINES = {"ray": "ray", "spark": "pyspark"}
WORKERS = {
    # What reads, predicts and writes. Of its own Ray repeats less: with an agent its node ends, and with the actor
    # FooterReader the job.
    "ray": re.compile(r"ray::(Read|Map|Write)"),
    "spark": re.compile(r"pyspark\.daemon"),
}
WAYS = ["bundle", "file", "option"]
FILES, ROWS = 8, 250_000


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a model and files with rows that are told apart by ``id``."""
    pa, pq = pytest.importorskip("pyarrow", reason="needs the extra arrow"), pytest.importorskip("pyarrow.parquet")
    folder = tmp_path_factory.mktemp("engines")
    model = make_linear_model(["batch", 2], np.array([[2.0, 3.0]]), np.array([4.0]))
    onnx.helper.set_model_props(model, {FEATURES_KEY: json.dumps(["p", "q"])})
    onnx.save(model, folder / "m.onnx")
    write_bundle(folder / "m.onnx", folder / "bundle", for_hosts=[*ENGINES])
    (folder / "in").mkdir()
    for number in range(FILES):
        ids = np.arange(number * ROWS, (number + 1) * ROWS)
        table = pa.table({"q": ids / 8, "id": ids, "p": ids / 4.0, "other": ids})
        pq.write_table(table, folder / "in" / f"r{number}.parquet", row_group_size=50_000)
    return folder


def command(engine: str, way: str, given: Path, output: Path) -> list[str]:
    pytest.importorskip(ENGINES[engine], reason=f"needs the extra {engine}")
    if way == "bundle":
        host = given / "bundle" / "hosts" / engine / "predict.py"
        return [sys.executable, str(host), str(given / "bundle"), str(given / "in"), str(output), "id"]
    if way == "file":
        host = find_host(engine).folder / "predict.py"
        return [sys.executable, str(host), str(given / "m.onnx"), str(given / "in"), str(output), "id"]
    paths = ["--input", str(given / "in"), "--output", str(output), "--keep", "id", "--engine", engine]
    return [sys.executable, "-m", "ort_ops.cli", "run", str(given / "m.onnx"), *paths]


@contextmanager
def started(arguments: list[str], mark: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a job, and end what is left of it, also what an engine detached from it."""
    settings = {
        "MYLINEAR_TEST_MARK": mark,
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "RAY_DATA_PARQUET_BIN_PACKING_BYTES": str(2**22),  # several tasks, as a job of a size worth an engine has
    }
    with log.open("wb") as file:
        child = subprocess.Popen(arguments, env=os.environ | settings, stdout=file, stderr=subprocess.STDOUT)
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        until = time.monotonic() + 30
        while left := processes(mark):  # more than once: one that is killed may just have started another
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            assert time.monotonic() < until, left
            time.sleep(0.1)


def processes(mark: str) -> dict[int, str]:
    """Return the processes of a job with their command lines."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes():
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                found[int(folder.name)] = line.decode(errors="replace")
    return found


def workers(mark: str, engine: str) -> list[int]:
    """Return the processes of a job in which an engine runs Python."""
    return sorted(pid for pid, line in processes(mark).items() if WORKERS[engine].search(line))


def check(output: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    table = pq.read_table(output)
    ids = table.column("id").to_numpy()
    assert table.column_names == ["id", "y"]
    np.testing.assert_array_equal(np.sort(ids), np.arange(FILES * ROWS))
    got = table.column("y").combine_chunks().flatten().to_numpy()
    np.testing.assert_array_equal(got, 2.0 * (ids / 4.0) + 3.0 * (ids / 8) + 4)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("engine", ENGINES)
def test_every_row_comes_once(engine: str, way: str, given: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with started(command(engine, way, given, tmp_path / "out"), uuid.uuid4().hex, log) as child:
        assert child.wait(240) == 0, log.read_text()[-3000:]
    check(tmp_path / "out")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("engine", ENGINES)
def test_every_row_comes_once_while_workers_are_killed(engine: str, way: str, given: Path, tmp_path: Path) -> None:
    mark, log = uuid.uuid4().hex, tmp_path / "log"
    kills = 0
    until = time.monotonic() + 240
    with started(command(engine, way, given, tmp_path / "out"), mark, log) as child:
        while child.poll() is None and time.monotonic() < until:
            found = workers(mark, engine)
            if found and kills < 3:
                os.kill(found[-1], signal.SIGKILL)  # of Spark, the youngest is a worker rather than the daemon
                kills += 1
                time.sleep(1.5)
            time.sleep(0.02)
        assert child.wait(10) == 0, log.read_text()[-3000:]
    assert kills >= 2
    check(tmp_path / "out")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_bad_row_is_one_line_after_the_engine_s_own(engine: str, given: Path, tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow", reason="needs the extra arrow"), pytest.importorskip("pyarrow.parquet")
    pytest.importorskip(ENGINES[engine], reason=f"needs the extra {engine}")
    pq.write_table(pa.table({"p": [1.0, None], "q": [1.0, 2.0], "id": [1, 2]}), tmp_path / "bad.parquet")
    paths = ["--input", str(tmp_path / "bad.parquet"), "--output", str(tmp_path / "out"), "--engine", engine]
    log = tmp_path / "log"
    arguments = [sys.executable, "-m", "ort_ops.cli", "run", str(given / "m.onnx"), *paths]
    with started(arguments, uuid.uuid4().hex, log) as child:
        assert child.wait(240) == 2
    text = log.read_text()
    reason = "the batch row 2, column 'p' has no value; fill it in or leave the row out"
    assert text.endswith(f"mylinear: the engine {engine} stopped: {reason}\n")
    assert "Traceback" not in text
