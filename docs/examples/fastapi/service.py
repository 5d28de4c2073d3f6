"""Serve a model over HTTP: ``MODEL=models/digits_mlp.onnx uvicorn --app-dir docs/examples/fastapi service:app``.

One process accepts requests and keeps each until it is answered; others predict. Requests that wait are predicted as
one batch. Where a predicting process dies, what it had is predicted again, so no accepted request is lost.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from fastapi import FastAPI, HTTPException, Response
from numpy.typing import NDArray
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel

from ort_ops.batch import Predictor

MODEL = os.environ.get("MODEL", "models/digits_mlp.onnx")
WORKERS = int(os.environ.get("WORKERS", "2"))
MAX_WAITING, MAX_ROWS, TRIES = 1000, 1024, 5
DTYPES = {"tensor(double)": "float64", "tensor(float)": "float32", "tensor(float16)": "float16"}

ACCEPTED = Counter("mylinear_requests_accepted", "Requests with rows that the model can take")
ANSWERED = Counter("mylinear_requests_answered", "Accepted requests that were answered with predictions")
REFUSED = Counter("mylinear_requests_refused", "Requests turned away before they were accepted")
RESTARTS = Counter("mylinear_worker_restarts", "Times that the predicting processes were started again")
AGAIN = Counter("mylinear_batches_again", "Batches that were predicted again, because a process died with them")
BATCHES = Histogram("mylinear_batch_rows", "Rows in a batch", buckets=(1, 2, 4, 8, 16, 64, 256, 1024))
SECONDS = Histogram("mylinear_request_seconds", "Time from acceptance to answer")
WAITING = Gauge("mylinear_requests_waiting", "Accepted requests that wait for a predicting process")

Array = NDArray[Any]


class Rows(BaseModel):
    """What a request holds: a list of rows, each a list of numbers."""

    rows: list[list[float]]


def start_worker() -> None:
    """Leave Ctrl-C to the accepting process, and end with it, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


class Workers:
    """Processes that predict, started again when one dies."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._start()

    def _start(self) -> None:
        self._pool = ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn"), start_worker)

    async def predict(self, rows: Array) -> Array:
        """Return the predictions, by another process where one dies. Raises: BrokenProcessPool after some tries."""
        for last in (False,) * (TRIES - 1) + (True,):
            pool = self._pool
            try:
                return await asyncio.get_running_loop().run_in_executor(pool, self._predictor, rows)
            except BrokenProcessPool:
                if pool is self._pool:  # the first to notice
                    RESTARTS.inc()
                    self._start()
                if last:
                    raise
                AGAIN.inc()
        raise AssertionError("not reached")

    def stop(self) -> None:
        """End the processes."""
        self._pool.shutdown()


class Service:
    """Accepted requests, in order, and what answers them."""

    def __init__(self) -> None:
        predictor = Predictor(MODEL, raw=True)
        (self._input,) = predictor.session.get_inputs()  # a model that does not open ends the service at once
        self.dtype = DTYPES[self._input.type]
        self.columns: int = self._input.shape[1]
        self._workers = Workers(predictor)
        self._queue: asyncio.Queue[tuple[Array, asyncio.Future[Array]]] = asyncio.Queue(MAX_WAITING)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Predict once, so that the service is ready only when it can answer."""
        await self._workers.predict(np.zeros((1, self.columns), self.dtype))
        self._tasks = [asyncio.create_task(self._answer()) for _ in range(WORKERS)]

    async def stop(self) -> None:
        """End, once all that was accepted is answered: uvicorn waits for that before it calls this."""
        for task in self._tasks:
            task.cancel()
        await asyncio.to_thread(self._workers.stop)
        answered, accepted = (int(next(iter(c.collect())).samples[0].value) for c in (ANSWERED, ACCEPTED))
        print(f"stopped: {answered} of {accepted} accepted requests were answered", flush=True)

    async def predict(self, rows: list[list[float]]) -> Array:
        """Accept rows and return their predictions. Raises: HTTPException for rows that it refuses."""
        if not rows or any(len(row) != self.columns for row in rows) or len(rows) > MAX_ROWS:
            REFUSED.inc()
            raise HTTPException(422, f"rows must be 1 to {MAX_ROWS} lists of {self.columns} numbers each")
        future: asyncio.Future[Array] = asyncio.get_running_loop().create_future()
        try:
            self._queue.put_nowait((np.array(rows, self.dtype), future))
        except asyncio.QueueFull:
            REFUSED.inc()
            raise HTTPException(503, "too many requests wait; try again", {"Retry-After": "1"}) from None
        ACCEPTED.inc()
        WAITING.set(self._queue.qsize())
        with SECONDS.time():
            result = await future
        if not np.isfinite(result).all():
            raise HTTPException(422, "the model's output is not finite, which JSON cannot carry; check the rows")
        ANSWERED.inc()
        return result

    async def _answer(self) -> None:
        """Take what waits as one batch, predict it, and answer, for ever; there is one such task for each process."""
        kept: tuple[Array, asyncio.Future[Array]] | None = None
        while True:
            batch = [kept or await self._queue.get()]
            kept, count = None, len(batch[0][0])
            while not self._queue.empty():
                found = self._queue.get_nowait()
                if (count := count + len(found[0])) > MAX_ROWS:
                    kept = found
                    break
                batch.append(found)
            BATCHES.observe(sum(len(rows) for rows, _ in batch))
            try:
                result = await self._workers.predict(np.concatenate([rows for rows, _ in batch]))
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(HTTPException(500, f"could not predict: {error}"))
                continue
            start = 0
            for rows, future in batch:
                if not future.done():  # a client that went away has cancelled its own
                    future.set_result(result[start : start + len(rows)])
                start += len(rows)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Start before the first request, stop after the last."""
    app.state.service = Service()
    await app.state.service.start()
    yield
    await app.state.service.stop()


app = FastAPI(title="A model over HTTP", lifespan=lifespan)


@app.post("/predict")
async def predict(request: Rows) -> dict[str, list[Any]]:
    """Return the model's output for rows."""
    return {"outputs": (await app.state.service.predict(request.rows)).tolist()}


@app.get("/health/live")
@app.get("/health/ready")
def health() -> dict[str, str]:
    """Answer: the port opens only when a prediction was made, and closes before the end."""
    return {"status": "ok"}


@app.get("/metrics")
def metrics() -> Response:
    """Return the counters in the text format of Prometheus."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
