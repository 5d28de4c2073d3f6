"""Hooks of mkdocs: let pages link to files outside docs/, and keep the site free of other hosts.

On GitHub a page links to `../ort_ops/session.py`. The site has such a file as a page, `repository/ort_ops/session.py`,
so the link works without a network, shows the source that the page was written for, and is checked like every other.
A link to a file that is not there stays as it is, and `mkdocs build --strict` refuses it. Entries of `nav` in
mkdocs.yml that begin with `repository/` name files outside docs/ too, such as the changelog. A notebook is a page of
its text and code.

No image is committed. A comment `<!-- screenshot build/PATH.png: what it shows -->` of a page becomes the image where a
check of the examples has left it there, and nothing where none has.
"""

from __future__ import annotations

import json
import logging
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

log = logging.getLogger("mkdocs.hooks.site")  # a warning is an error in strict mode

ROOT = Path(__file__).parents[2]
REPOSITORY = "repository/"
LANGUAGES = {
    ".py": "python",
    ".js": "javascript",
    ".mjs": "javascript",
    ".html": "html",
    ".css": "css",
    ".cc": "cpp",
    ".h": "cpp",
    ".cu": "cpp",
    ".toml": "toml",
    ".cmake": "cmake",
    ".sh": "bash",
}
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")
FENCED = re.compile(r"(^```.*?^```$)", re.S | re.M)
SCREENSHOT = re.compile(r"<!-- screenshot (build/[\w/.-]+\.png): ([^<>]+) -->")
ELSEWHERE = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?https?://[^>]*>|<link\b[^>]*stylesheet[^>]*https?://[^>]*>"
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each file outside docs/ that the navigation or a page links to."""
    waiting = [name.removeprefix(REPOSITORY) for name in _strings(config.nav) if name.startswith(REPOSITORY)]
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        uri = _uri(f"docs/{notebook.src_uri}")
        files.append(File.generated(config, uri, content=_notebook(notebook.content_string)))
    for file in files.documentation_pages():
        waiting += _linked(file.content_string, f"docs/{file.src_uri}")
    shown = {shot[1] for file in files.documentation_pages() for shot in SCREENSHOT.finditer(file.content_string)}
    for name in sorted(name for name in shown if (ROOT / name).is_file()):
        files.append(File.generated(config, _uri(name), content=(ROOT / name).read_bytes()))
    done = set()
    while waiting:
        name = waiting.pop()
        if name in done or _is_in_docs(name):
            continue
        done.add(name)
        content = _content(name)
        uri = _uri(name)
        files.append(File.generated(config, uri, content=content, inclusion=InclusionLevel.NOT_IN_NAV))
        if isinstance(content, str) and (name.endswith(".md") or (ROOT / name).is_dir()):
            waiting += _linked(content, name)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let the links of a page lead to the site's pages of what they name in the repository."""
    here = page.file.src_uri
    name = here.removeprefix(REPOSITORY) if here.startswith(REPOSITORY) else f"docs/{here}"

    def to_page(link: re.Match[str]) -> str:
        target = _target(link[1], name)
        return posixpath.relpath(_uri(target), posixpath.dirname(here)) + (link[2] or "") if target else link[0]

    def to_image(shot: re.Match[str]) -> str:
        if not (ROOT / shot[1]).is_file():
            return ""
        return f"![{shot[2]}]({posixpath.relpath(_uri(shot[1]), posixpath.dirname(here))})"

    markdown = SCREENSHOT.sub(to_image, markdown)
    parts = FENCED.split(markdown)  # each second part is a block of code
    return "".join(part if i % 2 else LINK.sub(to_page, part) for i, part in enumerate(parts))


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuse what a reader's browser would fetch from another host."""
    for element in ELSEWHERE.findall(output):
        log.warning("%s loads something from another host: %s", page.file.src_uri, element)
    return output


def _strings(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    elif nav is not None:
        for item in nav.values() if isinstance(nav, dict) else nav:
            yield from _strings(item)


def _linked(markdown: str, name: str) -> list[str]:
    """Return what a page of the repository links to, as paths from its top."""
    prose = "".join(FENCED.split(markdown)[::2])
    return [target for link in LINK.finditer(prose) if (target := _target(link[1], name))]


def _target(link: str, name: str) -> str | None:
    """Return the path, from the repository's top, of what the page ``name`` links to; None if there is no such file."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(name), link))
    return target if not target.startswith("..") and (ROOT / target).exists() else None


def _is_in_docs(name: str) -> bool:
    """Return whether mkdocs itself puts the file on the site."""
    is_code = name.startswith(("docs/site/", "docs/examples/")) and not name.endswith(".md")
    return name.startswith("docs/") and not is_code


def _uri(name: str) -> str:
    """Return the site's path of a file of the repository."""
    if _is_in_docs(name):
        return re.sub(r"\.ipynb$", ".md", name.removeprefix("docs/"))
    return f"{REPOSITORY}{name}" + ("" if name.endswith(".md") or _text(name) is None else ".md")


def _content(name: str) -> str | bytes:
    """Return the page of a file outside docs/: Markdown as it is, code as one block, a folder as a list."""
    text = _text(name)
    if text is None:
        return (ROOT / name).read_bytes()
    if name.endswith(".md"):
        return text
    head = f"---\nsearch:\n  exclude: true\n---\n\n# {name}\n\n"
    if (ROOT / name).is_dir():
        return head + text
    fence = "~" * max(4, *(len(run) + 1 for run in re.findall(r"~+", text)), 4)
    return f"{head}{fence}{LANGUAGES.get(Path(name).suffix, 'text')}\n{text}\n{fence}\n"


def _notebook(text: str) -> str:
    """Return the Markdown of a notebook: its text, and its code in blocks."""
    cells = ((cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"])
    return "\n\n".join(f"```python\n{source}\n```" if kind == "code" else source for kind, source in cells)


def _text(name: str) -> str | None:
    """Return the text of a file, the list of a folder, or None for bytes."""
    path = ROOT / name
    if path.is_dir():
        inside = sorted(item.name for item in path.iterdir() if item.name[0] not in "._" or item.suffix == ".py")
        return "\n".join(f"- [{item}]({posixpath.basename(name)}/{item})" for item in inside)
    try:
        return path.read_text()
    except UnicodeDecodeError:
        return None
