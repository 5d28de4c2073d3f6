"""Prove this bundle on this machine: `python smoke_test.py`. It needs numpy and onnxruntime, and no other package.

It compares every file with its hash, opens the model without the bundle's library and with it, runs the sample, and
compares each output with the exact one, within the bound that manifest.json states. The last line says what came out;
the exit status is 0 if all is right, and 1 if anything is not.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

RUNTIME: str = onnxruntime.__version__
HERE = Path(__file__).resolve().parent
SYSTEMS = {"linux": "linux", "darwin": "macos", "win32": "windows"}
LARGEST = {"float64": 2.0**1023 * (2 - 2.0**-52), "float32": 2.0**127 * (2 - 2.0**-23), "float16": 65504.0}
LARGEST["bfloat16"] = 2.0**127 * (2 - 2.0**-7)
ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
BFLOAT16 = 16  # in onnx.TensorProto.DataType


class WrongError(Exception):
    """Something that is not as the bundle says."""


def this_platform() -> str:
    """Return the name of this machine's platform, as the manifest has it."""
    machine = {"amd64": "x86_64", "arm64": "arm64", "aarch64": "arm64"}.get(
        platform.machine().lower(), platform.machine().lower()
    )
    system = SYSTEMS.get(sys.platform, sys.platform)
    return f"{system}-{'aarch64' if (system, machine) == ('linux', 'arm64') else machine}"


def check_hashes(manifest: dict[str, Any]) -> None:
    """Compare every file with its hash, a megabyte at a time."""
    for path, expected in manifest["files"].items():
        digest = hashlib.sha256()
        try:
            with open(HERE / path, "rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
        except OSError as error:
            raise WrongError(f"'{path}' cannot be read: {error.strerror}; copy the bundle again") from error
        if digest.hexdigest() != expected["sha256"]:
            raise WrongError(f"'{path}' was changed; copy the bundle again")


def version(text: str) -> tuple[int, int]:
    """Return major and minor number."""
    major, minor = text.split(".")[:2]
    return int(major), int(minor)


def check_runtime(what: str, oldest: str | None) -> None:
    """Check that this onnxruntime is new enough."""
    if oldest is not None and version(RUNTIME) < version(oldest):
        raise WrongError(f"{what} needs onnxruntime {oldest} or newer, got {RUNTIME}; update it")


def open_session(manifest: dict[str, Any], libraries: list[dict[str, Any]]) -> onnxruntime.InferenceSession:
    """Open the model, with these libraries."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    for library in libraries:
        options.register_custom_ops_library(str(HERE / library["path"]))
    return onnxruntime.InferenceSession(str(HERE / manifest["model"]["path"]), options, ["CPUExecutionProvider"])


def load(entry: dict[str, Any]) -> Any:
    """Return a sample input as an array; bfloat16 as its 16 bits."""
    array = np.load(HERE / entry["sample"], allow_pickle=False)
    return array.astype(object) if entry["dtype"] == "string" else array


def to_ort_value(entry: dict[str, Any], array: Any) -> Any:
    """Return an array as onnxruntime's own value, which can hold bfloat16."""
    if entry["dtype"] != "bfloat16":
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)
    if not hasattr(onnxruntime.OrtValue, "ortvalue_from_numpy_with_onnx_type"):
        raise WrongError(f"onnxruntime {RUNTIME} takes no bfloat16 from Python; update it to 1.20 or newer")
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, BFLOAT16)


def to_numpy(value: Any) -> Any:
    """Return an output as an array; bfloat16 as float32."""
    if value.data_type() != "tensor(bfloat16)":
        return value.numpy()
    count = int(np.prod(value.shape()))
    bits = np.array((ctypes.c_uint16 * count).from_address(value.data_ptr()), np.uint32) << 16
    return bits.view(np.float32).reshape(value.shape())


