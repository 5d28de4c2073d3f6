"""MYLINEARGRAD's CUDA kernel on a GPU: every sample of its kit, larger sizes, TF32, and where its nodes run.

Runs where ``test_cuda.py`` does; else everything is skipped, with the reason.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import ort_ops
from ort_ops.inspection.model import inspect_model
from ort_ops.native import cuda
from ort_ops.numerics.bound import ROUNDED, TENSOR_CORES, TF32, Arithmetic
from ort_ops.numerics.compare import compare
from ort_ops.opdef.call import Call, make_call
from ort_ops.opdef.element_types import ELEMENT_TYPES
from ort_ops.operators.mylineargrad.contract import MYLINEARGRAD
from ort_ops.operators.mylineargrad.kit import KIT
from tests.cases import numpy_dtype
from tests.every_operator import feed_of, in_place, one_node, sample_calls

_STATUS = cuda.status()
if _STATUS.reason is not None:
    pytest.skip(_STATUS.reason, allow_module_level=True)

pytestmark = [pytest.mark.cuda, pytest.mark.native]
DTYPES = ("float64", "float32", "float16", "bfloat16")
# (rows, out_features, in_features)
SIZES = ((1, 1024, 512), (5, 129, 257), (64, 64, 1), (300, 3, 64), (256, 1024, 1024), (8192, 10, 128))


def run(call: Call, **options: str) -> list[Any]:
    """Run a call on the GPU, and nowhere else; in float32 without TF32 unless that is asked for."""
    model = one_node(call)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    providers = [(cuda.PROVIDER, {"use_tf32": "0"} | options), "CPUExecutionProvider"]
    session = ort_ops.InferenceSession(model.SerializeToString(), settings, providers, kernels="cuda")
    assert session.get_providers()[0] == cuda.PROVIDER, "onnxruntime fell back to the CPU; its log says why"
    return in_place(model, session.run(None, feed_of(call, model)))


def check(call: Call, results: list[Any], arithmetic: Arithmetic | None = None) -> None:
    element_type = call.types["T"]
    arithmetic = arithmetic or (TENSOR_CORES if element_type.name in ("float16", "bfloat16") else ROUNDED)
    for got, exact, bound in zip(results, KIT.reference(call), KIT.bound(call, arithmetic), strict=True):
        if got is not None:
            assert bound is not None
            found = compare(got, exact, bound, element_type)
            assert found.is_within_bound, f"{call.label}: {found.complaint}"


def call_of(sizes: tuple[int, int, int], dtype: str) -> Call:
    rows, out_features, in_features = sizes
    rng = np.random.default_rng(sum(sizes))
    shapes = ((rows, out_features), (rows, in_features), (out_features, in_features))
    return make_call(MYLINEARGRAD, [rng.standard_normal(shape).astype(numpy_dtype(dtype)) for shape in shapes])


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_sample(dtype: str) -> None:
    for call in sample_calls(KIT, {"T": ELEMENT_TYPES[dtype]}):
        check(call, run(call))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_larger_sizes(sizes: tuple[int, int, int], dtype: str) -> None:
    call = call_of(sizes, dtype)
    results = run(call)
    check(call, results)
    for again, before in zip(run(call), results, strict=True):
        assert again.tobytes() == before.tobytes()


def test_tf32_only_where_the_session_allows_it() -> None:
    call = call_of((512, 512, 2048), "float32")
    check(call, run(call), ROUNDED)
    check(call, run(call, use_tf32="1"), TF32)


def test_the_forward_and_the_backward_stay_on_the_device(tmp_path: Path) -> None:
    declared = [onnx.helper.make_tensor_value_info(name, 1, [4, 4]) for name in "GXW"]
    nodes = [
        onnx.helper.make_node("MYLINEAR", ["X", "W"], ["Y"], domain="mylinear"),
        onnx.helper.make_node("MYLINEARGRAD", ["Y", "X", "W"], ["GX", "GW"], domain="mylinear"),
        onnx.helper.make_node("Add", ["GX", "G"], ["Z"]),
    ]
    results = [onnx.helper.make_tensor_value_info(name, 1, None) for name in ("Z", "GW")]
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("mylinear", 1)]
    graph = onnx.helper.make_graph(nodes, "both", declared, results)
    path = tmp_path / "both.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    running = inspect_model(path, providers=[(cuda.PROVIDER, {}), "CPUExecutionProvider"]).running
    assert not running.error
    if not running.assignment:
        pytest.skip("this onnxruntime cannot tell where its nodes are")
    assert running.assignment[cuda.PROVIDER]["mylinear::MYLINEARGRAD"] == 1
    assert running.copies == 0
