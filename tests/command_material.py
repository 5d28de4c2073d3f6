"""The right files that the fuzz of the command line damages."""

from __future__ import annotations

import contextlib
import io
import shutil
from pathlib import Path

import numpy as np
import onnx

from ort_ops.cli import main as cli
from tests.rewrite.test_rewrite_places import branches


def _run(*arguments: object) -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as error:
        status = cli.main([str(argument) for argument in arguments])
    assert status == 0, error.getvalue()


def make_material(folder: Path) -> None:
    """Make a folder of a trained classifier of four features, and of what commands take beside it.

    It has the classifier as it is (``net.onnx``), with its weights outside (``external.onnx``, ``w.bin``) and in
    standard operators (``plain.onnx``), a model with branches (``inner.onnx``), a checkpoint, tables and arrays.
    """
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((24, 4))
    labels = (rows[:, 0] > 0).astype(int)
    names = ["a", "b", "c", "d"]
    np.savetxt(folder / "rows.csv", rows, "%.3f", ",", header=",".join(names), comments="")
    table = [*names, "y"]
    np.savetxt(folder / "table.csv", np.c_[rows, labels], "%.3f", ",", header=",".join(table), comments="")
    np.save(folder / "rows.npy", rows)
    np.savez(folder / "table.npz", x=rows, y=labels)
    made = folder / "made"
    train = ("--task", "classification", "--hidden", 5, "--epochs", 1, "--output", made)
    _run("train", "--data", folder / "table.csv", "--target", "y", *train)
    _run("export", made / "checkpoint.pt", folder / "net.onnx", "--engine", "torchscript")
    shutil.rmtree(made)
    _run("train", "linear", "--epochs", 1, "--output", made)
    shutil.move(made / "checkpoint.pt", folder / "checkpoint.pt")
    shutil.rmtree(made)
    _run("lower", folder / "net.onnx", folder / "plain.onnx")
    model = onnx.load(folder / "net.onnx")
    onnx.save(model, folder / "external.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    onnx.save(branches(True), folder / "inner.onnx")
    _run("adopt", folder / "inner.onnx", folder / "inner.onnx")
    (folder / "loop").symlink_to("loop")
    (folder / "folder").mkdir()
