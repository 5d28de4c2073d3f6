"""Check our service of an MLflow model: ``python docs/examples/mlflow/check_service.py [REQUESTS]``.

It needs mlflow-skinny, pandas, fastapi, uvicorn and prometheus-client. The checks are those of ../fastapi/check.py, by
MLflow's protocol, with 10,000 requests if no number is given.
"""

from __future__ import annotations

import runpy
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
CHECK = runpy.run_path(str(HERE.parent / "fastapi" / "check.py"))


def main(arguments: list[str]) -> int:
    """Save a model, and check the service of it."""
    CHECK["need"]("mlflow", "pandas", "fastapi", "uvicorn", "prometheus-client")
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder, "served")
        runpy.run_path(str(HERE / "check.py"))["save"](saved)
        protocol = CHECK["Protocol"](
            HERE,
            saved,
            "/invocations",
            "inputs",
            "predictions",
            ("/ping", "/health"),
            (('{"inputs": [[1, 2]]}', 400), ('{"inputs": []}', 400), ("no JSON", 400), ('{"inputs": [["a"]]}', 400)),
        )
        return CHECK["check"](protocol, *map(int, arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
