"""The files for Ray and Spark: run with an engine in Python's place that calls the function, in another process.

`pytest -m slow tests/batch/test_engines.py` runs them by the engines themselves.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ort_ops
from ort_ops.batch import Predictor
from ort_ops.batch.sessions import _served
from ort_ops.bundle.write import write_bundle
from ort_ops.prediction.metadata import FEATURES_KEY
from tests.bundle.support import MODEL

ENGINES = ["ray", "spark"]
RAY = """
from types import SimpleNamespace as Module
import pickle
import pyarrow.parquet as pq
class Rows:
    def __init__(self, batches):
        self.batches = batches
    def map_batches(self, kind, *, fn_constructor_args, fn_constructor_kwargs, batch_format, **_):
        assert batch_format == "pyarrow"
        function = pickle.loads(pickle.dumps(kind(*fn_constructor_args, **fn_constructor_kwargs)))
        return Rows([function(batch) for batch in self.batches])
    def write_parquet(self, path):
        [pq.write_table(batch, path) for batch in self.batches]
init = dict
data = Module(read_parquet=lambda path: Rows([pq.read_table(path)]), ActorPoolStrategy=dict)
"""
SPARK = """
import pyarrow as pa, pyarrow.parquet as pq
class SparkConf:
    def setIfMissing(self, *_):
        return self
class Rows:
    def __init__(self, table):
        self.table, self.schema, self.write = table, table.schema, self
        self.read = self
    def mapInArrow(self, function, schema):
        return Rows(pa.Table.from_batches(list(function(iter(self.table.to_batches()))), schema))
    def parquet(self, path):
        pq.write_table(self.table, path)
class SparkSession:
    class builder:
        config = classmethod(lambda kind, conf: kind)
        getOrCreate = classmethod(lambda kind: kind)
        class read:
            parquet = staticmethod(lambda path: Rows(pq.read_table(path)))
from_arrow_schema = to_arrow_schema = lambda schema: schema
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engines") / "b"
    write_bundle(MODEL, folder, for_hosts=ENGINES)
    return folder


@pytest.fixture
def fakes(tmp_path: Path) -> Path:
    """Write modules called like the engines, which run what they are given at once."""
    folder = tmp_path / "fakes"
    for name, text in (("ray", RAY), ("pyspark", SPARK), ("pyspark/sql", ""), ("pyspark/sql/pandas", "")):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(text or "from pyspark import *")
    (folder / "pyspark/sql/pandas/types.py").write_text("from pyspark import *")
    return folder


def predict(engine: str, bundle: Path, fakes: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(bundle / "hosts" / engine / "predict.py"), *map(str, arguments)]
    settings = os.environ | {"PYTHONPATH": os.pathsep.join([str(fakes), str(Path(__file__).parents[2])])}
    return subprocess.run(command, env=settings, cwd=fakes, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("of", ["bundle", "file"])
def test_the_predictions_are_those_of_the_model(engine: str, of: str, bundle: Path, fakes: Path) -> None:
    model = MODEL if of == "file" else bundle
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = np.random.default_rng(0).integers(0, 17, (50, 64)).astype(np.float32)
    names = json.loads(ort_ops.load_bundle(bundle).session.get_modelmeta().custom_metadata_map[FEATURES_KEY])
    table = pa.table({"id": np.arange(50)} | dict(zip(names, rows.T, strict=True)))
    pq.write_table(table, fakes / "rows.parquet")
    done = predict(engine, bundle, fakes, model, "rows.parquet", "results.parquet", "id")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    got = pq.read_table(fakes / "results.parquet")
    assert got.column_names == ["id", "class", "probability"]
    assert got.column("id").to_pylist() == list(range(50))
    wanted = Predictor(MODEL)(rows)
    for name in ("class", "probability"):
        assert got.column(name).to_pylist() == wanted[name].tolist()
    ort_ops.load_bundle(bundle)  # nothing was left behind in it


@pytest.mark.parametrize("engine", ENGINES)
def test_a_bundle_that_was_changed_is_one_line(engine: str, bundle: Path, fakes: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(bundle, broken)
    model = broken / "model" / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"?")
    done = predict(engine, broken, fakes, broken, "rows.parquet", "results.parquet")
    assert done.returncode == 1
    assert done.stderr.startswith(f"'{broken}': 'model/model.onnx' was changed: its sha256 is ")
    assert done.stderr.count("\n") == 1
    done = predict(engine, bundle, fakes, fakes, "rows.parquet", "results.parquet")
    assert (
        done.stderr == f"'{fakes}' is no bundle: it has no manifest.json; `mylinear bundle model.onnx DIR` makes one\n"
    )
    done = predict(engine, bundle, fakes)
    assert done.stderr.strip().endswith("python predict.py MODEL ROWS RESULTS [COLUMN TO KEEP ...].")


def test_a_process_checks_a_bundle_once(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ort_ops.batch import sessions
    from ort_ops.bundle import load

    loaded: list[Path] = []
    load_bundle = load.load_bundle

    def count(folder: Path, **arguments: object) -> ort_ops.Bundle:
        loaded.append(folder)
        return load_bundle(folder, **arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(load, "load_bundle", count)
    monkeypatch.setattr(sessions, "_served", {})
    rows = np.ones((3, 64), np.float32)
    first, second = Predictor(bundle, raw=True), Predictor(bundle, raw=True, batch_size=2)
    np.testing.assert_array_equal(first(rows), second(rows))
    assert len(loaded) == 1
    assert first.session is second.session
    (bundle / "manifest.json").touch()
    first(rows)
    assert len(loaded) == 2


def test_a_bundle_must_be_the_one_that_was_named(bundle: Path, tmp_path: Path) -> None:
    rows = np.ones((3, 64), np.float32)
    with pytest.raises(ort_ops.BundleError, match=r"must have a manifest\.json of sha256 00, got"):
        Predictor(bundle, sha256="00")(rows)
    with pytest.raises(ort_ops.BundleError, match=r"is no bundle: it has no manifest\.json"):
        Predictor(tmp_path)(rows)
    with pytest.raises(ort_ops.BundleError, match="is no folder; name that of a bundle"):
        Predictor(MODEL, sha256="00")(rows)
    with pytest.raises(ValueError, match="sha256 is for the folder of a bundle, got the bytes of a model"):
        Predictor(MODEL.read_bytes(), sha256="00")(rows)
    with pytest.raises(ort_ops.KernelError, match="kernels must be auto, cpp or body, got 'python'"):
        Predictor(bundle, kernels="python")(rows)
    assert not [key for key in _served if "00" in key]
