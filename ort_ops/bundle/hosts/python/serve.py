"""Serve the bundle over HTTP: `python serve.py PORT`, then `curl -d '{"x": [[3, 2]]}' localhost:PORT`."""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

import ort_ops

BUNDLE = ort_ops.load_bundle(Path(__file__).resolve().parents[2])  # hashes, platform and onnxruntime are checked


class Handler(BaseHTTPRequestHandler):
    """Answer a POST of the inputs by the outputs, both as JSON: lists by name."""

    def do_POST(self) -> None:
        """Run the model once."""
        try:
            given = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            names = [tensor.name for tensor in BUNDLE.inputs]
            if not isinstance(given, dict) or given.keys() != set(names):
                raise ValueError(f"the body must be a JSON object with {', '.join(names)} and nothing else")
            feed = {tensor.name: np.array(given[tensor.name], tensor.numpy_dtype) for tensor in BUNDLE.inputs}
            status, answer = 200, {name: value.tolist() for name, value in BUNDLE.run(feed).items()}
        except Exception as error:
            status, answer = 400, {"error": str(error)}
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
