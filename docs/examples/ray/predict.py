"""Predict for Parquet files by Ray Data: python predict.py model.onnx ROWS RESULTS [COLUMN TO KEEP ...]."""

import sys
from pathlib import Path

import ray

from ort_ops.batch import Predictor

model, rows, results, *keep = sys.argv[1:]
ray.init(include_dashboard=False)
ray.data.read_parquet(rows).map_batches(
    Predictor,
    fn_constructor_args=[Path(model).read_bytes()],  # so that no worker needs the file
    fn_constructor_kwargs={"keep": keep},
    compute=ray.data.ActorPoolStrategy(size=2),
    num_cpus=0.5,  # leaves a CPU to the tasks that read and write
    batch_format="pyarrow",
    batch_size=None,  # whole blocks, without a copy
).write_parquet(results)
