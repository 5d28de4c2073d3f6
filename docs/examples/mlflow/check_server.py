"""Check MLflow's own server: ``python docs/examples/mlflow/check_server.py``. It needs mlflow-skinny, fastapi and
uvicorn.

Eight clients send 10,000 requests over loopback to ``mlflow models serve`` and compare each answer bit by bit with
Python's. Then they go on while processes of the server are killed: MLflow starts others, and what the killed ones had
accepted is lost, which is counted and told.
"""

from __future__ import annotations

import http.client
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mlflow

HERE = Path(__file__).parent
SERVICE = runpy.run_path(str(HERE.parent / "fastapi" / "check.py"))
REQUESTS, KILLS, WORKERS = 10_000, 3, 2


def children(process: int) -> list[int]:
    """Return the processes that a process and its own have started."""
    own = [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    return own + [child for found in own for child in children(found)]


def predicting(server: int) -> list[int]:
    """Return the processes of the server that answer requests."""
    found = []
    for child in children(server):
        try:
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
        except OSError:
            continue  # it has just ended
    return found


def is_healthy(port: int) -> bool:
    """Whether the server answers on /health."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False


def main() -> int:
    """Run all checks, and return the exit status."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        saved = Path(folder, "served")
        runpy.run_path(str(HERE / "check.py"))["save"](saved)
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(saved), "--env-manager", "local"]
        command += ["--host", "127.0.0.1", "--port", str(port), "--workers", str(WORKERS)]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where MLflow looks for uvicorn
        with Path(folder, "log").open("wb") as log:
            server = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True, env=os.environ | {"PATH": path}
            )
        try:
            return check(server, port)
        finally:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def check(server: subprocess.Popen[bytes], port: int) -> int:
    """Send requests, kill processes, stop the server; print and return the result."""
    until = time.monotonic() + 120
    while not is_healthy(port):
        if server.poll() is not None or time.monotonic() > until:
            sys.exit("the server did not start; it needs mlflow-skinny, fastapi and uvicorn")
        time.sleep(0.2)
    load = SERVICE["Load"](port, "/invocations", "inputs", "predictions", lasting=True)
    began = time.monotonic()
    for thread in load.run(REQUESTS):
        thread.join()
    rate = REQUESTS / (time.monotonic() - began)
    print(
        f"MLflow {mlflow.__version__}, {WORKERS} workers: {load.right} right, {load.wrong} wrong, "
        f"{load.unanswered} unanswered of {REQUESTS}; {rate:.0f} requests/s by {SERVICE['CLIENTS']} clients"
    )
    for fault in load.faults[:3]:
        print(fault)
    is_right = (load.right, load.wrong, load.unanswered) == (REQUESTS, 0, 0)
    before = load.right
    threads = load.run(REQUESTS // 2)
    killed = 0
    for kill in range(KILLS):
        while load.right < before + (kill + 1) * REQUESTS // 10 and any(thread.is_alive() for thread in threads):
            time.sleep(0.005)
        for worker in predicting(server.pid)[:1]:
            os.kill(worker, signal.SIGKILL)
            killed += 1
    for thread in threads:
        thread.join()
    print(
        f"{killed} processes killed: {load.unanswered} accepted requests lost, {load.wrong} wrong answers, and "
        f"{len(predicting(server.pid))} processes run"
    )
    is_right &= load.wrong == 0 and killed > 0 and is_healthy(port)
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
