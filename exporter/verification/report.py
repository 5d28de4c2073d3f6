"""Write the result of the proof as JUnit XML for pipelines, and as a page with histograms and the graph."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from exporter.verification.result import Verification
from ort_ops.console.html_report import Section, write_report
from ort_ops.console.terminal import printable


def to_junit(result: Verification) -> str:
    """Return the result as JUnit XML: a test case for each row, and a failed one for each untested node."""
    wrong = [row for row in result.rows if row.is_violated]
    skipped = [row for row in result.rows if row.comparison is None]
    counts = {
        "tests": len(result.rows) + len(result.untested),
        "failures": len(wrong) + (0 if result.allow_untested else len(result.untested)),
        "skipped": len(skipped) + (len(result.untested) if result.allow_untested else 0),
        "errors": 0,
    }
    attributes = {"name": "mylinear verify", **{key: str(count) for key, count in counts.items()}}
    suite = ElementTree.Element("testsuite", attributes)
    for row in result.rows:
        names = {"classname": f"{result.path}.{row.backend}", "name": row.inputs}
        case = ElementTree.SubElement(suite, "testcase", {key: printable(name) for key, name in names.items()})
        if row.comparison is None:
            ElementTree.SubElement(case, "skipped", message=printable(str(row.reason)))
        elif row.is_violated:
            ElementTree.SubElement(case, "failure", message=printable(row.verdict))
    for node, reason in result.untested.items():  # skipped, and so still visible, where they are allowed
        names = {"classname": f"{result.path}.every backend", "name": f"node '{node}'"}
        case = ElementTree.SubElement(suite, "testcase", {key: printable(name) for key, name in names.items()})
        outcome = "skipped" if result.allow_untested else "failure"
        ElementTree.SubElement(case, outcome, message=printable(f"untested: {reason}"))
    text: bytes = ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)
    return text.decode()


def write_html(result: Verification, path: str | Path) -> None:
    """Write one page that opens offline: table, histograms of the errors, and the graph. Raises: OutputError."""
    from exporter.verification.drawings import graph, histograms

    conclusion = result.conclusion()
    remarks = [*result.untested_lines(), *result.notes]
    header, rows = result.table()
    write_report(
        path,
        f"Parity of {Path(result.path).name}",
        f"{conclusion[0].upper()}{conclusion[1:]}. Bound of the whole model's outputs: {result.bound}; of each "
        "node alone: its own.",
        [
            *([Section("What was not tested", "; ".join(remarks))] if remarks else []),
            Section("Every backend on every input", "", header, rows),
            Section(
                "How large the errors are",
                "Values by the size of their error in units of the bound. Beyond 1, in red, a backend is wrong.",
                markup=histograms(result),
            ),
            Section("The graph", "Nodes in the order in which they run; those at which a backend diverges are red.",
                    markup=graph(result)),
        ],
    )  # fmt: skip
