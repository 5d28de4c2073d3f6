"""Predict for Parquet files by Ray Data: python predict.py MODEL ROWS RESULTS [COLUMN TO KEEP ...].

MODEL is an .onnx file or the folder of a bundle.
"""

import hashlib
import sys
from pathlib import Path

import ray

from ort_ops.batch import Predictor
from ort_ops.errors import MylinearError

if len(sys.argv) < 4:
    sys.exit(__doc__.splitlines()[0])
model, rows, results, *keep = sys.argv[1:]
if Path(model).is_dir():  # each worker must see the bundle under this path, and checks that it is this one
    manifest = Path(model, "manifest.json")
    sha256 = hashlib.sha256(manifest.read_bytes()).hexdigest() if manifest.exists() else None
    given, options = [str(Path(model).resolve())], {"keep": keep, "sha256": sha256}
else:  # the bytes, so that no worker needs the file
    given, options = [Path(model).read_bytes()], {"keep": keep}
try:
    session = Predictor(*given, **options).session  # here first, so that a fault is one line, and not that of a worker
except MylinearError as error:
    sys.exit(str(error))
ray.init(include_dashboard=False)
ray.data.read_parquet(rows).map_batches(
    Predictor,
    fn_constructor_args=given,
    fn_constructor_kwargs=options,
    compute=ray.data.ActorPoolStrategy(size=2),
    num_cpus=0.5,  # leaves a CPU to the tasks that read and write
    batch_format="pyarrow",
    batch_size=None,  # whole blocks, without a copy
).write_parquet(str(Path(results).absolute()))
