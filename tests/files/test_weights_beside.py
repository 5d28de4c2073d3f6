"""Weights in a file beside a model: whatever moment a writer dies at, every model on disk keeps its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from ort_ops.files.atomic import replace_atomically
from ort_ops.rewrite import files
from ort_ops.rewrite.files import read_model, write_model
from ort_ops.rewrite.rewrite import adopt
from tests.linear_model import make_linear_model

X = np.ones((2, 32))


def _save(path: Path, number: float) -> None:
    """Save a model whose results are 32 times the number, by itself."""
    onnx.save(make_linear_model(["batch", 32], np.full((16, 32), float(number)), np.zeros(16)), path)


def _write(path: Path, number: float) -> None:
    """Write the same with its weights beside it."""
    source = path.with_name("source.onnx")
    _save(source, number)
    write_model(read_model(source).load(), path, external=True)
    source.unlink()


def _result(path: Path) -> float:
    plain = path.with_name("plain.onnx")
    onnx.save(onnx.load(path), plain)
    session = onnxruntime.InferenceSession(plain, providers=["CPUExecutionProvider"])
    plain.unlink()
    return float(session.run(None, {session.get_inputs()[0].name: X})[0].max())


def _names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_model_that_is_replaced_keeps_its_weights_until_the_new_one_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    _write(path, 1.0)

    def die_at_the_model(temporary: Path, target: Path) -> None:
        if target == path:
            raise KeyboardInterrupt
        replace_atomically(temporary, target)

    with monkeypatch.context() as broken:
        broken.setattr(files, "replace_atomically", die_at_the_model)
        with pytest.raises(KeyboardInterrupt):
            _write(path, 2.0)
    (tmp_path / "source.onnx").unlink()
    assert _result(path) == 32.0
    _write(path, 3.0)
    assert _result(path) == 96.0
    assert _names(tmp_path) == ["model.onnx", "model.onnx.data2", "model.onnx.data3"], "the dead writer's is no one's"


def test_weights_go_back_to_the_first_name(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    for number, beside in enumerate(["model.onnx.data", "model.onnx.data2", "model.onnx.data"], 1):
        _write(path, number)
        assert _result(path) == 32 * number
        assert _names(tmp_path) == ["model.onnx", beside]


def test_a_model_that_was_renamed_keeps_the_weights_that_were_not(tmp_path: Path) -> None:
    path, renamed = tmp_path / "model.onnx", tmp_path / "renamed.onnx"
    _write(path, 1.0)
    path.rename(renamed)
    _write(path, 2.0)
    assert _result(renamed) == 32.0
    assert _result(path) == 64.0


def test_files_of_like_names_are_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "a+.onnx"
    others = ["a+.onnx.data.bak", "a+.onnx.data02", "a+.onnx.data1", "aa.onnx.data", "x-a+.onnx.data"]
    for name in others:
        (tmp_path / name).write_bytes(b"mine")
    for number in (1.0, 2.0):
        _write(path, number)
    assert _names(tmp_path) == sorted(["a+.onnx", "a+.onnx.data2", *others])
    assert all((tmp_path / name).read_bytes() == b"mine" for name in others)


def test_a_model_may_be_adopted_in_place(tmp_path: Path) -> None:
    path, copy = tmp_path / "model.onnx", tmp_path / "copy"
    copy.mkdir()
    plain = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> g (double[n, 32] x) => (double[n, 16] y) <double[16, 32] w> '
        "{ y = Gemm <transB = 1> (x, w) }"
    )
    plain.graph.initializer.add().CopyFrom(onnx.numpy_helper.from_array(np.full((16, 32), 2.0), "w"))
    onnx.save(plain, path, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    for file in (path, tmp_path / "model.onnx.data"):
        shutil.copy(file, copy)
    assert len(adopt(path, path).rewritten) == 1
    assert _names(tmp_path) == ["copy", "model.onnx", "model.onnx.data2"]
    assert _result(path) == _result(copy / "model.onnx") == 64.0
