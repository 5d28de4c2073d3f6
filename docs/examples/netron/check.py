"""Open a model in Netron and read what it shows: ``python docs/examples/netron/check.py``.

It needs Netron (``pip install netron``), Node.js with npm, and Chromium. It compares name, type, domain, attribute,
inputs and definition of our node with the file, and leaves a screenshot, build/netron/node.png.
"""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import onnx

WEB = Path(__file__).parents[1] / "web"
FOLDER = Path(__file__).parents[3] / "build" / "netron"


def main() -> int:
    """Return 1 if Netron shows anything else than what is in the file."""
    try:
        import netron
    except ImportError:
        sys.exit("Netron is missing; pip install netron")
    web = runpy.run_path(str(WEB / "check" / "check.py"))
    chromium, packages = web["find_chromium"](), web["BUILD"]["npm_package"](web["PLAYWRIGHT"]).parent
    FOLDER.mkdir(parents=True, exist_ok=True)
    path, picture = FOLDER / "model.onnx", FOLDER / "node.png"
    write_model(path)
    model = onnx.load(path)
    node = model.graph.node[0]
    address = netron.start(str(path), address=("127.0.0.1", 0), browse=False)
    url = "http://{}:{}/".format(*address)
    try:
        command = ["node", Path(__file__).with_name("check.mjs"), url, node.op_type, picture, chromium, packages]
        page = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    finally:
        netron.stop(address)
    if page.returncode:
        return 1
    found = json.loads(page.stdout)
    function = next(one for one in model.functions if (one.domain, one.name) == (node.domain, node.op_type))
    wanted = {
        "errors of the page": [],
        "types in the graph": [one.op_type for one in model.graph.node],
        "types that the definition lacks": [],
        "type": node.op_type,
        "module": node.domain,
        "name": node.name,
    }
    wanted |= {attribute.name: attribute.s.decode() for attribute in node.attribute}
    wanted |= {name: f"name: {value}" for name, value in zip(function.input, node.input, strict=True)}
    got = {"errors of the page": found["faults"], "types in the graph": found["graph"], **found["shown"]}
    operators = {one.op_type for one in function.node if one.op_type != "Constant"}  # constants are shown as values
    got["types that the definition lacks"] = sorted(operators - set(found["definition"]))
    differing = [name for name, value in wanted.items() if got.get(name) != value]
    for name in differing:
        print(f"{name}: Netron shows {got.get(name)!r}, the file has {wanted[name]!r}")
    same = f"{len(wanted) - len(differing)} of {len(wanted)} things as in the file"
    print(f"Netron {netron.__version__}: {same}; screenshot: {picture}")
    return 1 if differing else 0


def write_model(path: Path) -> None:
    """Write a model of two layers, the first with an activation."""
    import torch  # noqa: TID251

    import exporter

    torch.manual_seed(0)
    model = torch.nn.Sequential(exporter.MyLinear(64, 32, activation="gelu"), exporter.MyLinear(32, 10))
    exporter.export(model, torch.zeros(1, 64), path)


if __name__ == "__main__":
    sys.exit(main())
