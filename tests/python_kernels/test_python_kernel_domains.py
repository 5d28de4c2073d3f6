"""Domains of operators with Python kernels: what may be in a name, and how many there may be."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from onnx import helper

from ort_ops.native import library as native

if not native.status().is_usable:
    pytest.skip(str(native.status().reason), allow_module_level=True)

import ort_ops
from ort_ops import Float32
from ort_ops.python_kernels.decorator import PythonKernel
from tests.native_support import Array
from tests.python_kernel_support import X, declare, quiet, remove_all_kernels, session

pytestmark = pytest.mark.native


@pytest.fixture(autouse=True)
def nothing_is_left_defined() -> Iterator[None]:
    yield
    remove_all_kernels()


def double(x: Float32) -> Float32:
    return x + x


def model_of(kernel: PythonKernel[..., Array]) -> bytes:
    x, y = declare("x", "float32", ["b", 3]), declare("y", "float32", ["b", 3])
    graph = helper.make_graph([kernel.make_node(["x"], ["y"])], "test", [x], [y])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(kernel.domain, 1)]
    data: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    return data


@pytest.mark.parametrize("domain", ["my domain", " x ", "gerät.ø", "a/b:c", "a::b", "0", "x" * 3000])
def test_any_printable_domain_works(domain: str) -> None:
    kernel = ort_ops.python_kernel(f"{domain}::Double")(double)
    np.testing.assert_array_equal(session(model_of(kernel)).run(None, {"x": X})[0], X + X)
    options = quiet()
    ort_ops.register(options, python_domains=[domain])
    np.testing.assert_array_equal(ort_ops.InferenceSession(model_of(kernel), options).run(None, {"x": X})[0], X + X)


@pytest.mark.parametrize("domain", ["a\0b", "a\nb", "\0", "a\tb", "\udc80", "a\u200bb", "a\x7f"], ids=ascii)
def test_a_domain_that_cannot_be_printed_is_refused(domain: str) -> None:
    with pytest.raises(ort_ops.DefinitionError, match=r"the domain must be of printable characters, got '.*\\"):
        ort_ops.python_kernel(f"{domain}::Double")(double)


def test_hundreds_of_domains() -> None:
    """Together their names are longer than a config value of onnxruntime can be, which is 8192 bytes."""
    kernels = [ort_ops.python_kernel(f"some.long.name.of.a.domain.number{i}::Double")(double) for i in range(300)]
    for kernel in (kernels[0], kernels[-1]):
        np.testing.assert_array_equal(session(model_of(kernel)).run(None, {"x": X})[0], X + X)
    options = quiet()
    ort_ops.register(options, python_domains=[kernel.domain for kernel in kernels[:-1]])
    with pytest.raises(ort_ops.KernelError, match="was defined after these options were registered"):
        ort_ops.InferenceSession(model_of(kernels[-1]), options)
