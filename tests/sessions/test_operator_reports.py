"""What `mylinear doctor`, `inspect` and `run` say of operators of other packages."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import pytest

import ort_ops
from ort_ops.cli import main as cli
from ort_ops.errors import MylinearError
from ort_ops.inspection import doctor
from ort_ops.inspection.model import GateError, inspect_model, require_kernel
from ort_ops.native import library as native
from ort_ops.opdef import registry
from tests.sessions.operator_kits import (
    DOMAIN,
    affine_kit,
    affine_node,
    chain,
    linear_node,
    make_kit,
    negate_kit,
    negate_node,
    registered,
)

pytestmark = pytest.mark.skipif(not native.status().is_usable, reason=f"no C++ library: {native.status().reason}")
AFFINE, LINEAR = f"{DOMAIN}::Affine", "mylinear::MYLINEAR"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "m.onnx").write_bytes(chain(linear_node(), affine_node(shift=True), affine_node(3.0)))
    return tmp_path / "m.onnx"


def test_inspect_describes_nodes_of_any_operator(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with registered(affine_kit()):
        found = inspect_model(path)
        assert [node.operator for node in found.nodes] == [LINEAR, AFFINE, AFFINE]
        first, second = found.nodes[1:]
        assert (first.attributes, second.attributes) == ({"alpha": 2.0}, {"alpha": 3.0})
        assert second.inputs["shift"] is None
        shift = first.inputs["shift"]
        assert shift is not None
        assert (shift.value, shift.dtype, shift.shape, shift.nbytes, shift.is_stored) == (
            "S",
            "float32",
            "[3]",
            12,
            True,
        )
        assert first.dtypes == {"T": "float32"}
        assert found.running.kernels == {LINEAR: "cpp", AFFINE: "python"}
        assert found.running.kernel == "cpp, python"
        assert cli.main(["inspect", str(path)]) == 0
        out = capsys.readouterr().out
        assert f"here       {LINEAR} by the cpp kernel, {AFFINE} by the python kernel, on CPU" in out
        header = next(line for line in out.splitlines() if line.startswith("Affine "))
        assert header.split() == ["Affine", "where", "x", "shift", "y", "alpha", "dtype", "bytes", "kernel"]


def test_json_has_the_old_keys_and_the_new(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with registered(affine_kit()):
        assert cli.main(["inspect", str(path), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
    assert set(found) >= {
        "path",
        "inputs",
        "outputs",
        "opsets",
        "operators",
        "linear",
        "body",
        "running",
        "faults",
        "gate",
    }
    (linear,) = found["linear"]
    assert linear == {
        "name": "linear",
        "where": "main graph",
        "x": "[batch, 3]",
        "weight": "[3, 3]",
        "y": "[batch, 3]",
        "dtype": "float32",
        "nbytes": 36,
        "weight_from": "initializer 'W'",
    }
    assert [node["operator"] for node in found["nodes"]] == [LINEAR, AFFINE, AFFINE]
    assert found["running"]["kernels"] == {LINEAR: "cpp", AFFINE: "python"}
    assert found["operators"] == {LINEAR: 1, AFFINE: 2}


def test_the_gate_holds_for_all_operators(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with registered(affine_kit(), negate_kit()):
        with pytest.raises(GateError, match=f"{AFFINE} would run by the python kernel here, not by cpp"):
            require_kernel(inspect_model(path), "cpp")
        with pytest.raises(GateError, match=f"{LINEAR} would run by the cpp kernel here, not by python"):
            require_kernel(inspect_model(path), "python")
        (tmp_path / "python.onnx").write_bytes(chain(affine_node(), negate_node()))
        assert cli.main(["inspect", str(tmp_path / "python.onnx"), "--require-kernel", "python"]) == 0
        assert cli.main(["inspect", str(path), "--require-kernel", "python"]) == 1
        assert "gate       " in capsys.readouterr().out


def test_a_node_that_breaks_its_contract_is_a_fault(tmp_path: Path) -> None:
    node = affine_node()
    node.attribute[0].name = "beta"
    (tmp_path / "m.onnx").write_bytes(chain(node))
    with registered(affine_kit()):
        (fault,) = inspect_model(tmp_path / "m.onnx").faults
    assert "Affine: the attributes must be among alpha, got beta" in fault


def test_run_says_which_kernel_ran_each_operator(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with registered(affine_kit()):
        assert cli.main(["run", str(path), "--input", "1,-2,3", "--output", str(path.parent / "y.csv")]) == 0
    assert capsys.readouterr().err.endswith("y.csv: 1 row, MYLINEAR by the cpp kernel, Affine by the python kernel\n")
    assert (path.parent / "y.csv").read_text().splitlines()[1] == "9.0,-6.0,27.0"


def test_doctor_lists_every_operator(capsys: pytest.CaptureFixture[str]) -> None:
    with registered(affine_kit()):
        assert cli.main(["doctor", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert cli.main(["doctor"]) == 0
        out = capsys.readouterr().out
    assert [entry["operator"] for entry in found["operators"]] == [kit.operator.op_type for kit in registry.kits()] + [
        AFFINE
    ]
    affine = found["operators"][-1]
    assert (affine["version"], affine["package"]) == (1, "test-kits")
    assert [(kernel["name"], kernel["is_available"]) for kernel in affine["kernels"]] == [
        ("python", True),
        ("body", True),
    ]
    assert "test.kits::Affine" in out
    assert "python, body" in out


def test_doctor_names_a_kernel_of_another_package_that_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    def library() -> str:
        raise MylinearError("test-kits was installed without its library; install it again")

    with registered(make_kit(affine_kit().operator, library=library)):
        assert cli.main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "fault    the cpp kernel of test.kits::Affine is not available" in out
    assert "remedy   test-kits was installed without its library; install it again" in out


class _Entry:
    """An entry point of an installed package."""

    group = registry.GROUP

    def __init__(self, name: str, load: object) -> None:
        self.name, self.value, self._load, self.dist = name, "broken_package:KITS", load, None

    def load(self) -> object:
        if isinstance(self._load, Exception):
            raise self._load
        return self._load


@pytest.mark.parametrize(
    ("load", "reason"),
    [
        (ModuleNotFoundError("No module named 'broken_package'"), "No module named 'broken_package'"),
        ("text", "must name an OperatorKit"),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
    ],
    ids=["no module", "no kit", "raises"],
)
def test_an_entry_point_that_does_not_load_is_a_fault_and_nothing_else_suffers(
    load: object, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = metadata.entry_points
    monkeypatch.setattr(
        registry.metadata,
        "entry_points",
        lambda **wanted: [_Entry("broken", load)] if wanted == {"group": registry.GROUP} else real(**wanted),
    )
    for name, value in (("_kits", {}), ("_failures", {}), ("_is_loaded", False)):
        monkeypatch.setattr(registry, name, value)
    assert cli.main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "fault    the operators of entry point 'broken' of group mylinear.operators do not load" in out
    assert reason in out
    assert "remedy   mend or uninstall the package that has this entry point" in out
    assert doctor.diagnose().operators[0]["operator"] == LINEAR
    assert ort_ops.InferenceSession(chain(linear_node())).kernels == {LINEAR: "cpp"}
