"""Serve an MLflow model by MLflow's protocol: ``MODEL=served uvicorn --app-dir docs/examples/mlflow service:app``.

MLflow's own application reads requests and writes answers. Between the two, ``front.py`` of the HTTP service batches
requests, and loses none with a process that dies.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import loaded
import numpy as np
from fastapi import FastAPI, Response
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE, TEMPORARILY_UNAVAILABLE
from mlflow.pyfunc import scoring_server
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

sys.path.append(str(Path(__file__).parents[1] / "fastapi"))
from front import MAX_ROWS, MAX_WAITING, WORKERS, BusyError, RefusedError, Service


class Batched:
    """The model as MLflow's application calls it, from a thread for each request."""

    def __init__(self) -> None:
        self.metadata = Model.load(loaded.MODEL)
        schema = self.metadata.get_input_schema()
        if schema is None or not schema.is_tensor_spec() or len(schema.inputs) != 1 or len(schema.inputs[0].shape) != 2:
            sys.exit(f"{loaded.MODEL} must have one input of rows; save it with input_example=, an array of two axes")
        self.columns, self.dtype = schema.inputs[0].shape[1], schema.inputs[0].type

    async def start(self) -> None:
        """Start what predicts, and threads enough that a request too many is refused, not left to wait for one."""
        self.loop = asyncio.get_running_loop()
        self.loop.set_default_executor(ThreadPoolExecutor(MAX_WAITING + WORKERS * MAX_ROWS + 1))
        self.service = Service(loaded.predict, self.columns, self.dtype)
        await self.service.start()

    def predict(self, data: object) -> np.ndarray:
        """Wait for the prediction of a request. Raises: MlflowException, with the status of the answer."""
        try:
            return asyncio.run_coroutine_threadsafe(self.service.predict(data), self.loop).result()
        except RefusedError as error:
            raise MlflowException(str(error), INVALID_PARAMETER_VALUE) from None
        except BusyError as error:
            raise MlflowException(str(error), TEMPORARILY_UNAVAILABLE) from None
        except RuntimeError as error:
            raise MlflowException(str(error), INTERNAL_ERROR) from None


model = Batched()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Start before the first request, stop after the last."""
    await model.start()
    yield
    await model.service.stop()


app = FastAPI(title="An MLflow model over HTTP", lifespan=lifespan)


@app.get("/metrics")
def metrics() -> Response:
    """Return the counters in the text format of Prometheus."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


app.mount("/", scoring_server.init(model))
