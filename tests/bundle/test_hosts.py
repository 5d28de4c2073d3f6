"""The files of each host: written, sealed, and run, where this machine has what the host needs."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import ort_ops
from ort_ops.bundle import hosts
from ort_ops.bundle.hosts.triton.words import _quoted
from ort_ops.bundle.write import write_bundle

MODEL = Path(__file__).parents[2] / "models" / "digits_mlp.onnx"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "b"
    write_bundle(MODEL, folder, for_hosts=hosts.host_names())
    return folder


@pytest.mark.parametrize("name", hosts.host_names())
def test_a_host_has_its_files_and_says_how_it_starts(bundle: Path, name: str) -> None:
    host = hosts.find_host(name)
    assert host.summary
    manifest = ort_ops.load_bundle(bundle).manifest
    assert manifest.hosts[name]
    written = [path for path in (bundle / "hosts" / name).rglob("*") if path.is_file()]
    assert any(path.name == "README.md" for path in written)
    assert not any(path.name in ("host.json", "words.py") for path in written)
    for path in written:
        assert path.relative_to(bundle).as_posix() in manifest.files
        if path.suffix in (".md", ".py", ".pbtxt"):
            assert "@name@" not in path.read_text()


def test_the_python_host_serves_the_sample(bundle: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, str(bundle / "hosts/python/serve.py"), str(port)], stderr=subprocess.PIPE
    )
    try:
        found = ort_ops.load_bundle(bundle)
        feed = {name: array.tolist() for name, array in found.sample().items()}
        for _ in range(200):
            try:
                answer = ask(f"http://127.0.0.1:{port}", feed)
                break
            except urllib.error.URLError:
                time.sleep(0.1)
        np.testing.assert_array_equal(np.array(answer["y"], np.float32), found.run(found.sample())["y"])
        with pytest.raises(urllib.error.HTTPError) as caught:
            ask(f"http://127.0.0.1:{port}", {"z": 1})
        assert caught.value.code == 400
        with caught.value:
            told = json.load(caught.value)["error"]
        assert told == "the body must be a JSON object with x and nothing else"
        feed["x"][0][0], feed["x"][1][0] = "NaN", "-Infinity"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}", json.dumps(feed).encode()) as strict:
            answer = json.load(strict, parse_constant=pytest.fail)  # Python's parser would take NaN, others do not
        given = np.array(feed["x"], np.float32)
        np.testing.assert_array_equal(np.array(answer["y"], np.float32), found.run({"x": given})["y"])
        assert np.isnan(np.array(answer["y"][0], np.float32)).all()
    finally:
        server.kill()
        server.communicate()
    ort_ops.load_bundle(bundle)  # it left nothing behind


@pytest.mark.parametrize("arguments", [[], ["eight"], ["0"], ["65536"], ["8000", "8001"]])
def test_the_python_host_needs_a_port(bundle: Path, arguments: list[str]) -> None:
    command = [sys.executable, str(bundle / "hosts/python/serve.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Serve the bundle over HTTP: `python serve.py PORT`")
    assert done.stderr.count("\n") == 1


def test_the_python_host_says_in_a_line_why_it_does_not_start(bundle: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(bundle, broken)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, str(broken / "hosts/python/serve.py"), port]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "in use" in done.stderr
        assert done.stderr.count("\n") == 1
    model = broken / "model" / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"?")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "'model/model.onnx' was changed" in done.stderr
    assert done.stderr.count("\n") == 1


def ask(url: str, content: object) -> Any:
    with urllib.request.urlopen(url, json.dumps(content).encode()) as answer:
        return json.load(answer)


def config(folder: Path) -> str:
    (path,) = (folder / "hosts" / "triton").rglob("config.pbtxt")
    return path.read_text()


def test_the_triton_repository_has_model_and_library(bundle: Path) -> None:
    manifest = ort_ops.load_bundle(bundle).manifest
    repository = bundle / "hosts" / "triton" / "models" / "digits_mlp"
    assert (repository / "1" / "model.onnx").read_bytes() == (bundle / "model" / "model.onnx").read_bytes()
    assert "dims: [-1, 64]" in config(bundle)
    for library in manifest.libraries:
        name = Path(library.path).name
        assert (repository / name).read_bytes() == (bundle / library.path).read_bytes()
        assert f'op_library_filename: ["/models/digits_mlp/{name}"]' in config(bundle)


def many_types() -> onnx.ModelProto:
    """Return a model with a scalar, text, a boolean and a name that needs quoting."""
    names = {'a"b\\': (1, []), "text": (8, ["n"]), "flag": (9, ["n", 2]), "half": (10, [3, "m"])}
    inputs = [helper.make_tensor_value_info(name, *kind) for name, kind in names.items()]
    outputs = [helper.make_tensor_value_info(f"{name}_out", *kind) for name, kind in names.items()]
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in names]
    graph = helper.make_graph(nodes, "types", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def test_the_triton_config_is_the_server_s_protobuf(bundle: Path, tmp_path: Path) -> None:
    protobuf = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="needs tritonclient[grpc]")
    from google.protobuf import text_format

    (tmp_path / "types.onnx").write_bytes(many_types().SerializeToString())
    write_bundle(tmp_path / "types.onnx", tmp_path / "b", for_hosts=["triton"])
    read = {path: text_format.Parse(config(path), protobuf.ModelConfig()) for path in (bundle, tmp_path / "b")}
    first, second = read.values()
    assert (first.name, first.backend, first.max_batch_size) == ("digits_mlp", "onnxruntime", 0)
    assert [(entry.name, entry.data_type, list(entry.dims)) for entry in first.input] == [
        ("x", protobuf.TYPE_FP32, [-1, 64])
    ]
    assert len(first.model_operations.op_library_filename) == len(ort_ops.load_bundle(bundle).manifest.libraries)
    kinds = [(entry.name, protobuf.DataType.Name(entry.data_type), list(entry.dims)) for entry in second.input]
    assert kinds == [
        ('a"b\\', "TYPE_FP32", [1]),
        ("text", "TYPE_STRING", [-1]),
        ("flag", "TYPE_BOOL", [-1, 2]),
        ("half", "TYPE_FP16", [3, -1]),
    ]
    assert second.input[0].HasField("reshape")
    assert not second.model_operations.op_library_filename


def test_names_are_quoted_for_protobuf() -> None:
    assert _quoted('a"b\\\n') == r'"a\"b\\\012"'


class _Server(BaseHTTPRequestHandler):
    """Speaks the part of the protocol, version 2, that `check.py` uses."""

    session: ort_ops.InferenceSession
    shift = 0.0

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/v2/models/digits_mlp/infer"
        (x,) = asked["inputs"]
        assert (x["name"], x["datatype"]) == ("x", "FP32")
        (y,) = self.session.run(None, {"x": np.array(x["data"], np.float32).reshape(x["shape"])})
        entry = {"name": "y", "datatype": "FP32", "shape": y.shape, "data": (y + self.shift).ravel().tolist()}
        body = json.dumps({"outputs": [entry]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(bundle: Path) -> Iterator[str]:
    _Server.session = ort_ops.load_bundle(bundle).session
    with HTTPServer(("127.0.0.1", 0), _Server) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()
        thread.join()


@pytest.mark.parametrize(("shift", "status", "said"), [(0.0, 0, "within its bound"), (0.01, 1, "WRONG")])
def test_the_triton_check_compares_what_a_server_says(
    bundle: Path, server: str, monkeypatch: pytest.MonkeyPatch, shift: float, status: int, said: str
) -> None:
    monkeypatch.setattr(_Server, "shift", shift)
    command = [sys.executable, "-I", str(bundle / "hosts/triton/check.py"), server]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (status, f"y: {said}\n"), done.stderr
