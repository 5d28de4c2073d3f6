"""What is missing of the optional installation is one sentence with the remedy, for commands and for Python."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import onnx
import pytest

from ort_ops.installation import extras, requirements
from ort_ops.models.checks import check_shapes
from ort_ops.opdef.operator import ContractError
from ort_ops.session import InferenceSession
from tests.linear_model import make_linear_model

ROOT = Path(__file__).parents[2]
WITHOUT = """
import importlib.util, sys
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in {missing} else real(name, package)
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {missing}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
{code}
"""


def without(missing: list[str], code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run code where some modules are not installed."""
    command = [sys.executable, "-c", WITHOUT.format(missing=missing, code=code)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", ["adopt", "lower", "verify"])
def test_rewriting_and_verifying_need_onnx_ir_and_no_torch(command: str, tmp_path: Path) -> None:
    onnx.save(make_linear_model(["batch", 2], np.array([[2.0, 3.0]]), np.array([4.0])), tmp_path / "m.onnx")
    outputs = [] if command == "verify" else ["out.onnx"]
    code = f"from ort_ops.cli.main import main; sys.exit(main({[command, 'm.onnx', *outputs]}))"
    done = without(["onnx_ir", "torch"], code, tmp_path)
    if command == "verify" and done.returncode == 0:  # it takes onnx-ir for some models only
        return
    needs = f"`mylinear {command}` needs onnx-ir, and no torch: pip install '.[rewrite]' in ort-mylinear's source"
    assert done.stderr.splitlines()[-1] == f"mylinear: {needs}"
    assert done.returncode == 2


def test_a_page_without_jinja2_is_refused_before_the_work(tmp_path: Path) -> None:
    code = "from ort_ops.cli.main import main; sys.exit(main(['verify', 'missing.onnx', '--html', 'page.html']))"
    done = without(["jinja2", "markupsafe"], code, tmp_path)
    needs = "`mylinear verify` needs jinja2, and no torch: pip install '.[report]' in ort-mylinear's source"
    assert (done.returncode, done.stderr) == (2, f"mylinear: {needs}\n")


def test_a_drawing_without_graphviz_is_refused_before_the_work(tmp_path: Path) -> None:
    code = "from ort_ops.cli.main import main; sys.exit(main(['inspect', 'missing.onnx', '--html', 'page.html']))"
    done = without(["pygraphviz"], code, tmp_path)
    needs = "`mylinear inspect` needs pygraphviz, and no torch: pip install '.[graph]' in ort-mylinear's source"
    assert (done.returncode, done.stderr) == (2, f"mylinear: {needs}\n")


@pytest.mark.parametrize("command", ["inspect", "doctor", "run"])
def test_serving_without_rich_prints_plain_text(command: str, tmp_path: Path) -> None:
    onnx.save(make_linear_model(["batch", 2], np.array([[2.0, 3.0]]), np.array([4.0])), tmp_path / "m.onnx")
    arguments = {"inspect": ["m.onnx"], "doctor": [], "run": ["m.onnx", "--input", "3,2"]}[command]
    code = f"from ort_ops.cli.main import main; sys.exit(main({[command, *arguments]}))"
    done = without(["rich"], code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert {"inspect": "name", "doctor": "package", "run": "16.0"}[command] in done.stdout


@pytest.mark.parametrize("name", ["MyLinear", "export", "swap_linear"])
def test_the_torch_side_of_the_package_says_that_it_needs_torch(name: str, tmp_path: Path) -> None:
    done = without(["torch"], f"import exporter; exporter.{name}", tmp_path)
    said = f"{requirements.__name__}.RequirementError: exporter.{name} needs torch: {extras.install_extra('torch')}"
    assert done.stderr.splitlines()[-1] == said


def test_every_extra_is_one_that_the_project_has() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for module, extra in extras._EXTRAS.items():
        package = extras._PACKAGES.get(module, module)
        assert any(requirement.startswith(package) for requirement in project[extra]), module


def test_no_remedy_names_the_project_as_if_an_index_had_it() -> None:
    files = [*ROOT.glob("ort_ops/**/*.py"), *ROOT.glob("exporter/**/*.py"), *ROOT.glob("docs/*.md"), ROOT / "README.md"]
    assert not [path.name for path in files if "install 'ort-mylinear" in path.read_text()]


def test_another_module_that_is_missing_is_not_explained() -> None:
    assert extras.missing_extra(ModuleNotFoundError("No module named 'x'", name="x"), "it") is None


def test_element_types_that_differ_are_named(tmp_path: Path) -> None:
    model = make_linear_model(["batch", 2], np.array([[2.0, 3.0]]), np.array([4.0]))
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    message = r"MYLINEAR: weight must be float32 \(the dtype of x\), got float64 \(node '.*'\)"
    with pytest.raises(ContractError, match=message):
        check_shapes(model)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ContractError, match=message):
        InferenceSession(tmp_path / "m.onnx")
