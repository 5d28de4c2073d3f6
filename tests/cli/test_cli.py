"""The command line as a user types it: the whole path, exit statuses, and one message for each mistake."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import onnx
import pytest

from ort_ops.cli import main as cli
from ort_ops.cli.commands import find_commands
from tests.linear_model import make_linear_model

MYLINEAR = Path(sys.executable).with_name("mylinear")


def typed(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the installed command."""
    return subprocess.run([MYLINEAR, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture
def linear_onnx(tmp_path: Path) -> Path:
    onnx.save(make_linear_model(["batch", 2], np.array([[2.0, 3.0]]), np.array([4.0])), tmp_path / "linear.onnx")
    return tmp_path / "linear.onnx"


@pytest.mark.long
@pytest.mark.parametrize("engine", ["dynamo", "torchscript"])
def test_train_export_run_verify_by_hand(engine: str, tmp_path: Path) -> None:
    trained = typed("train", "linear", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert "learned" in trained.stdout
    assert {p.name for p in (tmp_path / "mylinear-train").iterdir()} == {"checkpoint.pt", "loss.csv", "loss.png"}
    opset = ["--opset", "11"] if engine == "torchscript" else []
    exported = typed("export", "mylinear-train/checkpoint.pt", "linear.onnx", "--engine", engine, *opset, cwd=tmp_path)
    assert exported.returncode == 0, exported.stderr
    assert "1 MYLINEAR node," in exported.stdout
    served = typed("run", "linear.onnx", "--input", "3,2", cwd=tmp_path)
    assert served.returncode == 0, served.stderr
    assert float(served.stdout.splitlines()[1]) == pytest.approx(16, abs=0.2)
    proven = typed("verify", "linear.onnx", "--checkpoint", "mylinear-train/checkpoint.pt", cwd=tmp_path)
    assert proven.returncode == 0, proven.stderr
    assert "parity holds" in proven.stdout
    for backend in ("torch eager", "reference", "python", "body"):
        assert backend in proven.stdout


@pytest.mark.long
def test_digits_take_raw_rows_from_training_to_serving(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    checkpoint, model, rows, output = (str(tmp_path / name) for name in ("checkpoint.pt", "m.onnx", "x.csv", "y.npy"))
    assert cli.main(["train", "digits", "--epochs", "8", "--output", str(tmp_path)]) == 0
    assert cli.main(["export", checkpoint, model]) == 0
    digits = load_digits()
    np.savetxt(rows, digits.data, delimiter=",")
    assert cli.main(["run", model, "--input", rows, "--output", output]) == 0
    assert (np.load(output)["class"].astype(int) == digits.target).mean() > 0.9
    assert cli.main(["run", model, "--input", rows, "--output", output, "--raw"]) == 0
    assert (np.load(output).argmax(1) == digits.target).mean() > 0.9
    assert cli.main(["verify", model, "--checkpoint", checkpoint]) == 0


class Links(HTMLParser):
    """Collects what a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]


@pytest.mark.long
def test_demo_leaves_what_the_readme_says(tmp_path: Path) -> None:
    done = typed("demo", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "parity holds" in done.stdout
    learned = re.findall(r"in 300 steps of (\w+): learned \(1\.9955, 2\.9841, 4\.0095\), true", done.stdout)
    assert learned == ["torch", "onnxruntime"]
    for kind in ("loss", "parameters", "optimizer state"):
        assert re.search(rf"^{kind} +\S+ +0(\.\d+)? +(ok|same bits)$", done.stdout, re.MULTILINE), kind
    folder = tmp_path / "mylinear-demo"
    names = {"checkpoint.pt", "linear.onnx", "loss.csv", "loss.png", "parity.png", "report.html"}
    assert {path.name for path in folder.iterdir()} == names
    assert all(path.stat().st_size > 100 for path in folder.iterdir())
    links = Links()
    links.feed((folder / "report.html").read_text())
    assert len(links.sources) == 2
    assert all(source.startswith("data:image/png;base64,") for source in links.sources)
    assert "demo" in done.stderr, "progress is shown"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "missing.onnx", "--input", "1,2"], "'missing.onnx': there is no such file"),
        (["verify", "missing.onnx"], "'missing.onnx': there is no such file"),
        (["run", "text.onnx", "--input", "1,2"], "'text.onnx' is not an ONNX model"),
        (["verify", "text.onnx"], "'text.onnx' is not an ONNX model"),
        (["verify", "plain.onnx"], "'plain.onnx' has no node of a registered operator"),
        (["run", "future.onnx", "--input", "1,2"], "the version of domain 'mylinear' must be 1 to 2, got 9"),
        (["verify", "future.onnx"], "the version of domain 'mylinear' must be 1 to 2, got 9"),
        (["run", "linear.onnx", "--input", "1,2,3"], "must have 2 numbers, got 3"),
        (["run", "linear.onnx", "--input", "rows.csv"], "there is no file 'rows.csv'"),
        (["run", "linear.onnx", "--input", "empty.csv"], "'empty.csv' has no rows"),
        (
            ["run", "linear.onnx", "--input", "words.csv"],
            "'words.csv' line 2, column 1 must be a finite number, got 'one'",
        ),
        (["run", "linear.onnx", "--input", "1,2", "--kernels", "rust"], "kernels must be auto"),
        (["run", "linear.onnx", "--input", "1,2", "--output", "text.onnx/y.csv"], "part of the path is a file"),
        (["verify", "linear.onnx", "--checkpoint", "missing.pt"], "there is no checkpoint 'missing.pt'"),
        (["verify", "linear.onnx", "--checkpoint", "text.onnx"], "'text.onnx' is not a checkpoint"),
        (["export", "missing.pt", "out.onnx"], "there is no checkpoint 'missing.pt'"),
        (["export", "text.onnx", "out.onnx"], "'text.onnx' is not a checkpoint"),
        (["train"], "say what to train on"),
        (["train", "--data", "missing.csv", "--target", "y"], "missing.csv"),
        (["demo", "--output", "text.onnx"], "text.onnx"),
        (["demo", "--output", ""], "the path of the output folder is empty; name a folder"),
        (["export", "", "out.onnx"], "the path of the checkpoint is empty"),
        (["verify", "linear.onnx", "--checkpoint", ""], "the path of the checkpoint is empty"),
        (["verify", "linear.onnx", "--inputs", ""], "the path of the file is empty"),
        (["train", "--data", "", "--target", "y"], "the path of the data file is empty"),
        (["run", "", "--input", "1,2"], "the path of the model is empty"),
        (["bench", "--model", ""], "the path of the model is empty"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_gives_one_line_and_status_2(
    arguments: list[str],
    message: str,
    linear_onnx: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = linear_onnx.parent
    monkeypatch.chdir(folder)
    model = onnx.load(linear_onnx)
    model.opset_import[1].version = 9
    onnx.save(model, "future.onnx")
    model.graph.node[0].op_type, model.graph.node[0].domain = "Identity", ""
    del model.graph.node[0].input[1:]
    onnx.save(model, "plain.onnx")
    Path("text.onnx").write_text("no model")
    Path("empty.csv").write_text("a,b\n")
    Path("words.csv").write_text("a,b\none,two\n")
    before = sorted(folder.iterdir())
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert sum(line.startswith("mylinear: ") for line in error.splitlines()) == 1
    assert sorted(folder.iterdir()) == before, "something half-written was left"


def test_a_violated_bound_gives_status_1(linear_onnx: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = onnx.load(linear_onnx)
    model.functions[0].node[-1].op_type = "Sub"
    onnx.save(model, linear_onnx)
    assert cli.main(["verify", str(linear_onnx)]) == 1
    assert "parity is VIOLATED" in capsys.readouterr().out


USAGE_MISTAKES: list[list[str]] = [
    [],
    ["fly"],
    ["run"],
    ["run", "m.onnx"],
    ["export", "a"],
    ["train", "--hidden", "x"],
    ["inspect", "m.onnx", "--provider", "Nope"],
    ["inspect", "m.onnx", "--require-kernel", "nope"],
    ["inspect", "m.onnx", "--require-kernel", ""],
    ["verify", "m.onnx", "--seed", "-1"],
    ["verify", "m.onnx", "--seed", str(2**64)],
]


@pytest.mark.parametrize("arguments", USAGE_MISTAKES, ids=str)
def test_usage_mistakes_give_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("mylinear: ")
    assert error.endswith(" --help` says what there is\n")
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", [*find_commands(), ""])
def test_help_needs_no_torch(command: str, tmp_path: Path) -> None:
    code = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "onnxscript", "sklearn", "matplotlib"):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
from ort_ops.cli.main import main
main({[*command.split(), "--help"]})
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage: mylinear" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["run", "linear.onnx", "--input", "3,2"], 0, ""),
        (["verify", "linear.onnx"], 0, ""),
        (["train", "linear"], 2, "`mylinear train` needs torch: pip install '.[export]' in ort-mylinear's source"),
        (["demo"], 2, "`mylinear demo` needs torch: pip install '.[export]' in ort-mylinear's source"),
    ],
    ids=str,
)
def test_without_torch_models_are_served_and_training_says_what_it_needs(
    arguments: list[str], status: int, message: str, linear_onnx: Path
) -> None:
    code = f"""
import sys, importlib.util
real = importlib.util.find_spec
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
importlib.util.find_spec = lambda name, package=None: None if name == "torch" else real(name, package)
from ort_ops.cli.main import main
sys.exit(main({arguments}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=linear_onnx.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_closed_pipe_is_no_traceback(linear_onnx: Path) -> None:
    np.save(linear_onnx.with_name("rows.npy"), np.zeros((200_000, 2)))
    command = f"'{MYLINEAR}' run linear.onnx --input rows.npy | head -n 2"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=linear_onnx.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "y\n4.0\n"
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_ctrl_c_gives_status_130(
    linear_onnx: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ort_ops.prediction.predict.predict", interrupt)
    assert cli.main(["run", str(linear_onnx), "--input", "1,2"]) == 130
    assert "mylinear: interrupted" in capsys.readouterr().err


def test_the_version_is_printed(tmp_path: Path) -> None:
    assert typed("--version", cwd=tmp_path).stdout.startswith("mylinear 0.")
