"""Keep requests until they are answered, and predict those that wait as one batch, by processes that may die.

One process accepts requests and keeps each; others predict. Where a predicting process dies, what it had is predicted
again, so no accepted request is lost. The services of this folder and of ../mlflow give it its protocols.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from prometheus_client import Counter, Gauge, Histogram

WORKERS = int(os.environ.get("WORKERS", "2"))
MAX_WAITING, MAX_ROWS, TRIES = 1000, 1024, 5

ACCEPTED = Counter("mylinear_requests_accepted", "Requests with rows that the model can take")
ANSWERED = Counter("mylinear_requests_answered", "Accepted requests that were answered with predictions")
REFUSED = Counter("mylinear_requests_refused", "Requests turned away before they were accepted")
RESTARTS = Counter("mylinear_worker_restarts", "Times that the predicting processes were started again")
AGAIN = Counter("mylinear_batches_again", "Batches that were predicted again, because a process died with them")
BATCHES = Histogram("mylinear_batch_rows", "Rows in a batch", buckets=(1, 2, 4, 8, 16, 64, 256, 1024))
SECONDS = Histogram("mylinear_request_seconds", "Time from acceptance to answer")
WAITING = Gauge("mylinear_requests_waiting", "Accepted requests that wait for a predicting process")

Array = NDArray[Any]
Predict = Callable[[Array], Array]


class RefusedError(Exception):
    """A request that cannot be answered; the message says why."""


class BusyError(Exception):
    """A request that may be answered later."""


def start_worker() -> None:
    """Leave Ctrl-C to the accepting process, and end with it, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


class Workers:
    """Processes that predict, started again when one dies."""

    def __init__(self, predictor: Predict) -> None:
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

    def __init__(self, predictor: Predict, columns: int, dtype: str) -> None:
        """Take what predicts rows of so many columns; each process gets a copy of it by pickle."""
        self.dtype, self.columns = dtype, columns
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

    async def predict(self, given: ArrayLike) -> Array:
        """Accept rows and return their predictions. Raises: RefusedError, BusyError; others where predicting fails."""
        try:
            rows = np.asarray(given, self.dtype)
        except (TypeError, ValueError):
            rows = np.empty(0, self.dtype)
        if rows.ndim != 2 or rows.shape[1] != self.columns or not 1 <= len(rows) <= MAX_ROWS:
            REFUSED.inc()
            raise RefusedError(f"rows must be 1 to {MAX_ROWS} lists of {self.columns} numbers each")
        future: asyncio.Future[Array] = asyncio.get_running_loop().create_future()
        try:
            self._queue.put_nowait((rows, future))
        except asyncio.QueueFull:
            REFUSED.inc()
            raise BusyError("too many requests wait; try again") from None
        ACCEPTED.inc()
        WAITING.set(self._queue.qsize())
        with SECONDS.time():
            result = await future
        if not np.isfinite(result).all():
            raise RefusedError("the model's output is not finite, which JSON cannot carry; check the rows")
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
            await self._predict(batch)

    async def _predict(self, batch: list[tuple[Array, asyncio.Future[Array]]]) -> None:
        """Predict a batch and answer; where that fails, each request alone, so that none fails by another's rows."""
        given = np.concatenate([rows for rows, _ in batch])
        BATCHES.observe(len(given))
        try:
            result = await self._workers.predict(given)
            if len(result) != len(given):
                raise ValueError(f"the model returned {len(result)} rows for {len(given)}")
        except Exception as error:
            if len(batch) > 1:
                for one in batch:
                    await self._predict([one])
            elif not batch[0][1].done():
                batch[0][1].set_exception(RuntimeError(f"could not predict: {error}"))
            return
        start = 0
        for rows, future in batch:
            if not future.done():  # a client that went away has cancelled its own
                future.set_result(result[start : start + len(rows)])
            start += len(rows)
