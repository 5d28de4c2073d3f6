"""Serve a model over HTTP: ``MODEL=models/digits_mlp.onnx uvicorn --app-dir docs/examples/fastapi service:app``.

``front.py`` does the work: it batches requests, and loses none with a process that dies.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException, Response
from front import BusyError, RefusedError, Service
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from ort_ops.batch import Predictor

MODEL = os.environ.get("MODEL", "models/digits_mlp.onnx")
DTYPES = {"tensor(double)": "float64", "tensor(float)": "float32", "tensor(float16)": "float16"}


class Rows(BaseModel):
    """What a request holds: a list of rows, each a list of numbers."""

    rows: list[list[float]]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Start before the first request, stop after the last."""
    predictor = Predictor(MODEL, raw=True)
    (model_input,) = predictor.session.get_inputs()  # a model that does not open ends the service at once
    app.state.service = Service(predictor, model_input.shape[1], DTYPES[model_input.type])
    await app.state.service.start()
    yield
    await app.state.service.stop()


app = FastAPI(title="A model over HTTP", lifespan=lifespan)


@app.post("/predict")
async def predict(request: Rows) -> dict[str, list[Any]]:
    """Return the model's output for rows."""
    try:
        return {"outputs": (await app.state.service.predict(request.rows)).tolist()}
    except RefusedError as error:
        raise HTTPException(422, str(error)) from None
    except BusyError as error:
        raise HTTPException(503, str(error), {"Retry-After": "1"}) from None
    except RuntimeError as error:
        raise HTTPException(500, str(error)) from None


@app.get("/health/live")
@app.get("/health/ready")
def health() -> dict[str, str]:
    """Answer: the port opens only when a prediction was made, and closes before the end."""
    return {"status": "ok"}


@app.get("/metrics")
def metrics() -> Response:
    """Return the counters in the text format of Prometheus."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
