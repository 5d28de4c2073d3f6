"""Predict for Parquet files by Ray Data or Spark, on this machine or on the cluster that they are set up for."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ort_ops.batch.predictor import Predictor
from ort_ops.batch.sources import Source
from ort_ops.errors import MylinearError
from ort_ops.files.atomic import OutputError
from ort_ops.files.inputs import InputError, first_line
from ort_ops.installation.extras import install_extra
from ort_ops.prediction.arrow import ExtraError, import_pyarrow
from ort_ops.prediction.table_files import text_columns

Engine = Callable[[Predictor, Sequence[str], Path], None]
_TASK_BYTES = 128 * 2**20  # of files: what a task of Ray takes by default
# An error of a worker reaches the driver as text, with a traceback, since a JVM may lie between.
_OURS = re.compile(r"^ort_ops\.[\w.]+: (.+)$", re.MULTILINE)


class EngineError(MylinearError, RuntimeError):
    """An engine did not start, or gave a job up; the message has the reason that a worker stated."""


def predict_by(engine: str, predictor: Predictor, sources: Sequence[Source], output: Path) -> int:
    """Run the model on every row of Parquet files by an engine, and write Parquet files into a folder.

    The engine puts rows and files in an order of its own: keep a column that tells the rows apart.

    Args:
        engine: one of `ENGINES`.
        predictor: tried on the columns of the files before the engine starts.
        sources: the files.
        output: the folder; it must be empty, or not there.

    Returns: the number of rows.
    Raises: InputError, OutputError, ExtraError; EngineError if the engine fails.
    """
    if engine not in ENGINES:
        raise InputError(f"the engine must be {', '.join(['local', *ENGINES])}, got '{engine}'")
    parquet = import_pyarrow(f"the engine {engine}", "pyarrow.parquet")
    wrong = next((source.path for source in sources if source.path.suffix.lower() != ".parquet"), None)
    if wrong is not None:
        raise InputError(f"the engine {engine} reads Parquet files, got '{wrong}'")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise OutputError(f"'{output}' must be a new or an empty folder for the engine {engine}")
    paths = [str(source.path.absolute()) for source in sources]
    predictor.arrow_schema(parquet.read_schema(paths[0]))  # so that what is wrong is one line, and not a worker's
    try:
        ENGINES[engine](predictor, paths, output.absolute())
    except ExtraError:
        raise
    except Exception as error:
        found = _OURS.findall(str(error))
        raise EngineError(f"the engine {engine} stopped: {found[-1] if found else first_line(error)}") from error
    return sum(parquet.read_metadata(path).num_rows for path in output.rglob("*.parquet"))


def by_ray(predictor: Predictor, paths: Sequence[str], output: Path) -> None:
    """Read, predict and write in each task, so that the rows never leave its process. Raises: ExtraError."""
    try:
        import ray
    except ImportError as error:
        raise ExtraError(f"the engine ray needs Ray ({error}): {install_extra('ray')}") from error

    def predict(batch: Any) -> Any:
        return predictor(batch)

    starts = not ray.is_initialized()
    if starts:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    sizes = [os.stat(path).st_size for path in paths]
    cpus = int(ray.cluster_resources().get("CPU", 1))
    if len(paths) >= cpus and max(sizes) <= 2 * _TASK_BYTES:
        # Ray's older reader takes files whole, and so needs no actors that read footers first and cannot be replaced.
        ray.data.DataContext.get_current().use_datasource_v2 = False
    num_tasks = min(len(paths), max(cpus, sum(sizes) // _TASK_BYTES))
    rows = ray.data.read_parquet([*paths], override_num_blocks=num_tasks)
    schema = rows.schema()
    rows = rows.select_columns(predictor.columns_read(schema.names))
    texts = text_columns(predictor.arrow_schema(schema.base_schema))
    rows = rows.map_batches(predict, batch_format="pyarrow", batch_size=None)
    rows.write_parquet(str(output), use_dictionary=texts or False)
    if starts:
        ray.shutdown()  # at the end of the process it would wait half a second more


def by_spark(predictor: Predictor, paths: Sequence[str], output: Path) -> None:
    """Predict for record batches in Spark's Python workers. Raises: ExtraError."""
    try:
        from pyspark import SparkConf
        from pyspark.sql import SparkSession
        from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema
    except ImportError as error:
        raise ExtraError(f"the engine spark needs Spark ({error}): {install_extra('pyspark')}") from error

    def predict(batches: Iterator[Any]) -> Iterator[Any]:
        return map(predictor, batches)

    # Four tries of a task, as on a cluster; Spark's own local[*] has one.
    conf = SparkConf().setIfMissing("spark.master", "local[*,4]").setIfMissing("spark.ui.enabled", "false")
    if str(conf.get("spark.master")).startswith("local"):  # else Spark takes whichever python3 the shell finds
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    spark = SparkSession.builder.config(conf=conf).getOrCreate()
    if not spark.conf.get("spark.remote", None):
        spark.sparkContext.setLogLevel("OFF")  # an error comes as an exception, and by the hundred lines in the log
    rows = spark.read.parquet(*paths)
    rows = rows.select(*predictor.columns_read(rows.columns))
    schema = from_arrow_schema(predictor.arrow_schema(to_arrow_schema(rows.schema)))
    rows.mapInArrow(predict, schema).write.mode("append").parquet(str(output))


ENGINES: dict[str, Engine] = {"ray": by_ray, "spark": by_spark}
