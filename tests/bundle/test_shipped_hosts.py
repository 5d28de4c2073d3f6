"""The files for a browser, Node.js and C++ are complete; `docs/examples/check_hosts.py` runs them."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

import ort_ops
from ort_ops.bundle import hosts
from ort_ops.bundle.write import write_bundle

FOLDER = Path(hosts.__file__).parent
MODEL = Path(__file__).parents[2] / "models" / "digits_mlp.onnx"


def test_a_bundle_has_the_files_of_every_such_host(tmp_path: Path) -> None:
    write_bundle(MODEL, tmp_path / "digits", for_hosts=["web", "node", "cpp"])
    ort_ops.load_bundle(tmp_path / "digits")
    for name in ("web", "node", "cpp"):
        host = tmp_path / "digits" / "hosts" / name
        expected = {path.name for path in (FOLDER / name).iterdir() if path.is_file()} - {"host.json", "words.py"}
        assert {path.name for path in host.iterdir()} == expected
        assert [path.name for path in host.iterdir() if re.search(r"@[a-z_]+@", path.read_text())] == []


def test_browser_and_node_read_arrays_by_the_same_code() -> None:
    assert (FOLDER / "web" / "arrays.js").read_text() == (FOLDER / "node" / "arrays.js").read_text()


@pytest.mark.parametrize("name", ["web", "node"])
def test_javascript_refuses_an_operator_without_a_definition(name: str, tmp_path: Path) -> None:
    with pytest.raises(ort_ops.BundleError, match=rf"--for {name} cannot run test::Op: .* loads no library"):
        hosts.write_host(hosts.find_host(name), tmp_path, SimpleNamespace(bodiless=("test::Op",)))
