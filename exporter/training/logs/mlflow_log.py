"""Log a training as one run of MLflow: on the server of MLFLOW_TRACKING_URI, or in an SQLite file.

MLflow keeps all points that it gets. A resumed training therefore asks its run which epochs it has, adds those of the
history that are missing, and leaves out those that it takes again.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.training.checkpoints.checkpoint import Metrics
from exporter.training.history import EpochRecord
from exporter.training.logs.log import Course, LogError, TrainingLog
from ort_ops.files.atomic import make_folder, write_atomically
from ort_ops.files.inputs import first_line

if TYPE_CHECKING:
    from mlflow.entities import Run

RUN_NAME = "mlflow_run.json"
_EXPERIMENT = "mylinear"
_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
_STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


class MlflowLog(TrainingLog):
    """One run, whose id is kept in the training's folder so that a resume finds it.

    Args:
        folder: of the training; the database is in its ``mlruns``.
        is_local: whether to use that database even where MLFLOW_TRACKING_URI names a server.

    Raises: LogError if the server or the database does not answer; OutputError if the folder cannot be written to.
    """

    name = "mlflow"

    def __init__(self, folder: Path, *, is_local: bool = False) -> None:
        from mlflow import MlflowClient  # here, so that the module can be imported without the package

        self._file = make_folder(folder) / RUN_NAME
        uri = "" if is_local else os.environ.get("MLFLOW_TRACKING_URI", "")
        artifacts = None
        if not uri:
            store = make_folder(folder / "mlruns").resolve()
            uri, artifacts = f"sqlite:///{store}/mlflow.db", (store / "artifacts").as_uri()
            for name in ("alembic", "mlflow.store.db.utils"):  # they tell of each table of a new database
                logging.getLogger(name).setLevel(logging.WARNING)
        self._uri, self._run_id = uri, ""
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", _EXPERIMENT)
        try:
            with _few_retries():
                self._client = MlflowClient(tracking_uri=uri)
                found = self._client.get_experiment_by_name(experiment)
                self._experiment = (
                    self._client.create_experiment(experiment, artifacts) if found is None else found.experiment_id
                )
        except Exception as error:  # MLflow's, requests' and SQLAlchemy's
            raise LogError(
                f"MLflow at '{uri}' does not answer: {first_line(error)}; set MLFLOW_TRACKING_URI, or train without "
                "--log mlflow"
            ) from error

    def begin(self, course: Course) -> None:
        """Begin a run, or go on with the one of the folder. Raises: LogError if that is gone."""
        from mlflow.entities import Param, RunTag

        self._course = course
        run = self._resumed() if course.history and self._file.exists() else None
        if run is None:
            run = self._client.create_run(self._experiment, run_name=course.name)
            state = {"tracking_uri": self._uri, "run_id": run.info.run_id}
            write_atomically(self._file, json.dumps(state).encode() + b"\n")
        self._run_id = run.info.run_id
        given = {name: str(value) for name, value in course.parameters().items()}
        changed = {name: value for name, value in given.items() if run.data.params.get(name, value) != value}
        self._client.log_batch(  # a parameter of a run cannot be changed; a tag can
            self._run_id,
            params=[Param(name, value) for name, value in given.items() if name not in run.data.params],
            tags=[RunTag(f"resumed.{name}", value) for name, value in changed.items()],
        )
        self._known = {point.step for point in self._client.get_metric_history(self._run_id, "loss/train")}
        for record in course.history:
            self.epoch(record)

    def epoch(self, record: EpochRecord) -> None:
        if record.epoch not in self._known:
            self._metrics(self._course.scalars(record), record.epoch)
            self._known.add(record.epoch)

    def finish(self, metrics: Metrics, files: Mapping[str, Path]) -> None:
        from mlflow.entities import RunTag

        final = {f"final/{part}/{name}": v for part, values in metrics.items() for name, v in values.items()}
        self._metrics(final, self._course.options.epochs)
        tags = [RunTag(f"file.{name}", str(path)) for name, path in files.items()]
        self._client.log_batch(self._run_id, tags=tags)

    def close(self, outcome: str) -> None:
        if self._run_id:
            self._client.set_terminated(self._run_id, _STATUS[outcome])

    def _metrics(self, values: Mapping[str, float], epoch: int) -> None:
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        self._client.log_batch(self._run_id, metrics=[Metric(n, v, now, epoch) for n, v in values.items()])

    def _resumed(self) -> Run:
        try:
            run_id = json.loads(self._file.read_text())["run_id"]
            self._client.update_run(run_id, "RUNNING")
            return self._client.get_run(run_id)
        except Exception as error:
            raise LogError(
                f"the run of '{self._file}' is not in MLflow at '{self._uri}': {first_line(error)}; remove that file "
                "to begin a new run"
            ) from error


@contextmanager
def _few_retries() -> Iterator[None]:
    """Learn within seconds that no server answers, where MLflow's own seven retries take four minutes."""
    if _RETRIES in os.environ:
        yield
        return
    os.environ[_RETRIES] = "2"
    try:
        yield
    finally:
        del os.environ[_RETRIES]
