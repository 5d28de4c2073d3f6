"""Send the bundle's sample to a running server, and compare: `python check.py http://localhost:8000`.

It speaks the HTTP protocol of Triton and KServe (version 2), and needs numpy alone. Its JSON has no 16-bit numbers.
"""

import json
import sys
import urllib.request
from pathlib import Path

import numpy as np

BUNDLE = Path(__file__).resolve().parents[2]
NAMES = {"bool": "BOOL", "float32": "FP32", "float64": "FP64", "string": "BYTES"}


def main(server: str) -> int:
    """Ask once; return 1 if an output is out of its bound."""
    manifest = json.loads((BUNDLE / "manifest.json").read_text())
    inputs = []
    for entry in manifest["inputs"]:
        array = np.load(BUNDLE / entry["sample"])
        datatype = NAMES.get(entry["dtype"], entry["dtype"].upper())
        inputs.append(
            {"name": entry["name"], "shape": array.shape, "datatype": datatype, "data": array.ravel().tolist()}
        )
    url = f"{server}/v2/models/{manifest['name']}/infer"
    request = urllib.request.Request(url, json.dumps({"inputs": inputs}).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        got = {entry["name"]: entry for entry in json.load(answer)["outputs"]}
    for entry in manifest["outputs"]:
        expected = np.load(BUNDLE / (entry["exact"] or entry["sample"]))
        bound = np.load(BUNDLE / entry["bound"]) if entry["bound"] else np.zeros(expected.shape)
        value = np.array(got[entry["name"]]["data"]).reshape(got[entry["name"]]["shape"])
        is_right = value.shape == expected.shape and ((value == expected) | ~(np.abs(value - expected) > bound)).all()
        print(f"{entry['name']}: {'within its bound' if is_right else 'WRONG'}")
        if not is_right:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
