"""Predict for Parquet files by Ray Data: python predict.py ROWS RESULTS [COLUMN TO KEEP ...]."""

import hashlib
import sys
from pathlib import Path

import ray

import ort_ops
from ort_ops.batch import Predictor

if len(sys.argv) < 3:
    sys.exit(__doc__)
rows, results, *keep = sys.argv[1:]
bundle = Path(__file__).resolve().parents[2]  # each worker must see it under this path
sha256 = hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
options = {"keep": keep, "sha256": sha256}  # each worker checks that its bundle is this one
try:
    session = Predictor(bundle, **options).session  # here first, so that a fault is one line, and not that of a worker
except ort_ops.BundleError as error:
    sys.exit(str(error))
ray.init(include_dashboard=False)
ray.data.read_parquet(rows).map_batches(
    Predictor,
    fn_constructor_args=[bundle],
    fn_constructor_kwargs=options,
    compute=ray.data.ActorPoolStrategy(size=2),
    num_cpus=0.5,  # leaves a CPU to the tasks that read and write
    batch_format="pyarrow",
    batch_size=None,  # whole blocks, without a copy
).write_parquet(str(Path(results).absolute()))
