"""Random damage to data files, of their bytes and of what is in them: an error of ours in one line, or numbers."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from exporter.training.data.column_choice import ColumnChoice
from exporter.training.data.files import load_data
from ort_ops.errors import MylinearError
from ort_ops.prediction.predict import predict
from ort_ops.session import InferenceSession
from tests.linear_model import make_linear_model

CHOICES = (ColumnChoice(), ColumnChoice(fill="mean"), ColumnChoice(categorical=("c",), fill="mean"))


@pytest.fixture(scope="module")
def session() -> InferenceSession:
    model = make_linear_model(["batch", 2], np.array([[2.0, 3.0]], np.float32), None)
    return InferenceSession(model.SerializeToString(), kernels="body")


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Cut, insert, remove, repeat or overwrite bytes, the first ones more often."""
    start = rng.randrange(len(data)) if rng.random() < 0.6 else rng.randrange(min(len(data), 130))
    end = min(len(data), start + rng.choice((1, 4, 30, 200)))
    kind = rng.randrange(5)
    if kind == 0:
        return data[:start] or b"\0"
    if kind == 1:
        return data[:start] + rng.randbytes(rng.choice((1, 5, 50))) + data[start:]
    if kind == 2:
        return data[:start] + data[end:] or b"\0"
    if kind == 3:
        return data[:start] + data[start:end] * 2 + data[end:]
    changed = bytearray(data)
    for place in range(start, end):
        if rng.random() < 0.3:
            changed[place] = rng.choice((0, 255, rng.randrange(256), *b",\"\n;\t.e-+NaA(){}[]:'<>"))
    return bytes(changed)


def csv_bytes(rng: random.Random) -> bytes:
    return ("a,b,c,y\n" + "".join(f"{i},{i * 0.5},{'red' if i % 2 else 'blue'},{i}.25\n" for i in range(12))).encode()


def npz_bytes(rng: random.Random) -> bytes:
    """An archive whose sums are right, whatever is in it."""
    arrays = {"x": np.arange(24.0).reshape(12, 2), "y": rng.choice((np.arange(12) % 2, np.array(["no", "yes"] * 6)))}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for name, array in arrays.items():
            content = npy_bytes(array)
            archive.writestr(f"{name}.npy", damaged(content, rng) if rng.random() < 0.7 else content)
    return buffer.getvalue()


def npy_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


SOURCES: dict[str, Callable[[random.Random], bytes]] = {
    "data.csv": lambda rng: damaged(csv_bytes(rng), rng),
    "data.npz": lambda rng: npz_bytes(rng) if rng.random() < 0.7 else damaged(npz_bytes(rng), rng),
    "rows.csv": lambda rng: damaged(b"a,b\n" + b"1.5,2\n-3,4e-1\n" * 8, rng),
    "rows.npy": lambda rng: damaged(npy_bytes(np.arange(16.0, dtype=np.float32).reshape(8, 2)), rng),
}


@pytest.mark.parametrize("name", SOURCES)
def test_damage_is_an_error_in_one_line_or_makes_other_numbers(
    session: InferenceSession, tmp_path: Path, name: str
) -> None:
    rng = random.Random(name)
    path, output = tmp_path / name, tmp_path / "out.npy"
    num_errors = 0
    for _ in range(250):
        path.write_bytes(SOURCES[name](rng))
        output.unlink(missing_ok=True)
        try:
            if name.startswith("data"):
                target = "y" if path.suffix == ".csv" else None
                choice = rng.choice(CHOICES) if path.suffix == ".csv" else rng.choice(CHOICES[:2])
                features = load_data(path, target, None, choice).split(0.25, 0)[0].features
                assert np.isfinite(features).all()
            else:
                assert predict(session, str(path), output) == len(np.load(output))
        except MylinearError as error:
            num_errors += 1
            message = str(error)
            assert "\n" not in message.replace(str(path), "")
            assert len(message) < 1500
            assert not output.exists()
    assert num_errors > 50
    assert [entry.name for entry in tmp_path.iterdir() if entry not in (path, output)] == []
