"""Serve the bundle over HTTP: `python serve.py PORT`, then `curl -d '{"x": [[3, 2]]}' localhost:PORT`."""

import json
import math
import sys
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

import ort_ops
from ort_ops.errors import MylinearError


class Handler(BaseHTTPRequestHandler):
    """Answer a POST of the inputs by the outputs, both as JSON: lists by name."""

    bundle: ort_ops.Bundle

    def do_POST(self) -> None:
        """Run the model once."""
        try:
            given = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            names = [tensor.name for tensor in self.bundle.inputs]
            if not isinstance(given, dict) or given.keys() != set(names):
                raise ValueError(f"the body must be a JSON object with {', '.join(names)} and nothing else")
            feed = {tensor.name: np.array(given[tensor.name], tensor.numpy_dtype) for tensor in self.bundle.inputs}
            status, answer = 200, {name: value.tolist() for name, value in self.bundle.run(feed).items()}
        except Exception as error:
            status, answer = 400, {"error": str(error)}
        body = json.dumps(without_nan(answer), allow_nan=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def without_nan(value: Any) -> Any:
    """Write what JSON lacks as text, which the inputs may hold too: "NaN", "Infinity" and "-Infinity"."""
    if isinstance(value, dict):
        return {name: without_nan(each) for name, each in value.items()}
    if isinstance(value, list):
        return [without_nan(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def main(arguments: list[str]) -> None:
    """Serve until it is interrupted. A fault is one line."""
    if len(arguments) != 1 or not arguments[0].isdecimal() or not 0 < int(arguments[0]) < 65536:
        sys.exit(__doc__.splitlines()[0])
    try:
        Handler.bundle = ort_ops.load_bundle(Path(__file__).resolve().parents[2])  # checks hashes, platform, versions
        server = ThreadingHTTPServer(("127.0.0.1", int(arguments[0])), Handler)
    except (MylinearError, OSError) as error:
        sys.exit(str(error))
    with server, suppress(KeyboardInterrupt):
        server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
