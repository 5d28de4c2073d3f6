"""Predict for Parquet files by Spark: python predict.py model.onnx ROWS RESULTS [COLUMN TO KEEP ...]."""

import os
import sys
from pathlib import Path

from pyspark import SparkConf
from pyspark.sql import SparkSession
from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema

from ort_ops.batch import Predictor

os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # else Spark takes whichever python3 the shell finds
model, rows, results, *keep = sys.argv[1:]
conf = SparkConf().setIfMissing("spark.master", "local[*,4]")  # four tries of a task; local[*] has one
spark = SparkSession.builder.config(conf=conf).getOrCreate()
predictor = Predictor(Path(model).read_bytes(), keep=keep)  # the bytes, so that no worker needs the file
table = spark.read.parquet(rows)
schema = from_arrow_schema(predictor.arrow_schema(to_arrow_schema(table.schema)))
table.mapInArrow(lambda batches: map(predictor, batches), schema).write.parquet(results)
