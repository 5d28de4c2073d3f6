"""The committed models still work, and can be made again."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import ort_ops
from exporter.verification.verify import verify
from ort_ops.analysis.float64_run import Float64Run

FOLDER = Path(__file__).parents[2] / "models"
NAMES = sorted(path.stem for path in FOLDER.glob("*.onnx"))


@pytest.fixture(scope="module")
def make() -> ModuleType:
    spec = importlib.util.spec_from_file_location("models_make", FOLDER / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_is_a_maker_for_every_model(make: ModuleType) -> None:
    assert NAMES == sorted(make.MAKERS) == ["digits_mlp", "linear"]
    readme = (FOLDER / "README.md").read_text()
    assert all(f"python models/make.py {name}" in readme for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_model_keeps_its_bounds(name: str) -> None:
    result = verify(FOLDER / f"{name}.onnx")
    assert result.is_ok, result.table()


def test_the_linear_model_is_converged() -> None:
    model = onnx.load(FOLDER / "linear.onnx")
    learned = np.concatenate([numpy_helper.to_array(t).ravel() for t in model.graph.initializer])
    assert np.abs(learned - [2, 3, 4]).max() <= 1e-6
    session = ort_ops.InferenceSession(FOLDER / "linear.onnx")
    assert session.run(None, {"x": np.array([[3.0, 2.0]])})[0] == pytest.approx(16.0, abs=1e-6)


def test_the_digits_model_has_the_accuracy_that_it_states() -> None:
    from sklearn.datasets import load_digits

    from exporter.training.data.dataset import load_digits as dataset

    session = ort_ops.InferenceSession(FOLDER / "digits_mlp.onnx")
    stated = session.get_modelmeta().custom_metadata_map
    _, validation = dataset().split(0.2, seed=0)
    assert validation is not None
    logits = session.run(None, {"x": validation.features.astype(np.float32)})[0]
    accuracy = (logits.argmax(1) == validation.targets).mean()
    assert accuracy == pytest.approx(float(stated["mylinear.validation.accuracy"]), abs=1e-6)
    assert f"{accuracy:.3f}" in (FOLDER / "README.md").read_text()
    assert len(load_digits().data) == 1797


@pytest.mark.parametrize("name", NAMES)
def test_a_rebuilt_model_is_the_committed_one(name: str, make: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    make.MAKERS[name](path)
    old, new = onnx.load(FOLDER / f"{name}.onnx"), onnx.load(path)
    assert [(n.domain, n.op_type, list(n.input), list(n.output)) for n in old.graph.node] == [
        (n.domain, n.op_type, list(n.input), list(n.output)) for n in new.graph.node
    ]
    for part in ("input", "output"):
        assert list(getattr(old.graph, part)) == list(getattr(new.graph, part))
    assert [list(t.dims) for t in old.graph.initializer] == [list(t.dims) for t in new.graph.initializer]
    assert old.functions == new.functions
    assert (old.ir_version, list(old.opset_import)) == (new.ir_version, list(new.opset_import))
    dtype = np.float64 if name == "linear" else np.float32
    columns = old.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    x = (np.random.default_rng(0).random((64, columns)) * 16).astype(dtype)
    a, b = (Float64Run(model)({"x": x}).outputs["y"] for model in (old, new))
    # Training elsewhere may end in other last bits, which the two models' own bounds have room for.
    assert np.all(np.abs(a.exact - b.exact) <= a.error + b.error)
