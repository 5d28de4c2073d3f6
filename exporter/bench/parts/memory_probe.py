"""Print the memory of a process that loads one model, as JSON; `loading.py` runs this in a process of its own.

python -m exporter.bench.parts.memory_probe model.onnx ours|gemm threads
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

from exporter.bench.backends.arrays import numpy_dtype
from exporter.bench.backends.contestants import bind, session_options
from exporter.bench.backends.models import chain_model, random_layers
from exporter.bench.measure.cells import OURS

_ROLLUP = Path("/proc/self/smaps_rollup")
_STATUS = Path("/proc/self/status")


def resident(rollup: str) -> dict[str, int]:
    """Return the resident, the anonymous and the file-backed bytes, from the text of ``smaps_rollup``.

    >>> resident("00400000-7fff ---p 00000000 00:00 0 [rollup]\\nRss: 12 kB\\nAnonymous: 8 kB\\n")
    {'rss': 12288, 'anonymous': 8192, 'file': 4096}
    """
    fields = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in rollup.splitlines()[1:]}
    return {"rss": fields["Rss"], "anonymous": fields["Anonymous"], "file": fields["Rss"] - fields["Anonymous"]}


def call(session: onnxruntime.InferenceSession) -> None:
    """Run the model on one row."""
    (x,), (y,) = session.get_inputs(), session.get_outputs()
    name = x.type.removeprefix("tensor(").removesuffix(")")
    dtype = {"double": "float64", "float": "float32"}.get(name, name)
    run, _ = bind(session, np.ones((1, x.shape[1]), numpy_dtype(dtype)), y.shape[1])
    run()


def main(path: str, backend: str, threads: int) -> None:
    """Load, call once, print."""
    options = session_options(threads, with_ours=backend == OURS)
    # A tiny model first, so that the runtime's own pages are not counted as the model's.
    tiny = chain_model(backend, random_layers(2, 1, numpy_dtype("float32"))).SerializeToString()
    call(onnxruntime.InferenceSession(tiny, options, providers=["CPUExecutionProvider"]))
    before = resident(_ROLLUP.read_text())
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    loaded = resident(_ROLLUP.read_text())
    call(session)
    called = resident(_ROLLUP.read_text())
    peak = next(int(line.split()[1]) * 1024 for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"before": before, "loaded": loaded, "called": called, "peak": peak}))


if __name__ == "__main__":
    if not _ROLLUP.exists():
        sys.exit(f"{_ROLLUP} is not there: memory is measured on Linux only")
    try:
        main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    except Exception as error:  # the report shows the last line
        sys.exit(" ".join(str(error).split()))
