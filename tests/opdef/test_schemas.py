"""Schemas of ours: registered once per version, and out of onnx's registry before the interpreter ends."""

from __future__ import annotations

import subprocess
import sys

import onnx
import pytest

from ort_ops.opdef import schemas
from ort_ops.opdef.onnx_objects import make_schema, register_schema
from ort_ops.operators.mylinear.contract import MYLINEAR

_LEAVES = """
import atexit

from onnx import defs

import ort_ops
from ort_ops.opdef.onnx_objects import register_schema
from ort_ops.operators.mylinear.contract import MYLINEAR

# Functions registered first run last: this one sees what is left.
atexit.register(lambda: print(defs.has("MYLINEAR", 1, "mylinear"), defs.has("Twice", 1, "my.domain")))
register_schema(MYLINEAR)


@ort_ops.python_kernel("my.domain::Twice")
def twice(x: ort_ops.Float) -> ort_ops.Float:
    return x + x


print(defs.has("MYLINEAR", 1, "mylinear"), defs.has("Twice", 1, "my.domain"))
"""


def test_no_schema_of_ours_outlives_the_interpreter() -> None:
    done = subprocess.run([sys.executable, "-c", _LEAVES], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split("\n")[:2] == ["True True", "False False"]


def test_registering_again_replaces_the_definition() -> None:
    schema = make_schema(MYLINEAR)
    schemas.register(schema)
    schemas.register(make_schema(MYLINEAR))
    assert schemas.is_registered(schema.name, schema.since_version, schema.domain)


def test_deregistering_what_is_not_there_does_nothing() -> None:
    schemas.deregister("Nothing", 1, "nobody")
    with pytest.raises(onnx.defs.SchemaError):
        onnx.defs.get_schema("Nothing", 1, "nobody")


def test_another_version_of_an_operator_is_not_this_one() -> None:
    register_schema(MYLINEAR)
    assert not schemas.is_registered(MYLINEAR.name, MYLINEAR.since_version + 98, MYLINEAR.domain)