def compare(entry: dict[str, Any], got: Any) -> float:
    """Compare one output with its exact value; return the largest error in units of its bound."""
    name, dtype = entry["name"], entry["dtype"]
    expected = np.load(HERE / (entry["exact"] or entry["sample"]), allow_pickle=False)
    if got.shape != expected.shape:
        raise WrongError(f"output '{name}' has shape {list(got.shape)}, not {list(expected.shape)}")
    if not entry["exact"]:
        return 0.0
    bound = np.load(HERE / entry["bound"], allow_pickle=False) if entry["bound"] else np.zeros(expected.shape)
    skipped = np.isnan(bound)
    if dtype not in LARGEST:
        is_wrong = (got.astype(expected.dtype) != expected) & ~skipped
        if is_wrong.any():
            raise WrongError(f"output '{name}': {int(is_wrong.sum())} of {is_wrong.size} values are not the exact ones")
        return 0.0
    got = got.astype(np.float64)
    with np.errstate(all="ignore"):
        may_overflow = np.abs(expected) + bound >= LARGEST[dtype] * (1 + ROUNDOFF[dtype] / 2)
        is_same = (np.isnan(got) & np.isnan(expected)) | (got == expected) | skipped
        is_same |= may_overflow & np.isinf(got) & (np.signbit(got) == np.signbit(expected))
        is_same |= np.isinf(bound) & np.isfinite(expected) & ~np.isnan(got)
        error = np.where(is_same, 0.0, np.abs(got - expected))
        is_wrong = ~(is_same | (np.isfinite(got) & np.isfinite(expected) & (error <= bound)))
        if is_wrong.any():
            at = tuple(int(i) for i in np.unravel_index(int(np.argmax(is_wrong)), is_wrong.shape))
            what = f"{got[at]!r} at {list(at)}, exactly {expected[at]!r}, bound {bound[at]!r}"
            raise WrongError(f"output '{name}': {int(is_wrong.sum())} of {is_wrong.size} values are wrong: {what}")
        return float(np.max(np.where(is_same, 0.0, error / bound), initial=0.0))


def run(manifest: dict[str, Any], libraries: list[dict[str, Any]]) -> str:
    """Run the sample once, and say how far the outputs were off."""
    session = open_session(manifest, libraries)
    inputs, outputs = manifest["inputs"], manifest["outputs"]
    names = [entry["name"] for entry in outputs]
    feed = {entry["name"]: load(entry) for entry in inputs}
    if any(entry["dtype"] == "bfloat16" for entry in [*inputs, *outputs]):
        feed = {entry["name"]: to_ort_value(entry, feed[entry["name"]]) for entry in inputs}
        values = [to_numpy(value) for value in session.run_with_ort_values(names, feed)]
    else:
        values = session.run(names, feed)
    worst = [compare(entry, value) for entry, value in zip(outputs, values)]  # noqa: B905
    proved = sum(bool(entry["exact"]) for entry in outputs)
    told = [f"{in_words(proved)} within {max(worst, default=0.0):.3g} of the bound"] if proved else []
    return " and ".join(told + [f"{in_words(len(names) - proved)} untested"] * (proved < len(names)))


def in_words(count: int) -> str:
    """Return a number of outputs in words."""
    return f"{count} output{'s' * (count != 1)}"


def main() -> int:
    """Check everything, print one line, and return the exit status."""
    here = this_platform()
    try:
        manifest = json.loads((HERE / "manifest.json").read_text(encoding="utf-8"))
        check_hashes(manifest)
        check_runtime("the model", manifest["model"]["oldest_onnxruntime"])
        said = []
        bodiless = [entry["name"] for entry in manifest["operators"] if not entry["has_body"]]
        if bodiless:
            said.append(f"without library: not run, {', '.join(bodiless)} has no definition in the model")
        else:
            said.append(f"without library: {run(manifest, [])}")
        libraries = [library for library in manifest["libraries"] if library["platform"] == here]
        for library in libraries:
            check_runtime(f"'{library['path']}'", library["oldest_onnxruntime"])
        if libraries:
            said.append(f"with library: {run(manifest, libraries)}")
        elif manifest["libraries"]:
            said.append(f"no library for {here}")
            if bodiless:
                raise WrongError(said[-1])
    except Exception as error:  # onnxruntime's own errors are of many types
        text = " ".join(str(error).split()) or type(error).__name__
        print(f"FAILED: {HERE.name}, onnxruntime {RUNTIME}, {here}: {text}")
        return 1
    print(f"ok: {manifest['name']}, onnxruntime {RUNTIME}, {here}: {'; '.join(said)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
