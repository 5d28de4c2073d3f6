"""The ways of computing MYLINEAR that the parity tests compare."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from exporter.operators.mylinear.functional import linear
from exporter.torch_ops.tensors import from_numpy, to_numpy
from ort_ops.native import library as native
from ort_ops.operators.mylinear.contract import ELEMENT_TYPES
from ort_ops.operators.mylinear.reference import MylinearReference
from ort_ops.session import InferenceSession, available_kernels
from tests.linear_model import make_linear_model

Array = NDArray[Any]


class Backend(ABC):
    """One way of computing the operator, in the ``dtypes`` that it has."""

    dtypes: tuple[str, ...] = tuple(element_type.name for element_type in ELEMENT_TYPES)

    def __init__(self, name: str) -> None:
        self.name = name

    def __str__(self) -> str:
        return self.name

    @abstractmethod
    def run(self, x: Array, weight: Array, bias: Array | None) -> Array:
        """Compute the operator."""


class Eager(Backend):
    """torch, through the dispatcher."""

    def run(self, x: Array, weight: Array, bias: Array | None) -> Array:
        tensors = [None if array is None else from_numpy(array) for array in (x, weight, bias)]
        with torch.no_grad():
            return to_numpy(linear(tensors[0], tensors[1], tensors[2]))  # type: ignore[arg-type]


class LibraryOp(Backend):
    """torch, through the library op that an exported program calls."""

    def run(self, x: Array, weight: Array, bias: Array | None) -> Array:
        tensors = [None if array is None else from_numpy(array) for array in (x, weight, bias)]
        return to_numpy(torch.ops.mylinear.linear.default(*tensors))


class Evaluator(Backend):
    """onnx's ReferenceEvaluator with our operator."""

    def run(self, x: Array, weight: Array, bias: Array | None) -> Array:
        model = make_linear_model([*x.shape], weight, bias, with_function=False)
        return np.asarray(ReferenceEvaluator(model, new_ops=[MylinearReference]).run(None, {"x": x})[0])


class Session(Backend):
    """onnxruntime with one of our kernels, or by the function body."""

    def __init__(self, name: str, dtypes: tuple[str, ...], isa: str | None = None) -> None:
        super().__init__(f"{name}[{isa}]" if isa else name)
        self.kernel = name
        self.dtypes = dtypes
        self.isa = isa

    def run(self, x: Array, weight: Array, bias: Array | None) -> Array:
        model = make_linear_model([*x.shape], weight, bias, with_function=self.kernel == "body")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        with pytest.MonkeyPatch.context() as patch:
            if self.isa:
                patch.setenv(native.ISA_VARIABLE, self.isa)
            session = InferenceSession(model.SerializeToString(), options, kernels=self.kernel)
        result: Array = session.run(None, {"x": x})[0]
        return result


BACKENDS: tuple[Backend, ...] = (
    Eager("eager"),
    LibraryOp("library op"),
    Evaluator("evaluator"),
    *(Session("cpp", Backend.dtypes, isa) for isa in native.status().usable_isas),
    *(Session(k.name, k.element_types) for k in available_kernels() if k.is_available and k.name in ("python", "body")),
)
