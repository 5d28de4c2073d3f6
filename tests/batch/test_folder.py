"""`mylinear run` for many files: every row once, also when the run is killed again and again."""

from __future__ import annotations

import multiprocessing
import multiprocessing.process
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from ort_ops.batch import engines
from ort_ops.batch.folder import RECORD, SUCCESS, predict_folder
from ort_ops.batch.sources import find_sources
from ort_ops.cli import main as cli
from ort_ops.files.folder_lock import FolderInUseError, lock_folder
from ort_ops.files.inputs import InputError
from ort_ops.prediction.predict import Job
from ort_ops.session import InferenceSession
from tests.linear_model import make_linear_model

MODEL = make_linear_model(["batch", 2], np.array([[2.0, 3.0]]), np.array([4.0]))


def rows(count: int, first: int = 0) -> np.ndarray:
    return np.arange(2.0 * first, 2.0 * (first + count)).reshape(-1, 2)


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """Write a model, and a folder with 25 rows in two files."""
    onnx.save(MODEL, tmp_path / "m.onnx")
    (tmp_path / "in" / "sub").mkdir(parents=True)
    np.save(tmp_path / "in" / "a.npy", rows(20))
    np.savetxt(tmp_path / "in" / "sub" / "b.csv", rows(5, 20), delimiter=",")
    (tmp_path / "in" / "_SUCCESS.csv").touch()
    return tmp_path


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(folder: Path, *options: Any, output: str = "out") -> int:
    arguments = ["run", folder / "m.onnx", "--input", folder / "in", "--output", folder / output, "--batch-size", 4]
    return cli.main([str(argument) for argument in [*arguments, *options]])


def test_the_parts_of_a_folder_have_every_row_in_order(given: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(given, "--part-rows", "7") == 0  # becomes 8, two batches
    assert sorted(content(given / "out")) == [
        SUCCESS,
        RECORD,
        *(f"a-0000{i}.npy" for i in range(3)),
        "sub/b-00000.csv",
    ]
    parts = [np.load(given / "out" / f"a-0000{i}.npy") for i in range(3)]
    assert [len(part) for part in parts] == [8, 8, 4]
    np.testing.assert_array_equal(np.concatenate(parts), rows(20) @ [[2.0], [3.0]] + 4)
    assert "25 rows in 4 parts" in capsys.readouterr().err
    before = content(given / "out")
    assert run(given, "--part-rows", "7") == 0
    assert "0 rows in 0 parts (4 parts were there)" in capsys.readouterr().err
    assert content(given / "out") == before


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "csv", "npy"])
def test_a_run_goes_on_after_any_part(given: Path, suffix: str) -> None:
    if suffix in ("parquet", "arrow"):
        pa = pytest.importorskip("pyarrow", reason="needs the extra arrow")
        (given / "in" / "c").mkdir()
        pa.parquet = pytest.importorskip("pyarrow.parquet")
        table = pa.table({"p": rows(18)[:, 0], "q": rows(18)[:, 1]})
        pa.parquet.write_table(table, given / "in" / "c" / "rows.parquet", row_group_size=5)
        with pa.ipc.new_file(given / "in" / "c" / "others.arrow", table.schema) as writer:
            writer.write_table(table, max_chunksize=7)
    options = ("--part-rows", "4", "--format", suffix)
    assert run(given, *options, output="whole") == 0
    wanted = content(given / "whole")
    for name in [*wanted][::3]:
        for kept in wanted:
            (given / "out" / kept).parent.mkdir(parents=True, exist_ok=True)
            (given / "out" / kept).write_bytes(wanted[kept])
        (given / "out" / name).unlink()
        (given / "out" / SUCCESS).unlink(missing_ok=True)
        (given / "out" / ".a-00000.csv.0123abcd.tmp").write_text("half")
        if name == RECORD:
            assert run(given, *options) == 2
            (given / "out" / RECORD).write_bytes(wanted[RECORD])
        assert run(given, *options) == 0
        assert content(given / "out") == wanted


