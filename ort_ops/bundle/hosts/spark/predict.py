"""Predict for Parquet files by Spark: python predict.py ROWS RESULTS [COLUMN TO KEEP ...]."""

import hashlib
import os
import sys
from pathlib import Path

from pyspark import SparkConf
from pyspark.sql import SparkSession
from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema

import ort_ops
from ort_ops.batch import Predictor

if len(sys.argv) < 3:
    sys.exit(__doc__)
rows, results, *keep = sys.argv[1:]
bundle = Path(__file__).resolve().parents[2]  # each worker must see it under this path
sha256 = hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
predictor = Predictor(bundle, keep=keep, sha256=sha256)  # each worker checks that its bundle is this one
try:
    session = predictor.session  # here first, so that a fault is one line, and not that of a worker
except ort_ops.BundleError as error:
    sys.exit(str(error))
os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # else Spark takes whichever python3 the shell finds
conf = SparkConf().setIfMissing("spark.master", "local[*,4]")  # four tries of a task; local[*] has one
spark = SparkSession.builder.config(conf=conf).getOrCreate()
table = spark.read.parquet(rows)
schema = from_arrow_schema(predictor.arrow_schema(to_arrow_schema(table.schema)))
table.mapInArrow(lambda batches: map(predictor, batches), schema).write.parquet(results)
