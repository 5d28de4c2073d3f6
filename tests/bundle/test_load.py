"""`load_bundle` takes a right bundle, and refuses it once any part is broken; each refusal is one line."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ort_ops
from ort_ops.bundle import load as loading
from ort_ops.bundle.write import write_bundle

MODEL = Path(__file__).parents[2] / "models" / "digits_mlp.onnx"
LIBRARY = pytest.mark.native


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "digits"
    write_bundle(MODEL, folder, for_hosts=["python"])
    return folder


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


def refused(folder: Path, **arguments: Any) -> str:
    """Return why a bundle is refused: one line that names it, and says what to do."""
    with pytest.raises(ort_ops.BundleError) as caught:
        ort_ops.load_bundle(folder, **arguments)
    text = str(caught.value)
    assert "\n" not in text
    assert str(folder) in text
    assert ";" in text
    return text


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest."""
    path = folder / "manifest.json"
    plain = json.loads(path.read_text())
    change(plain)
    path.write_text(json.dumps(plain))


@LIBRARY
def test_a_bundle_runs_and_proves_itself(bundle: Path) -> None:
    found = ort_ops.load_bundle(bundle)
    assert found.session.kernel == "cpp"
    (x,) = found.inputs
    assert (x.name, x.dtype, x.shape, x.numpy_dtype) == ("x", "float32", ("batch", 64), np.dtype(np.float32))
    assert found.outputs[0].shape == ("batch", 10)
    assert found.run({"x": np.zeros((5, 64), np.float32)})["y"].shape == (5, 10)
    (row,) = found.check()
    assert (row.kernel, row.verdict) == ("cpp", "ok")
    assert row.max_in_bounds is not None
    assert 0 < row.max_in_bounds < 1


@pytest.mark.parametrize("kernels", ["auto", pytest.param("cpp", marks=LIBRARY), "body"])
def test_its_result_is_that_of_a_session(bundle: Path, kernels: str) -> None:
    found = ort_ops.load_bundle(bundle, kernels=kernels)
    expected = ort_ops.InferenceSession(MODEL, kernels=found.session.kernel).run(None, found.sample())[0]
    np.testing.assert_array_equal(found.run(found.sample())["y"], expected)


def test_it_can_be_pickled(bundle: Path) -> None:
    found = pickle.loads(pickle.dumps(ort_ops.load_bundle(bundle)))
    assert [row.verdict for row in found.check()] == ["ok"]
    (bundle / "extra").touch()
    with pytest.raises(ort_ops.BundleError, match="'extra'"):
        pickle.dumps(found) and pickle.loads(pickle.dumps(found))


def every_file(made: Path) -> list[str]:
    return sorted(json.loads((made / "manifest.json").read_text())["files"])


def test_every_file_is_guarded(made: Path, bundle: Path) -> None:
    files = every_file(made)
    assert len(files) == len([path for path in made.rglob("*") if path.is_file()]) - 1
    for name in files:
        path = bundle / name
        data = path.read_bytes()
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
        assert f"'{name}' was changed: its sha256" in refused(bundle)
        path.write_bytes(data[:-1])
        assert f"'{name}' was changed: it has {len(data) - 1} bytes" in refused(bundle)
        path.write_bytes(data + b"\0")
        assert f"'{name}' was changed: it has {len(data) + 1} bytes" in refused(bundle)
        path.unlink()
        assert f"lacks '{name}'" in refused(bundle)
        path.symlink_to(made / name)
        assert f"'{name}' is a symbolic link" in refused(bundle)
        path.unlink()
        path.write_bytes(data)
    ort_ops.load_bundle(bundle)


@pytest.mark.parametrize("name", ["evil.so", "libraries/linux-x86_64/evil.so.1", "model/other.onnx", "hosts/python/a"])
def test_another_file_is_refused(bundle: Path, name: str) -> None:
    (bundle / name).parent.mkdir(parents=True, exist_ok=True)
    (bundle / name).touch()
    assert f"has '{name}', which manifest.json does not list; remove it" in refused(bundle)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFO")
