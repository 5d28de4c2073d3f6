"""Files of `mylinear run`: one batch in memory, damage found before memory is taken, and only regular files."""

from __future__ import annotations

import io
import os
import struct
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from ort_ops.cli.run import _session_options
from ort_ops.files import csv_file
from ort_ops.files.csv_file import open_csv
from ort_ops.files.inputs import InputError, open_input
from ort_ops.files.npy_file import open_npy, read_npz
from ort_ops.prediction.predict import SideBySide, predict
from ort_ops.session import InferenceSession
from tests.linear_model import make_linear_model


def linear(batch: str | int = "batch", dtype: Any = np.float64, kernels: str = "body") -> InferenceSession:
    model = make_linear_model([batch, 2], np.array([[2.0, 3.0]], dtype), np.array([4.0], dtype))
    return InferenceSession(model.SerializeToString(), kernels=kernels)


@pytest.fixture(scope="module")
def session() -> InferenceSession:
    return linear()


@pytest.mark.parametrize("suffix", ["npy", "csv"])
@pytest.mark.parametrize("source", ["npy", "csv"])
def test_only_a_few_batches_are_in_memory_at_a_time(
    session: InferenceSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, suffix: str
) -> None:
    monkeypatch.setattr("ort_ops.prediction.predict.BLOCK_ROWS", 4)
    rows = np.arange(400.0).reshape(200, 2)
    np.save(tmp_path / "rows.npy", rows)
    np.savetxt(tmp_path / "rows.csv", rows, delimiter=",")
    alive: list[weakref.ref[Any]] = []
    most = 0

    def run(names: object, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        nonlocal most
        result = feed["x"] @ [[2.0], [3.0]] + 4
        alive.append(weakref.ref(result))
        most = max(most, sum(reference() is not None for reference in alive))
        return [result]

    monkeypatch.setattr(session, "run", run)
    output = tmp_path / f"out.{suffix}"
    assert predict(session, str(tmp_path / f"rows.{source}"), output, batch_size=4) == 200
    assert most <= 3
    got = np.load(output) if suffix == "npy" else np.loadtxt(output, skiprows=1, ndmin=2)
    np.testing.assert_array_equal(got.reshape(-1, 1), rows @ [[2.0], [3.0]] + 4)


def test_the_threads_of_the_session_sleep_between_batches() -> None:
    for pool in ("intra_op", "inter_op"):
        assert _session_options().get_session_config_entry(f"session.{pool}.allow_spinning") == "0"


def test_a_fixed_batch_is_what_the_model_gets(tmp_path: Path) -> None:
    session = linear(4)
    np.save(tmp_path / "rows.npy", np.zeros((8, 2)))
    assert predict(session, str(tmp_path / "rows.npy"), tmp_path / "out.npy") == 8
    np.save(tmp_path / "rows.npy", np.zeros((6, 2)))
    (tmp_path / "rows.csv").write_text("1,2\n" * 6)
    for source in ("rows.npy", "rows.csv"):
        with pytest.raises(InputError, match=r"exactly 4 rows at a time, and '.*' has 6"):
            predict(session, str(tmp_path / source), tmp_path / "out.npy")


def test_what_onnxruntime_refuses_is_one_line(session: InferenceSession, monkeypatch: pytest.MonkeyPatch) -> None:
    run = session.run
    monkeypatch.setattr(session, "run", lambda names, feed: run(names, {"x": feed["x"][:, :1]}))
    with pytest.raises(InputError, match="'1,2', rows 1 to 1: onnxruntime cannot run the model on them: ") as caught:
        predict(session, "1,2", stream=io.StringIO())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("result", [np.zeros(()), np.zeros((1, 1)), [1, 2, 3]])
def test_a_result_that_has_no_row_for_each_row_is_refused(
    session: InferenceSession, monkeypatch: pytest.MonkeyPatch, result: Any
) -> None:
    monkeypatch.setattr(session, "run", lambda names, feed: [result])
    with pytest.raises(InputError, match="must have a row for each row of its input"):
        predict(session, "1,2; 3,4", stream=io.StringIO())


@pytest.mark.native
def test_bfloat16_is_written_as_float32_which_holds_it(tmp_path: Path) -> None:
    session = linear(dtype=ml_dtypes.bfloat16, kernels="auto")
    predict(session, "3,2", tmp_path / "out.npy")
    out = np.load(tmp_path / "out.npy")
    assert (out.dtype, out.tolist()) == (np.float32, [[16.0]])
    np.save(tmp_path / "rows.npy", np.array([[3.0, 2.0]], ml_dtypes.bfloat16))
    predict(session, str(tmp_path / "rows.npy"), tmp_path / "out.npy")
    assert np.load(tmp_path / "out.npy").tolist() == [[16.0]]
    with pytest.raises(InputError, match="must hold numbers, got dtype"):
        predict(linear(), str(tmp_path / "rows.npy"), tmp_path / "out.npy")


# Files that are none


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="FIFOs are a thing of POSIX")
@pytest.mark.parametrize("name", ["rows.csv", "rows.npy", "rows.npz"])
def test_a_fifo_is_refused_and_never_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="is a FIFO; write its content to a file first"):
        take(tmp_path / name)


@pytest.mark.parametrize("name", ["rows.csv", "rows.npy", "rows.npz"])
def test_a_device_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(InputError, match="is a device; write its content to a file first"):
        take(tmp_path / name)


