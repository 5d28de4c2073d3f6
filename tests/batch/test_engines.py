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


def started(arguments: list[str], mark: str, log: Path) -> subprocess.Popen[bytes]:
    settings = {
        "MYLINEAR_TEST_MARK": mark,
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "RAY_DATA_PARQUET_BIN_PACKING_BYTES": str(2**22),  # several tasks, as a job of a size worth an engine has
    }
    with log.open("wb") as file:
        return subprocess.Popen(arguments, env=os.environ | settings, stdout=file, stderr=subprocess.STDOUT)


def workers(mark: str, engine: str) -> list[int]:
    """Return the processes of this test in which an engine runs Python."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() not in (folder / "environ").read_bytes():
                continue
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if WORKERS[engine].search(line):
            found.append(int(folder.name))
    return sorted(found)


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
    child = started(command(engine, way, given, tmp_path / "out"), uuid.uuid4().hex, log)
    assert child.wait(240) == 0, log.read_text()[-3000:]
    check(tmp_path / "out")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("engine", ENGINES)
def test_every_row_comes_once_while_workers_are_killed(engine: str, way: str, given: Path, tmp_path: Path) -> None:
    mark, log = uuid.uuid4().hex, tmp_path / "log"
    child = started(command(engine, way, given, tmp_path / "out"), mark, log)
    kills = 0
    until = time.monotonic() + 240
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
    child = started([sys.executable, "-m", "ort_ops.cli", "run", str(given / "m.onnx"), *paths], "", log)
    assert child.wait(240) == 2
    text = log.read_text()
    reason = "the batch row 2, column 'p' has no value; fill it in or leave the row out"
    assert text.endswith(f"mylinear: the engine {engine} stopped: {reason}\n")
    assert "Traceback" not in text