def test_another_run_does_not_write_into_the_folder(given: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(given) == 0
    for options, what in (
        (("--part-rows", "8"), "part_rows"),
        (("--format", "csv"), "suffix"),
        (("--raw",), "raw"),
    ):
        assert run(given, *options) == 2
        assert f"has results of another run (different: {what})" in capsys.readouterr().err
    np.save(given / "in" / "z.npy", rows(3))
    assert run(given) == 2
    assert "(different: sources)" in capsys.readouterr().err
    (given / "in" / "z.npy").unlink()
    onnx.save(make_linear_model(["batch", 2], np.array([[2.0, 4.0]]), np.array([4.0])), given / "m.onnx")
    assert run(given) == 2
    assert "(different: model)" in capsys.readouterr().err
    (given / "mine").mkdir()
    (given / "mine" / "letter.txt").touch()
    assert run(given, output="mine") == 2
    assert "has files, and no run of this kind; name an empty or a new folder" in capsys.readouterr().err


def test_two_processes_do_not_write_into_one_folder(given: Path) -> None:
    job = Job(InferenceSession(MODEL.SerializeToString(), kernels="body"))
    (given / "out").mkdir()
    sources = find_sources([str(given / "in")])
    with lock_folder(given / "out", "run"), ThreadPoolExecutor(1) as other:
        second = other.submit(predict_folder, job, sources, given / "out", made_from={})
        with pytest.raises(FolderInUseError, match=r"out' is in use by another run: process \d+ on .*; wait"):
            second.result()


def test_files_are_found_and_bad_ones_are_named(given: Path) -> None:
    names = [str(source.name) for source in find_sources([str(given / "in")])]
    assert names == ["a", "sub/b"]
    assert [s.path.name for s in find_sources([str(given / "in" / "*.npy"), str(given / "in/sub/b.csv")])] == [
        "a.npy",
        "b.csv",
    ]
    for inputs, message in (
        ([str(given / "nothing*.csv")], "there is no file with rows"),
        ([str(given / "m.onnx")], "must be a .csv, .npy, .parquet"),
        ([str(given / "none.csv")], "is not there"),
        ([str(given / "in"), str(given / "in" / "a.npy")], "would have results of the same name; run them apart"),
    ):
        with pytest.raises(InputError, match=message):
            find_sources(inputs)


def test_columns_can_be_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pa = pytest.importorskip("pyarrow", reason="needs the extra arrow")
    pq = pytest.importorskip("pyarrow.parquet")
    onnx.save(MODEL, tmp_path / "m.onnx")
    ids = pa.array(["a", "b", "a"]).dictionary_encode()
    pq.write_table(pa.table({"p": [3.0, 1.0, 0.0], "id": ids, "q": [2.0, 0.0, 0.0]}), tmp_path / "r.parquet")
    command = ["run", str(tmp_path / "m.onnx"), "--input", str(tmp_path / "r.parquet"), "--keep", "id"]
    for name in ("o.parquet", "o.arrow", "o.feather"):
        assert cli.main([*command, "--output", str(tmp_path / name)]) == 0
    got = pq.read_table(tmp_path / "o.parquet")
    assert got.column("id").to_pylist() == ["a", "b", "a"]
    assert got.column("y").to_pylist() == [[16.0], [6.0], [4.0]]
    assert pa.ipc.open_file(tmp_path / "o.arrow").read_all().column("id").to_pylist() == ["a", "b", "a"]
    assert cli.main([*command, "--output", str(tmp_path / "o.csv")]) == 2
    assert "columns can be kept from a Parquet or Arrow file into another only" in capsys.readouterr().err
    (tmp_path / "bad.parquet").write_bytes((tmp_path / "r.parquet").read_bytes()[:-30])
    assert cli.main([*command[:3], str(tmp_path / "bad.parquet"), "--output", str(tmp_path / "o.csv")]) == 2
    assert "bad.parquet' cannot be read as a table" in capsys.readouterr().err


def test_a_missing_pyarrow_is_one_line_with_the_command(
    given: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (given / "in" / "r.parquet").touch()
    for arguments in (
        ["--input", str(given / "in" / "r.parquet")],
        ["--input", "3,2", "--output", str(given / "o.parquet")],
    ):
        assert cli.main(["run", str(given / "m.onnx"), *arguments]) == 2
        assert "pip install '.[arrow]' in ort-mylinear's source" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--input", "a.npy", "--input", "b.npy"], "many files need a folder for their results"),
        (["--input", "3,2", "--format", "csv"], "--format is for an output folder"),
        (["--input", "a.npy", "--engine", "dusk", "--output", "o"], "the engine must be local, ray, spark, got 'dusk'"),
    ],
)
def test_bad_options(given: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = [str(given / "in" / text) if text.endswith(".npy") else text for text in options]
    assert cli.main(["run", str(given / "m.onnx"), *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["no room", "Traceback ...\n  in task\nort_ops.files.inputs.InputError: no room\nmore"]
)
def test_an_engine_that_fails_is_one_line(
    text: str, given: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pa = pytest.importorskip("pyarrow", reason="needs the extra arrow")
    pq = pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"p": [1.0], "q": [2.0]}), given / "r.parquet")

    def fail(*arguments: Any) -> None:
        raise RuntimeError(text)

    monkeypatch.setitem(engines.ENGINES, "ray", fail)
    options = ["--input", str(given / "r.parquet"), "--output", str(given / "out"), "--engine", "ray"]
    assert cli.main(["run", str(given / "m.onnx"), *options]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "mylinear: the engine ray stopped: no room"


@pytest.mark.long
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_twenty_kills_lose_and_double_no_row(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet", reason="needs the extra arrow")
    pa = pytest.importorskip("pyarrow")
    onnx.save(MODEL, tmp_path / "m.onnx")
    (tmp_path / "in").mkdir()
    count = 30_000
    for number in range(3):
        values = rows(count, number * count)
        table = pa.table({"id": np.arange(count) + number * count, "p": values[:, 0], "q": values[:, 1]})
        pq.write_table(table, tmp_path / "in" / f"r{number}.parquet", row_group_size=7000)
    context, rng, kills = multiprocessing.get_context("fork"), np.random.default_rng(0), 0

    def begin(output: str) -> multiprocessing.process.BaseProcess:
        paths = ["run", str(tmp_path / "m.onnx"), "--input", str(tmp_path / "in"), "--output", str(tmp_path / output)]
        options = ["--keep", "id", "--batch-size", "16", "--part-rows", "1024"]
        child = context.Process(target=cli.main, args=([*paths, *options],))
        child.start()
        return child

    begin("whole").join(120)
    wanted = content(tmp_path / "whole")
    for _ in range(300):
        aim = len(list((tmp_path / "out").rglob("*.parquet"))) + int(rng.integers(0, 4))
        child = begin("out")
        until = time.monotonic() + 60
        while child.is_alive() and time.monotonic() < until:
            if len(list((tmp_path / "out").rglob("*.parquet"))) >= aim:
                time.sleep(float(rng.uniform(0, 0.02)))
                break
            time.sleep(0.001)
        if child.is_alive():
            child.kill()
            kills += 1
        child.join(60)
        if (tmp_path / "out" / SUCCESS).exists():
            break
    assert kills >= 20
    assert content(tmp_path / "out") == wanted
    assert sorted(pq.read_table(tmp_path / "out", columns=["id"]).column("id").to_pylist()) == [*range(3 * count)]