def test_what_is_no_file_is_refused(bundle: Path) -> None:
    os.mkfifo(bundle / "pipe")
    assert "'pipe' is no regular file" in refused(bundle)
    (bundle / "pipe").unlink()
    (bundle / "manifest.json").unlink()
    os.mkfifo(bundle / "manifest.json")
    assert "'manifest.json' is no regular file" in refused(bundle)


def test_a_linked_folder_is_refused(bundle: Path, tmp_path: Path) -> None:
    (bundle / "sample").rename(tmp_path / "elsewhere")
    (bundle / "sample").symlink_to(tmp_path / "elsewhere")
    assert "'sample' is a symbolic link" in refused(bundle)


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    assert "is no folder" in refused(tmp_path / "none")
    assert "has no manifest.json" in refused(tmp_path)
    for content in ("{}", "[]", '{"format": "other"}'):
        (tmp_path / "manifest.json").write_text(content)
        assert "is no bundle" in refused(tmp_path)
    for content in ("", "{", "[" * 100_000, '{"format": 1, "format": 2}', "\xff"):
        (tmp_path / "manifest.json").write_bytes(content.encode("latin-1"))
        assert "it is no JSON" in refused(tmp_path)


def test_another_format_version_is_refused(bundle: Path) -> None:
    edit(bundle, lambda plain: plain.update(format_version=2))
    assert "has format version 2, and this ort-mylinear reads 1" in refused(bundle)


def moved(plain: dict[str, Any], new: str) -> None:
    """Let the manifest name the library, or the model, by another path."""
    old = plain["model"]["path"]
    plain["files"][new] = plain["files"].pop(old)
    plain["model"]["path"] = new


@pytest.mark.parametrize(
    "path",
    ["../model.onnx", "/etc/passwd", "model/../../a", "./a", "a//b", "C:\\a", "a\\b", "", "manifest.json", "a\0b", "."],
)
def test_a_path_that_leaves_the_bundle_is_refused(bundle: Path, path: str) -> None:
    edit(bundle, lambda plain: moved(plain, path))
    assert "leaves the bundle" in refused(bundle)


