"""Predict for Parquet files by Spark: python predict.py MODEL ROWS RESULTS [COLUMN TO KEEP ...].

MODEL is an .onnx file or the folder of a bundle.
"""

import hashlib
import os
import sys
from pathlib import Path

from pyspark import SparkConf
from pyspark.sql import SparkSession
from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema

from ort_ops.batch import Predictor
from ort_ops.errors import MylinearError

if len(sys.argv) < 4:
    sys.exit(__doc__.splitlines()[0])
model, rows, results, *keep = sys.argv[1:]
if Path(model).is_dir():  # each worker must see the bundle under this path, and checks that it is this one
    manifest = Path(model, "manifest.json")
    sha256 = hashlib.sha256(manifest.read_bytes()).hexdigest() if manifest.exists() else None
    predictor = Predictor(Path(model).resolve(), keep=keep, sha256=sha256)
else:  # the bytes, so that no worker needs the file
    predictor = Predictor(Path(model).read_bytes(), keep=keep)
try:
    session = predictor.session  # here first, so that a fault is one line, and not that of a worker
except MylinearError as error:
    sys.exit(str(error))
os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # else Spark takes whichever python3 the shell finds
conf = SparkConf().setIfMissing("spark.master", "local[*,4]")  # four tries of a task; local[*] has one
spark = SparkSession.builder.config(conf=conf).getOrCreate()
table = spark.read.parquet(rows)
schema = from_arrow_schema(predictor.arrow_schema(to_arrow_schema(table.schema)))
table.mapInArrow(lambda batches: map(predictor, batches), schema).write.parquet(results)
