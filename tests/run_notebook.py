"""Run the cells of a notebook in this process, and write what each shows as one line of JSON.

    python tests/run_notebook.py docs/notebooks/quick_start.ipynb
    python tests/run_notebook.py --clean docs/notebooks/quick_start.ipynb  # take out what Jupyter saved, to commit it

A cell runs as Jupyter runs it: its last expression is shown, by ``_repr_html_`` where it has that. The notebooks have
plain Python alone, no magics, so this is all that they need; Jupyter's own executor (nbclient and ipykernel) would make
the README's install command half a minute longer.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import linecache
import sys
from pathlib import Path
from types import ModuleType
from typing import Any


def main(path: str) -> None:
    """Run every code cell; an exception ends the process, and names its cell and line."""
    cells = [cell for cell in json.loads(Path(path).read_text())["cells"] if cell["cell_type"] == "code"]
    module = sys.modules["__main__"] = ModuleType("__main__")  # warnings about a user's own lines are shown there
    shown: list[dict[str, str]] = []

    def show(value: Any) -> None:
        if value is not None:
            html = value._repr_html_() if hasattr(value, "_repr_html_") else ""
            shown.append({"text": repr(value), "html": html})

    sys.displayhook = show
    for cell in cells:
        source, name = "".join(cell["source"]), f"<cell {cell['id']}>"
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
        shown, printed = [], io.StringIO()
        body = ast.parse(source, name).body
        last = [body.pop()] if body and isinstance(body[-1], ast.Expr) else []
        with contextlib.redirect_stdout(printed):
            exec(compile(ast.Module(body, []), name, "exec", dont_inherit=True), module.__dict__)
            exec(compile(ast.Interactive(list[ast.stmt](last)), name, "single", dont_inherit=True), module.__dict__)
        print(json.dumps({"id": cell["id"], "printed": printed.getvalue(), "shown": shown}), flush=True)


def cleaned(text: str) -> str:
    """Return a notebook without outputs, counts, metadata of cells, and versions; ids of cells stay."""
    notebook = json.loads(text)
    for cell in notebook["cells"]:
        cell["metadata"] = {}
        if cell["cell_type"] == "code":
            cell.update(outputs=[], execution_count=None)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook["metadata"] = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"  # as Jupyter writes it


if __name__ == "__main__":
    if sys.argv[1] == "--clean":
        Path(sys.argv[2]).write_text(cleaned(Path(sys.argv[2]).read_text()))
    else:
        main(sys.argv[1])
