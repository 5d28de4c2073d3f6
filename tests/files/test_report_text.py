"""Reports stay well-formed whatever a model's names are."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from exporter.verification.reasons import Unavailable
from exporter.verification.report import to_junit, write_html
from exporter.verification.result import GraphNode, Verification
from exporter.verification.row import Row
from ort_ops.console.report_text import json_text

NAME = "a\x00\x1b[31m<&\"'>\n\uffff\udcff"
SHOWN = "a\\x00\\x1b[31m<&\"'>\\n\\uffff\\udcff"


@pytest.fixture
def result() -> Verification:
    row = Row(f"backend {NAME}", f"batch {NAME}", None, Unavailable(f"no kernel {NAME}"))
    return Verification(
        path=f"{NAME}.onnx", rows=[row], bound="a bound", nodes=[GraphNode(NAME, "MYLINEAR", (), (NAME,))]
    )


def test_junit(result: Verification, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("locale.getpreferredencoding", lambda *_: "ANSI_X3.4-1968")
    monkeypatch.setattr("locale.getencoding", lambda: "ANSI_X3.4-1968")
    text = to_junit(result)
    assert text.splitlines()[0] == "<?xml version='1.0' encoding='utf-8'?>", "whatever the locale is"
    case = ElementTree.fromstring(text.encode()).find("testcase")
    assert case is not None
    assert case.get("name") == f"batch {SHOWN}"


def test_html(result: Verification, tmp_path: Path) -> None:
    write_html(result, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "no kernel a\\x00\\x1b[31m&lt;&amp;&#34;&#39;&gt;\\n\\uffff\\udcff" in page
    assert page.replace("\n", "").isprintable()


def test_json(result: Verification) -> None:
    text = result.to_json()
    assert "\\udcff" not in text.replace("\\\\udcff", ""), "no half of a surrogate pair, which strict readers refuse"
    assert json.loads(text)["rows"][0]["inputs"] == "batch " + NAME.replace("\udcff", "\\udcff")
    assert json.loads(json_text({"a": ["\U0001f600", 1.5, None, True]})) == {"a": ["\U0001f600", 1.5, None, True]}
    with pytest.raises(ValueError, match="JSON compliant"):
        json_text([float("nan")])
