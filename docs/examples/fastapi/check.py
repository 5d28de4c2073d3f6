"""Check the service: ``python docs/examples/fastapi/check.py``. It needs fastapi, uvicorn and prometheus-client.

Eight clients send 10,000 requests over loopback, each of 1 to 8 rows, and compare each answer bit by bit with Python's,
while processes that predict are killed. Then the service is stopped under load: all that it accepted must be answered.
"""

from __future__ import annotations

import atexit
import http.client
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import ort_ops

HERE = Path(__file__).parent
MODEL = HERE.parents[2] / "models" / "digits_mlp.onnx"
CLIENTS, REQUESTS = 8, 10_000
JSON = {"Content-Type": "application/json"}
KILL_AT = (0.2, 0.4, 0.6, 0.8)  # parts of the requests


@dataclass(frozen=True)
class Protocol:
    """How a service is started and asked."""

    folder: Path  # of service.py
    model: Path
    path: str  # where rows are sent to
    given: str  # the key of the rows in a request
    answered: str  # the key of the predictions in an answer
    healthy: Sequence[str]
    refused: Sequence[tuple[str, int]]  # bodies, and the status of the answer


PREDICT = Protocol(
    HERE,
    MODEL,
    "/predict",
    "rows",
    "outputs",
    ("/health/live", "/health/ready"),
    (('{"rows": [[1, 2]]}', 422), ('{"rows": []}', 422), ("no JSON", 422), ('{"rows": [["a"]]}', 422)),
)


class Load:
    """Clients that send requests one after the other, and count what comes back."""

    def __init__(self, port: int, path: str, given: str, answered: str, *, lasting: bool = False) -> None:
        self.port, self.path, self.given, self.answered = port, path, given, answered
        self.is_lasting = lasting  # goes on after a connection broke
        self.right = self.wrong = self.unanswered = 0
        self.faults: list[str] = []
        self._lock = threading.Lock()
        rng = np.random.default_rng(0)
        self._rows = rng.integers(0, 17, (1000, 64)).astype(np.float32)
        self._expected = ort_ops.InferenceSession(MODEL).run(None, {"x": self._rows})[0]

    def run(self, requests: int) -> list[threading.Thread]:
        """Start the clients."""
        threads = [threading.Thread(target=self._client, args=(i, requests // CLIENTS)) for i in range(CLIENTS)]
        for thread in threads:
            thread.start()
        return threads

    def _client(self, number: int, requests: int) -> None:
        rng = np.random.default_rng(number)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        for _ in range(requests):
            start, count = rng.integers(0, 990), rng.integers(1, 9)
            rows = self._rows[start : start + count]
            try:
                connection.request("POST", self.path, json.dumps({self.given: rows.tolist()}), JSON)
                answer = connection.getresponse()
                text = answer.read()
            except (OSError, http.client.HTTPException):  # not accepted: the service is stopping
                with self._lock:
                    self.unanswered += 1
                if not self.is_lasting:
                    return
                connection.close()
                continue
            is_right = answer.status == 200 and np.array_equal(
                np.array(json.loads(text)[self.answered], np.float32), self._expected[start : start + count]
            )
            with self._lock:
                self.right += is_right
                self.wrong += not is_right
                if not is_right:
                    self.faults.append(f"{answer.status} {text[-200:]!r}")


def start(protocol: Protocol) -> tuple[subprocess.Popen[str], int]:
    """Start the service on a free port, and wait until it is ready."""
    command = [sys.executable, "-m", "uvicorn", "--app-dir", protocol.folder, "service:app", "--port", "0"]
    command.append("--no-access-log")
    environment = os.environ | {"MODEL": str(protocol.model)}
    service = subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    atexit.register(service.kill)  # also where a check fails
    assert service.stdout is not None
    for line in service.stdout:
        if "running on" in line:
            return service, int(line.split("127.0.0.1:")[1].split()[0])
    sys.exit("the service did not start")


def ask(port: int, path: str, body: str | None = None) -> tuple[int, str]:
    """Send one request, and return status and text."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET" if body is None else "POST", path, body, JSON)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def workers(service: subprocess.Popen[str]) -> list[int]:
    """Return the processes that predict."""
    children = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split()
    found = []
    for child in children:
        try:
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
        except OSError:
            continue  # it has just ended
    return found


def is_running(process: int) -> bool:
    """Return whether there is such a process that has not ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def metric(port: int, name: str) -> float:
    """Return one number of /metrics."""
    _, text = ask(port, "/metrics")
    return float(next(line for line in text.splitlines() if line.startswith(f"{name} ")).split()[1])


def need(*packages: str) -> None:
    """End with one line if a package is missing."""
    if missing := [name for name in packages if importlib.util.find_spec(name.replace("-", "_")) is None]:
        sys.exit(f"missing: {' '.join(missing)}; pip install {' '.join(packages)}")


def check(protocol: Protocol, requests: int = REQUESTS) -> int:
    """Run all checks, and return the exit status."""
    service, port = start(protocol)
    for path in protocol.healthy:
        assert ask(port, path)[0] == 200, path
    for body, status in protocol.refused:
        answer = ask(port, protocol.path, body)
        assert answer[0] == status, (body, answer)
    load = Load(port, protocol.path, protocol.given, protocol.answered)
    began = time.monotonic()
    threads = load.run(requests)
    killed = 0
    for part in KILL_AT:
        while load.right + load.wrong < part * requests and any(thread.is_alive() for thread in threads):
            time.sleep(0.005)
        for worker in workers(service)[:1]:
            os.kill(worker, signal.SIGKILL)
            killed += 1
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - began
    names = ("worker_restarts_total", "batches_again_total", "batch_rows_sum", "batch_rows_count")
    restarts, again, rows, batches = (metric(port, f"mylinear_{name}") for name in names)
    print(
        f"{load.right} right, {load.wrong} wrong, {load.unanswered} unanswered of {requests}, {killed} processes killed"
    )
    rate = f"{requests / seconds:.0f} requests/s by {CLIENTS} clients"
    print(f"{rate}, {rows / batches:.1f} rows a batch, {restarts:.0f} restarts, {again:.0f} batches again")
    for fault in load.faults[:3]:
        print(fault)
    is_right = (load.right, load.wrong, load.unanswered, restarts) == (requests, 0, 0, killed) and again > 0

    before = load.right
    threads = load.run(1_000_000)
    while load.right < before + 500:
        time.sleep(0.005)
    service.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    output, _ = service.communicate(timeout=60)
    stopped = next((line for line in output.splitlines() if line.startswith("stopped:")), "it did not stop by itself")
    print(f"stopped under load: {load.right} answers arrived; the service says: {stopped}")
    is_right &= load.wrong == 0 and stopped == f"stopped: {load.right} of {load.right} accepted requests were answered"

    service, _ = start(protocol)
    children = workers(service)
    service.kill()
    service.wait()
    time.sleep(1)
    orphans = [child for child in children if is_running(child)]
    print(f"killed as a whole: {len(orphans)} of {len(children)} processes are left")
    return 0 if is_right and not orphans else 1


if __name__ == "__main__":
    need("fastapi", "uvicorn", "prometheus-client")
    sys.exit(check(PREDICT))