@pytest.mark.parametrize(
    "change",
    [
        lambda plain: plain.pop("files"),
        lambda plain: plain.pop("model"),
        lambda plain: plain.update(surprise=1),
        lambda plain: plain["model"].update(path="other.onnx"),
        lambda plain: plain["model"].update(external_data="model/model.onnx"),
        lambda plain: plain["model"].update(external_data=["model/w.bin"]),
        lambda plain: plain["model"].update(oldest_onnxruntime="new"),
        lambda plain: plain["inputs"][0].update(dtype="float80"),
        lambda plain: plain["inputs"][0].update(shape=[[1]]),
        lambda plain: plain.update(inputs={}),
        lambda plain: plain.update(libraries=[1]),
        lambda plain: plain["files"]["smoke_test.py"].update(sha256="0"),
        lambda plain: plain["files"]["smoke_test.py"].update(nbytes=True),
        lambda plain: plain["files"].update(more=None),
        lambda plain: plain["files"]["smoke_test.py"].update(nbytes=10**30),
        lambda plain: plain["inputs"][0].update(name=["x"]),
        lambda plain: plain["operators"][0].update(library=[]),
        lambda plain: plain["operators"][0].update(since_version=None),
        lambda plain: plain["parity"][0].update(verdict=1),
        lambda plain: plain.update(open_folders=["../a"]),
        lambda plain: plain.update(open_folders=["sample"]),
    ],
)
def test_a_damaged_manifest_is_refused(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    edit(bundle, change)
    assert "is damaged: manifest.json: " in refused(bundle)


def test_a_manifest_of_another_model_is_refused(bundle: Path) -> None:
    edit(bundle, lambda plain: plain["inputs"][0].update(name="z"))
    assert "the model must have inputs ['z'] and outputs ['y'], as manifest.json says, got ['x']" in refused(bundle)
    edit(bundle, lambda plain: plain.update(inputs=[]))
    assert "the model must have inputs [] and outputs ['y']" in refused(bundle)


def test_an_open_folder_may_hold_anything_and_nothing_else_may(bundle: Path) -> None:
    edit(bundle, lambda plain: plain.update(open_folders=["hosts/python/node_modules"]))
    (bundle / "hosts/python/node_modules").mkdir()
    (bundle / "hosts/python/node_modules/addon.so").touch()
    ort_ops.load_bundle(bundle)
    (bundle / "hosts/python/more.so").touch()
    assert "more.so" in refused(bundle)


def test_the_manifest_s_own_hash_is_compared(made: Path, bundle: Path) -> None:
    from hashlib import sha256

    right = sha256((made / "manifest.json").read_bytes()).hexdigest()
    ort_ops.load_bundle(bundle, sha256=right)
    edit(bundle, lambda plain: plain.update(name="other"))
    ort_ops.load_bundle(bundle)
    assert f"must have a manifest.json of sha256 {right}" in refused(bundle, sha256=right)


@LIBRARY
def test_another_platform_is_refused(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "this_platform", lambda: "linux-riscv64")
    text = refused(bundle)
    assert "has libraries for" in text
    assert "and this is linux-riscv64; bundle it with --platforms linux-riscv64" in text
    assert ort_ops.load_bundle(bundle, kernels="body").session.kernel == "body"


@LIBRARY
@pytest.mark.parametrize(
    ("oldest", "newest", "rule"),
    [("1.99", None, "1.99 or newer"), ("1.17", "1.17", "1.17 to 1.17"), (None, "1.17", "any to 1.17")],
)
def test_an_onnxruntime_out_of_the_library_s_range_is_refused(
    bundle: Path, oldest: str | None, newest: str | None, rule: str
) -> None:
    edit(
        bundle,
        lambda plain: plain["libraries"][0].update(oldest_onnxruntime=oldest, newest_onnxruntime=newest),
    )
    text = refused(bundle)
    assert "'libraries/" in text
    assert f"needs onnxruntime {rule}, got " in text


def test_an_onnxruntime_that_is_too_old_for_the_model_is_refused(bundle: Path) -> None:
    edit(bundle, lambda plain: plain["model"].update(oldest_onnxruntime="1.99"))
    assert "its model needs onnxruntime 1.99 or newer" in refused(bundle, kernels="body")


def test_a_wrong_result_is_told(bundle: Path) -> None:
    found = ort_ops.load_bundle(bundle)
    exact = np.load(bundle / "sample" / "exact_0.npy")
    np.save(bundle / "sample" / "exact_0.npy", exact + 1)
    with pytest.raises(ort_ops.BundleError, match="output 'y' is wrong by"):
        found.check()


def test_other_kernels_are_refused(bundle: Path) -> None:
    with pytest.raises(ort_ops.KernelError, match="kernels must be auto, cpp or body, got 'cuda'"):
        ort_ops.load_bundle(bundle, kernels="cuda")


@LIBRARY
def test_a_library_that_does_not_load_is_told(bundle: Path) -> None:
    from hashlib import sha256

    plain = json.loads((bundle / "manifest.json").read_text())
    path = plain["libraries"][0]["path"]
    (bundle / path).write_bytes(b"no library")
    edit(
        bundle,
        lambda p: p["files"].update({path: {"sha256": sha256(b"no library").hexdigest(), "nbytes": 10}}),
    )
    with pytest.raises(ort_ops.KernelError, match="cannot be registered"):
        ort_ops.load_bundle(bundle)


@LIBRARY
def test_it_runs_where_the_operator_is_unknown(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ort_ops.opdef.registry.kits", lambda: ())
    found = ort_ops.load_bundle(bundle)
    assert found.session.kernels == {}
    assert [(row.kernel, row.verdict) for row in found.check()] == [("cpp", "ok")]
    assert [row.kernel for row in ort_ops.load_bundle(bundle, kernels="body").check()] == ["body"]
