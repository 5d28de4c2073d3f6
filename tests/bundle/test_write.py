"""`mylinear bundle` writes what runs, whole or not at all, and says what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import ort_ops
from ort_ops.bundle import prove, write
from ort_ops.bundle.manifest import BundleError
from ort_ops.bundle.write import write_bundle
from ort_ops.cli import main as cli
from ort_ops.errors import ModelError, MylinearError
from tests.bundle.support import LIBRARY, MODEL, gather_model, noisy, one_node, save, smoke


@LIBRARY
@pytest.mark.parametrize(("version", "dtype"), [(1, "float64"), (1, "float32"), (1, "float16"), (2, "float32")])
def test_every_version_and_type_is_proved(version: int, dtype: str, tmp_path: Path) -> None:
    made = write_bundle(save(one_node(version, dtype), tmp_path), tmp_path / "b")
    assert [(row.kernel, row.verdict) for row in made.manifest.parity] == [("cpp", "ok"), ("body", "ok")]
    (operator,) = made.manifest.operators
    assert (operator.since_version, operator.dtypes, operator.has_body) == (version, (dtype,), True)
    assert [row.verdict for row in ort_ops.load_bundle(tmp_path / "b").check()] == ["ok"]
    if version == 2:
        status, line = smoke(tmp_path / "b")
        assert (status, line.startswith("ok: ")) == (0, True), line


def test_a_folder_in_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MylinearError, match="there is no folder"):
        write_bundle(MODEL, tmp_path / "deep" / "er")


@LIBRARY
def test_a_bfloat16_model_runs(tmp_path: Path) -> None:
    write_bundle(save(one_node(1, "bfloat16"), tmp_path), tmp_path / "b")
    found = ort_ops.load_bundle(tmp_path / "b")
    assert found.sample()["x" if "x" in found.sample() else found.inputs[0].name].dtype.name == "bfloat16"
    assert [row.verdict for row in found.check()] == ["ok"]
    status, line = smoke(tmp_path / "b")
    assert (status, "with library" in line) == (0, True), line


def test_a_model_without_our_operators_is_bundled_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save(gather_model(), tmp_path)
    assert cli.main(["bundle", str(model), str(tmp_path / "b")]) == 0
    assert "no node of a registered operator; onnxruntime's own kernels run it" in capsys.readouterr().out
    found = ort_ops.load_bundle(tmp_path / "b")
    assert found.manifest.libraries == ()
    assert [(tensor.name, tensor.dtype) for tensor in found.inputs] == [
        ("ids", "int64"),
        ("mask", "bool"),
        ("text", "string"),
    ]
    ids = found.sample()["ids"]
    assert 0 <= ids.min() <= ids.max() < 7
    assert [row.verdict for row in found.check()] == ["ok"] * 3
    status, line = smoke(tmp_path / "b")
    assert (status, "3 outputs within" in line) == (0, True), line


def test_the_target_lowers_the_ir_version_and_nothing_else(tmp_path: Path) -> None:
    model = save(gather_model(), tmp_path)
    kept = write_bundle(model, tmp_path / "kept").manifest.model
    assert (kept.ir_version, kept.oldest_onnxruntime, kept.target) == (10, "1.20", None)
    assert (tmp_path / "kept" / kept.path).read_bytes() == model.read_bytes()
    lowered = write_bundle(model, tmp_path / "lowered", target="1.17").manifest.model
    assert (lowered.ir_version, lowered.oldest_onnxruntime, lowered.target) == (9, "1.17", "1.17")
    proto = onnx.load(tmp_path / "lowered" / lowered.path)
    proto.ir_version = 10
    assert proto == onnx.load(model)


def test_an_opset_that_the_target_lacks_is_refused(tmp_path: Path) -> None:
    model = gather_model()
    model.opset_import[0].version = 21
    with pytest.raises(MylinearError, match=r"has opset 21, and onnxruntime 1\.17 loads 20 and older; export it again"):
        write_bundle(save(model, tmp_path), tmp_path / "b", target="1.17")
    assert not (tmp_path / "b").exists()


def test_external_weights_go_with_the_model(tmp_path: Path) -> None:
    proto = onnx.load(MODEL)
    (tmp_path / "in").mkdir()
    onnx.save(proto, tmp_path / "in" / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    made = write_bundle(tmp_path / "in" / "m.onnx", tmp_path / "b")
    shutil.rmtree(tmp_path / "in")
    assert made.manifest.model.external_data == ("model/w.bin",)
    assert [row.verdict for row in ort_ops.load_bundle(tmp_path / "b").check()] == ["ok"]
    data = (tmp_path / "b" / "model" / "w.bin").read_bytes()
    (tmp_path / "b" / "model" / "w.bin").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BundleError, match=r"'model/w\.bin' was changed"):
        ort_ops.load_bundle(tmp_path / "b")
    assert "'model/w.bin' was changed" in smoke(tmp_path / "b")[1]


def test_weights_that_the_manifest_does_not_list_are_refused(tmp_path: Path) -> None:
    from hashlib import sha256

    onnx.save(onnx.load(MODEL), tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    write_bundle(tmp_path / "m.onnx", tmp_path / "b")
    proto = onnx.load(tmp_path / "b/model/model.onnx", load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../sample/input_0.npy"
    data = proto.SerializeToString()
    (tmp_path / "b/model/model.onnx").write_bytes(data)
    plain = json.loads((tmp_path / "b/manifest.json").read_text())
    plain["files"]["model/model.onnx"] = {"sha256": sha256(data).hexdigest(), "nbytes": len(data)}
    (tmp_path / "b/manifest.json").write_text(json.dumps(plain))
    with pytest.raises(BundleError, match=r"weights in '\.\./sample/input_0\.npy', which manifest\.json does not list"):
        ort_ops.load_bundle(tmp_path / "b")


def test_a_given_sample_is_the_sample(tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((3, 64)).astype(np.float32)
    np.savez(tmp_path / "s.npz", x=x)
    write_bundle(MODEL, tmp_path / "b", sample=tmp_path / "s.npz")
    np.testing.assert_array_equal(ort_ops.load_bundle(tmp_path / "b").sample()["x"], x)
    np.savez(tmp_path / "s.npz", z=x)
    with pytest.raises(MylinearError, match=r"it has no 'x'; the model has no input 'z'"):
        write_bundle(MODEL, tmp_path / "c", sample=tmp_path / "s.npz")


def test_what_is_not_proved_is_refused_unless_allowed(tmp_path: Path) -> None:
    model = save(noisy(), tmp_path)
    with pytest.raises(BundleError, match=r"output 'y' is not proved: .*; give real inputs by --sample FILE\.npz, or"):
        write_bundle(model, tmp_path / "b")
    assert not (tmp_path / "b").exists()
    made = write_bundle(model, tmp_path / "b", allow_untested=True)
    assert made.verdict == "unbounded"
    assert [row.verdict for row in ort_ops.load_bundle(tmp_path / "b").check()] == ["unbounded"]


def test_a_wrong_kernel_is_not_bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = prove._run
    monkeypatch.setattr(prove, "_run", lambda *a: {name: value + 1 for name, value in run(*a).items()})
    with pytest.raises(BundleError, match="output 'y' is wrong by"):
        write_bundle(MODEL, tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == []


def test_a_killed_bundle_leaves_nothing_that_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(write, "replace_folder", fail)
    with pytest.raises(KeyboardInterrupt):
        write_bundle(MODEL, tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_replaced_by_force_if_it_is_a_bundle(tmp_path: Path) -> None:
    folder = tmp_path / "b"
    first = write_bundle(MODEL, folder)
    with pytest.raises(BundleError, match="exists; name another folder, or replace the bundle there by --force"):
        write_bundle(MODEL, folder)
    second = write_bundle(MODEL, folder, for_hosts=["python"], force=True)
    assert first.sha256 != second.sha256
    ort_ops.load_bundle(folder, sha256=second.sha256)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "precious").touch()
    with pytest.raises(BundleError, match="--force replaces a bundle alone"):
        write_bundle(MODEL, tmp_path / "home", force=True)
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(BundleError, match="is a symbolic link"):
        write_bundle(MODEL, tmp_path / "link", force=True)
    assert (tmp_path / "home" / "precious").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"for_hosts": ["mars"]}, "--for must be among "),
        ({"platforms": "amiga"}, "--platforms must be none, or among linux-x86_64"),
        ({"libraries": ["linux-x86_64"]}, "--library must be PLATFORM=PATH"),
        ({"libraries": ["amiga=a.so"]}, "--library must be PLATFORM=PATH"),
        ({"libraries": ["windows-arm64=none.so"]}, "there is no library 'none.so'"),
        ({"libraries": ["windows-arm64=none.whl"]}, "there is no wheel 'none.whl'"),
        ({"target": "0.9"}, "target must be onnxruntime 1.17 or newer"),
    ],
)
def test_bad_requests_are_one_line(
    arguments: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MylinearError) as caught:
        write_bundle(MODEL, "b", **arguments)
    assert said in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_smoke_test_finds_damage(tmp_path: Path) -> None:
    damage = "hosts/python/serve.py"
    write_bundle(MODEL, tmp_path / "b", for_hosts=["python"])
    data = (tmp_path / "b" / damage).read_bytes()
    (tmp_path / "b" / damage).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    status, line = smoke(tmp_path / "b")
    assert (status, f"'{damage}' was changed; copy the bundle again" in line) == (1, True), line


def test_the_smoke_test_finds_wrong_results(tmp_path: Path) -> None:
    from hashlib import sha256

    write_bundle(MODEL, tmp_path / "b")
    path = tmp_path / "b" / "sample" / "exact_0.npy"
    np.save(path, np.load(path) + 1e-4)
    plain = json.loads((tmp_path / "b" / "manifest.json").read_text())
    plain["files"]["sample/exact_0.npy"]["sha256"] = sha256(path.read_bytes()).hexdigest()
    (tmp_path / "b" / "manifest.json").write_text(json.dumps(plain))
    status, line = smoke(tmp_path / "b")
    assert (status, "output 'y': 20 of 20 values are wrong" in line) == (1, True), line
    plain["model"]["oldest_onnxruntime"] = "1.99"
    (tmp_path / "b" / "manifest.json").write_text(json.dumps(plain))
    assert "the model needs onnxruntime 1.99 or newer" in smoke(tmp_path / "b")[1]


def test_the_command_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bundle", str(MODEL), str(tmp_path / "b"), "--for", "python,triton", "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["verdict"] == "ok"
    assert sorted(plain["hosts"]) == ["python", "triton"]
    assert cli.main(["bundle", str(MODEL), str(tmp_path / "b")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@LIBRARY
def test_a_model_that_cannot_be_run_in_float64_is_untested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ModelError("the model cannot be run in float64: no")

    monkeypatch.setattr(prove, "Float64Run", fail)
    with pytest.raises(BundleError, match="is not proved: the model cannot be run in float64: no; give real inputs"):
        write_bundle(MODEL, tmp_path / "b")
    made = write_bundle(MODEL, tmp_path / "b", allow_untested=True)
    assert [row.verdict for row in made.manifest.parity] == ["untested", "untested"]
    assert "of the first kernel's, whose largest number is" in made.manifest.parity[1].detail
    assert [row.verdict for row in ort_ops.load_bundle(tmp_path / "b").check()] == ["untested"]
    assert "1 output untested; with library: 1 output untested" in smoke(tmp_path / "b")[1]
