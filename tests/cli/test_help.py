"""What helps at the command line and in a prompt: help with examples, completion, ``python -m``, names, results."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch

import exporter
import ort_ops
from exporter.promises.result import OperatorCheck, Outcome, Promise
from exporter.training.data.linear_example import LinearExample
from exporter.training.loop import train
from exporter.training.options import TrainingOptions
from ort_ops.cli.command_line import _parser
from ort_ops.cli.commands import find_commands
from ort_ops.cli.main import main
from ort_ops.console.shown import Shown, to_html
from ort_ops.console.tone import Tone, Toned
from ort_ops.inspection.model import inspect_model
from ort_ops.rewrite.report import Place, Rewrite, Rewritten

COMMAND_LINE = (Path(__file__).parents[2] / "docs" / "command_line.md").read_text()


@pytest.mark.parametrize("command", find_commands())
def test_the_help_of_a_command_has_examples_and_they_can_be_given(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    told = capsys.readouterr().out
    examples = importlib.import_module(find_commands()[command].module).EXAMPLES
    assert examples
    for example in examples:
        assert f"\n  {example}\n" in told
        program, *arguments = shlex.split(example)
        assert (program, _parser(arguments).parse_args(arguments).command) == ("mylinear", command)


@pytest.mark.parametrize("package", ["ort_ops", "exporter"])
def test_a_package_runs_as_the_command(package: str) -> None:
    done = subprocess.run([sys.executable, "-m", package, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: mylinear ")
    assert all(command in done.stdout for command in find_commands())


@pytest.mark.parametrize("package", [ort_ops, exporter])
def test_a_package_lists_its_names(package: Any) -> None:
    assert set(package.__all__) <= set(dir(package))


def test_the_shell_completes_commands_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit):
        main(["--completion", "bash"])
    script = capsys.readouterr().out
    assert "--require-kernel" in script
    words = "COMP_WORDS=(mylinear verify --batch); COMP_CWORD=2; _shtab_mylinear; echo ${COMPREPLY[@]}"
    done = subprocess.run(["bash", "-c", f"{script}\n{words}"], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["--batch-size"], done.stderr


def test_the_docs_way_to_complete_works() -> None:
    pytest.importorskip("shtab")
    (way,) = re.findall(r"```bash\n(eval .*--completion.*)\n```", COMMAND_LINE)
    command = f'mylinear() {{ "{sys.executable}" -m ort_ops "$@"; }}\n{way}\ncomplete -p mylinear'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "_shtab_mylinear mylinear" in done.stdout


def test_completion_without_its_package_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["--completion", "bash"]) == 2
    assert "needs shtab, and no torch: pip install '.[completion]'" in capsys.readouterr().err


# --- Results, in a prompt and in a notebook.


def test_the_functions_that_the_docs_name_return_what_shows_itself() -> None:
    rows = re.findall(r"^\| (?:`\w+`)? ?\| `([\w.]+)\.(\w+)` \|", COMMAND_LINE, re.M)
    assert len(rows) == 10
    for module, name in rows:
        assert issubclass(get_type_hints(getattr(importlib.import_module(module), name))["return"], Shown), name


def test_text_in_a_notebook_is_text() -> None:
    page = to_html(["<script>", (["<b>"], [["&"], [Toned("<i>", Tone.BAD)]])])
    assert "<script>" not in page
    assert "<th>&lt;b&gt;</th>" in page
    assert "<td>&amp;</td>" in page
    assert '<td style="color:#c00;font-weight:bold">&lt;i&gt;</td>' in page


def test_results_show_themselves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.onnx"
    exported = exporter.export(exporter.MyLinear(3, 2), torch.rand(2, 3), path)
    assert repr(exported).startswith(f"{path}: 1 MYLINEAR node, opset 20, IR version 9\noutput  max abs error")
    found = exporter.verify(path, batch_sizes=[2], compile_backend=None)
    assert repr(found).startswith(f"{path}\nbackend ")
    assert repr(found).endswith("parity holds")
    assert "<td>torch eager</td>" in found._repr_html_()
    inspected = inspect_model(path)
    main(["inspect", str(path)])
    assert repr(inspected).split() == [str(path), *capsys.readouterr().out.split()]
    odd = replace(inspected, inputs={"<script>\x1b[2J": "float32"}, path="a&b")
    assert "<script>" not in odd._repr_html_()
    assert "\x1b" not in repr(odd) + odd._repr_html_()
    assert "a&amp;b" in odd._repr_html_()


def test_a_training_shows_its_metrics(tmp_path: Path) -> None:
    trained = train(LinearExample(), TrainingOptions(epochs=1))
    assert repr(trained).startswith("1 epochs by torch\nmetric ")
    assert "<th>metric</th>" in trained._repr_html_()
    model = torch.nn.Linear(3, 2)
    example = torch.rand(4, 3), torch.rand(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = exporter.export_training(model, torch.nn.MSELoss(), optimizer, example, tmp_path / "step.onnx")
    assert repr(step).startswith(f"{tmp_path / 'step.onnx'}: one training step")
    assert "<th>operator</th><th>nodes</th>" in step._repr_html_()


def test_a_rewrite_and_a_check_of_promises_show_themselves() -> None:
    rewrite = Rewrite([Rewritten("p", Place(), "MatMul+Add")], num_nodes_before=3, num_nodes_after=2)
    assert repr(rewrite).endswith("3 nodes became 2, 1 rewritten, 0 left alone")
    assert "<td>MatMul+Add</td>" in rewrite._repr_html_()
    assert repr(Rewrite()).startswith("nothing to rewrite\n")
    check = OperatorCheck("my.ops::AXPY", (Promise("kernel", "cpp", Outcome.BROKEN, "1 < 2"),))
    assert repr(check).endswith("my.ops::AXPY BREAKS kernel (cpp)")
    assert 'font-weight:bold">BROKEN</td><td>1 &lt; 2</td>' in check._repr_html_()
