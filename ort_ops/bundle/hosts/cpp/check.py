"""Run the bundle's sample by the program in build/, and compare with its exact values: `python check.py`."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
BUNDLE = HERE.parents[1]
PLATFORM = "@platform@"


def main() -> int:
    """Return 1 if an output is out of its bound."""
    manifest = json.loads((BUNDLE / "manifest.json").read_text())
    libraries = [entry["path"] for entry in manifest["libraries"] if entry["platform"] == PLATFORM]
    runs = [str(BUNDLE / path) for path in libraries]
    if all(entry["has_body"] for entry in manifest["operators"]):
        runs.append("")
    is_right = True
    for library in runs:
        samples = [BUNDLE / entry["sample"] for entry in manifest["inputs"]]
        output = HERE / "build" / "output"
        subprocess.run(
            [HERE / "build" / "host", BUNDLE / manifest["model"]["path"], library, output, *samples], check=True
        )
        for number, entry in enumerate(manifest["outputs"]):
            expected = np.load(BUNDLE / (entry["exact"] or entry["sample"]))
            bound = np.load(BUNDLE / entry["bound"]) if entry["bound"] else np.zeros(expected.shape)
            got = np.fromfile(f"{output}{number}", entry["dtype"]).reshape(expected.shape)
            is_near = bool(((got == expected) | ~(np.abs(got - expected) > bound)).all())
            print(f"{entry['name']} by {Path(library).name or 'its definition'}: {'right' if is_near else 'WRONG'}")
            is_right &= is_near
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
