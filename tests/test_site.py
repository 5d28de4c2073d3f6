"""The site of docs/ is built strictly: faults of a page are errors, and every public name is in the API reference."""

from __future__ import annotations

import inspect
import os
import re
import runpy
import subprocess
import sys
import zlib
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import exporter
import ort_ops

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True, scope="module")
def _needs_the_extra() -> None:
    pytest.importorskip("mkdocs", reason="needs the extra docs")


def mkdocs(*arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Build the site strictly."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Return every name that the API reference explains, from the site's inventory (in Sphinx's format).

    CI has just built the site, and names it in MYLINEAR_SITE.
    """
    site = Path(os.environ.get("MYLINEAR_SITE") or tmp_path_factory.mktemp("site"))
    if "MYLINEAR_SITE" not in os.environ:
        done = mkdocs("--site-dir", site)
        assert done.returncode == 0, done.stderr
    packed = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    return {line.split(" ")[0] for line in zlib.decompress(packed).decode().splitlines()}


def public_names(package: ModuleType) -> set[str]:
    """Return the public names of a package, and of its classes what these define that others may use."""
    found = set()
    for name in package.__all__:
        value = getattr(package, name)
        found.add(f"{package.__name__}.{name}")
        if inspect.isclass(value) and value.__module__.split(".")[0] == package.__name__:
            found |= {f"{package.__name__}.{name}.{own}" for own in vars(value) if not own.startswith("_")}
    return found


@pytest.mark.parametrize("package", [ort_ops, exporter], ids=lambda package: package.__name__)
def test_every_public_name_is_in_the_reference(package: ModuleType, names: set[str]) -> None:
    assert set(package.__all__) <= set(dir(package))
    assert public_names(package) - names == set()


def test_what_a_package_imports_is_in_the_reference(names: set[str]) -> None:
    imported = set()
    for path in [ROOT / "docs" / "operators.md", *(ROOT / "ort_ops" / "scaffold" / "templates").glob("*.py.jinja")]:
        for module, listed in re.findall(r"^from ((?:ort_ops|exporter)\.[\w.]+) import (.*)$", path.read_text(), re.M):
            imported |= {(module, name) for name in re.findall(r"\w+", re.sub(r"{{ \"|\".*?}}", "", listed))}
    assert ("ort_ops.opdef.operator", "Operator") in imported
    assert ("ort_ops.opdef.operator", "Attribute") in imported
    missing = set()
    for module, name in imported:
        value = getattr(import_module(module), name)
        defined = getattr(value, "__module__", module)
        if not {f"{module}.{name}", f"{defined}.{name}"} & names:
            missing.add(f"{module}.{name}")
    assert missing == set()


def test_docstrings_of_our_style_become_markdown() -> None:
    docstring = "Do it.\nRaises: ValueError as in `register`.\n\nArgs:\n    a, b: both.\n\n>>> f(\n... )\n1"
    markdown = "Do it.\n\n**Raises:** ValueError as in [`register`][ort_ops.register].\n\n"
    markdown += "Args:\n    a: both.\n    b: both.\n\n```pycon\n>>> f(\n... )\n1\n```"
    assert runpy.run_path(str(ROOT / "docs" / "site" / "docstrings.py"))["in_markdown"](docstring) == markdown


def small_site(folder: Path, page: str) -> subprocess.CompletedProcess[str]:
    """Build a site of one page, by the configuration of the whole one."""
    (folder / "docs").mkdir()
    (folder / "docs" / "index.md").write_text(page)
    (folder / "mkdocs.yml").write_text(
        f"INHERIT: {ROOT}/mkdocs.yml\nhooks: [{ROOT}/docs/site/hooks.py]\nplugins: [search]\nnav: [index.md]\n"
    )
    return mkdocs(cwd=folder)


def test_a_link_to_a_file_outside_docs_leads_to_its_page(tmp_path: Path) -> None:
    page = "# Here\n\n[a](../ort_ops/errors.py), [b](../tests/data), [c](../models/README.md#models), [d](#here)\n"
    page += "\n```cpp\n[&](../no/link)\n```\n"
    done = small_site(tmp_path, page)
    assert done.returncode == 0, done.stderr
    site = tmp_path / "site" / "repository"
    assert "MylinearError" in (site / "ort_ops" / "errors.py.html").read_text()
    assert (site / "tests" / "data.html").exists()
    assert 'href="repository/ort_ops/errors.py.html"' in (tmp_path / "site" / "index.html").read_text()


def test_a_screenshot_is_shown_where_a_check_has_left_one(tmp_path: Path) -> None:
    image = ROOT / "build" / f"test-site-{os.getpid()}.png"
    image.parent.mkdir(exist_ok=True)
    data = b"\x89PNG\r\n\x1a\n\xff"
    image.write_bytes(data)
    page = f"# Here\n\n<!-- screenshot build/{image.name}: a page -->\n<!-- screenshot build/no-such.png: no page -->\n"
    try:
        done = small_site(tmp_path, page)
    finally:
        image.unlink()
    assert done.returncode == 0, done.stderr
    html = (tmp_path / "site" / "index.html").read_text()
    assert re.search(rf'<img alt="a page" src="repository/build/{image.name}"', html)
    assert (tmp_path / "site" / "repository" / "build" / image.name).read_bytes() == data
    assert "no-such.png" not in html


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("[a](no_page.md)", "no_page.md"),
        ("[a](../ort_ops/no_file.py)", "no_file.py"),
        ("[a](../models/README.md#no-heading)", "#no-heading"),
        ("[a](#no-heading)", "#no-heading"),
        ("![a](https://example.org/a.png)", "loads something from another host"),
    ],
)
def test_a_fault_of_a_page_is_an_error(tmp_path: Path, fault: str, message: str) -> None:
    done = small_site(tmp_path, f"# Here\n\n{fault}\n")
    assert done.returncode != 0
    assert message in done.stderr