def test_a_file_of_zeros_is_refused_without_being_read_as_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "rows.csv").open("wb") as file:
        file.truncate(2**40)
    monkeypatch.setattr(csv_file, "_MAX_LINE", 2**16)
    with pytest.raises(InputError, match="it holds binary data"):
        take(tmp_path / "rows.csv")
    (tmp_path / "rows.csv").write_text("1" * 2**17)
    with pytest.raises(InputError, match="line 1 has more than 65536 characters"):
        take(tmp_path / "rows.csv")


def test_paths_that_are_no_files_have_messages(tmp_path: Path) -> None:
    for path, message in ((tmp_path, "is a folder; name a file"), (tmp_path / "none", "there is no file")):
        with pytest.raises(InputError, match=message), open_input(path):
            pass


def take(path: Path) -> None:
    if path.suffix == ".csv":
        with open_csv(path) as records:
            list(records)
    elif path.suffix == ".npy":
        open_npy(path)
    else:
        read_npz(path, ["x"])


# Damaged arrays


def npy(shape: str, descr: str = "'<f8'", data: bytes = b"\0" * 64, version: bytes = b"\1\0") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header + data


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy("(1000000000000, 2)"), r"claims \[1000000000000, 2\] of float64, 16000000000000 bytes, and there are 64"),
        (npy("(0, 99999999999999999999)"), "is damaged or cut short"),
        (npy("(9, 1)"), "is damaged or cut short: its header claims"),
        (npy("(-1, 2)"), "is not a .npy file of numbers"),
        (npy("(" * 3000), "is not a .npy file of numbers"),
        (npy("(4, 2)", "'|O'"), "must hold numbers, got dtype object"),
        (npy("(4, 2)", "'<M8[s]'"), "must hold numbers"),
        (npy("(4, 2)", "'nonsense'"), "is not a .npy file of numbers"),
        (npy("(4, 2)", version=b"\x07\0"), "is not a .npy file of numbers"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{", "is not a .npy file of numbers"),
        (b"", "is not a .npy file of numbers"),
    ],
)
def test_a_damaged_array_is_refused_before_memory_is_taken_for_it(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "rows.npy").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        open_npy(tmp_path / "rows.npy")
    assert "\n" not in str(caught.value)


def test_arrays_of_both_orders_and_versions_read_back(tmp_path: Path) -> None:
    array = np.arange(6.0).reshape(2, 3)
    for stored in (array, np.asfortranarray(array), array[:0], np.array(5)):
        np.save(tmp_path / "rows.npy", stored)
        np.testing.assert_array_equal(open_npy(tmp_path / "rows.npy"), stored)
        np.savez_compressed(tmp_path / "rows.npz", x=stored)
        np.testing.assert_array_equal(read_npz(tmp_path / "rows.npz")["x"], stored)
    with (tmp_path / "rows.npy").open("wb") as file:
        np.lib.format.write_array(file, array, version=(2, 0))
    np.testing.assert_array_equal(open_npy(tmp_path / "rows.npy"), array)


@pytest.mark.parametrize("batch_size", [1, 7, 10**20])
def test_any_batch_size_gives_the_same_rows(session: InferenceSession, tmp_path: Path, batch_size: int) -> None:
    rows = np.arange(40.0).reshape(20, 2)
    np.savetxt(tmp_path / "rows.csv", rows, delimiter=",")
    np.save(tmp_path / "rows.npy", rows)
    for source in ("rows.csv", "rows.npy"):
        assert predict(session, str(tmp_path / source), tmp_path / "out.npy", batch_size=batch_size) == 20
        np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), rows @ [[2.0], [3.0]] + 4)


@pytest.mark.parametrize("suffix", ["npy", "parquet"])
def test_blocks_side_by_side_come_in_order_and_change_no_byte(
    session: InferenceSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    rows = np.arange(400.0).reshape(200, 2)
    if suffix == "npy":
        np.save(tmp_path / "rows.npy", rows)
    else:
        pa = pytest.importorskip("pyarrow", reason="needs the extra arrow")
        pq = pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.table({"a": rows[:, 0], "b": rows[:, 1]}), tmp_path / "rows.parquet")
    source, outputs = str(tmp_path / f"rows.{suffix}"), [tmp_path / f"{i}.{suffix}" for i in range(2)]
    monkeypatch.setattr("ort_ops.prediction.predict.BLOCK_ROWS", 8)
    assert predict(session, source, outputs[0], batch_size=4) == 200
    threads: set[int] = set()
    plain = session.run

    def run(names: Any, feed: dict[str, np.ndarray]) -> list[Any]:
        threads.add(threading.get_ident())
        time.sleep(0.001 * (feed["x"][0, 0] % 3))  # so that a later block is ready before an earlier one
        return plain(names, feed)

    monkeypatch.setattr(session, "run", run)
    side = SideBySide(lambda: session, 3)
    assert predict(session, source, outputs[1], batch_size=4, side_by_side=side) == 200
    assert len(threads) > 1
    assert threading.get_ident() not in threads
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    assert predict(session, source, outputs[1], batch_size=100, side_by_side=side) == 200
    assert threading.get_ident() in threads  # too few batches for three at a time
    before = outputs[1].read_bytes()
    monkeypatch.setattr(session, "run", lambda names, feed: [feed["x"][1:]])
    with pytest.raises(InputError, match="must have a row for each row of its input, got"):
        predict(session, source, outputs[1], batch_size=4, side_by_side=side)
    assert outputs[1].read_bytes() == before
