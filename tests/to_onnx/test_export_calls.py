"""Every way to call a model exports as it is called: structures, names, compiled parts, vmap, autocast, fast paths.

Long because each test brings a small model of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

import ort_ops
from exporter import ExportError, MyLinear, export, linear, swap_linear
from exporter.errors import NoOperatorWarning
from ort_ops.models.nodes import operator_nodes

ENGINES = ("dynamo", "torchscript")


class Calls(nn.Module):
    """A layer, and a forward that is given."""

    def __init__(self, call: Callable[..., Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.call = MyLinear(3, 3), call

    def forward(self, *xs: Any, **named: Any) -> Any:
        return self.call(self.layer, *xs, **named)


class OfList(Calls):
    def forward(self, xs: Any) -> Any:
        return self.call(self.layer, xs)


class Pair(NamedTuple):
    left: Tensor
    right: Tensor | None


@dataclass
class Batch:
    x: Tensor
    scale: float


@dataclass
class Unknown:
    x: Tensor


torch.export.register_dataclass(Batch)


def names_and_dims(path: Path) -> tuple[list[str], list[int | str]]:
    graph = onnx.load(path).graph
    dims = [dim.dim_param or dim.dim_value for dim in graph.output[0].type.tensor_type.shape.dim]
    return [value.name for value in graph.input], dims


def run(path: Path, *tensors: Tensor) -> Any:
    session = ort_ops.InferenceSession(path, kernels="body")
    names = [value.name for value in session.get_inputs()]
    return session.run(None, dict(zip(names, [t.numpy() for t in tensors], strict=True)))[0]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("call", "argument", "names"),
    [
        (lambda layer, xs: layer(xs[0]), lambda x: [x], ["xs_0"]),
        (lambda layer, xs: layer(xs[0]), lambda x: (x,), ["xs_0"]),
        (lambda layer, xs: layer(xs["a"]), lambda x: {"a": x}, ["xs_a"]),
        (lambda layer, xs: layer(xs["a"][0]) + xs["b"].b[1], lambda x: {"a": [x], "b": _b(x)}, ["xs_a_0", "xs_b_b_1"]),
        (lambda layer, xs: layer(xs.left), lambda x: Pair(x, None), ["xs_left"]),
        (lambda layer, xs: layer(xs.x) * xs.scale, lambda x: Batch(x, 0.5), ["xs_x"]),
        (lambda layer, xs: layer(xs[0]) + xs[1], lambda x: [x, 3], ["xs_0"]),
    ],
    ids=["list", "tuple", "dict", "nested", "namedtuple", "dataclass", "with a number"],
)
def test_one_argument_keeps_its_structure(
    engine: str, call: Any, argument: Any, names: list[str], tmp_path: Path
) -> None:
    model, x = OfList(call).eval(), torch.rand(8, 3)
    export(model, (argument(x),), tmp_path / "m.onnx", engine=engine)
    assert names_and_dims(tmp_path / "m.onnx") == (names, ["batch", 3])
    x = torch.rand(5, 3)
    expected = model(argument(x)).detach()
    np.testing.assert_allclose(run(tmp_path / "m.onnx", *[x] * len(names)), expected, rtol=1e-5, atol=1e-6)


class _Inner(NamedTuple):
    b: list[Tensor | None]


def _b(x: Tensor) -> _Inner:
    return _Inner([None, x])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("args", "kwargs", "names"),
    [
        (2, {}, ["xs_0", "xs_1"]),
        (0, {"input": 1}, ["input"]),
        (1, {"bias": 1}, ["xs_0", "bias"]),
    ],
    ids=str,
)
def test_any_number_of_arguments_and_keywords_keep_their_names(
    engine: str, args: int, kwargs: dict[str, int], names: list[str], tmp_path: Path
) -> None:
    model = Calls(lambda layer, *xs, **named: layer(sum([*xs, *named.values()])))
    named = {name: torch.rand(4, 3) for name in kwargs}
    export(model, tuple(torch.rand(4, 3) for _ in range(args)), tmp_path / "m.onnx", kwargs=named, engine=engine)
    assert names_and_dims(tmp_path / "m.onnx") == (names, ["batch", 3])


@pytest.mark.parametrize("engine", ENGINES)
def test_names_that_are_taken_are_not_given_twice(engine: str, tmp_path: Path) -> None:
    class Taken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.a_b = MyLinear(3, 3), nn.Parameter(torch.rand(3))

        def forward(self, y: Tensor, a: dict[str, Tensor]) -> Tensor:
            return self.layer(y) + self.a_b * a["b"]

    export(Taken(), (torch.rand(4, 3), {"b": torch.rand(4, 3)}), tmp_path / "m.onnx", engine=engine)
    graph = onnx.load(tmp_path / "m.onnx").graph
    assert [value.name for value in (*graph.input, *graph.output)] == ["y", "a_b_1", "output"]


class Wrongly(nn.Module):
    """Reads a list of two otherwise than pytree writes it, so that a rebuilt call is not the caller's own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = MyLinear(3, 3)

    def forward(self, xs: Any) -> Any:
        return self.layer(xs[0]) * (2.0 if isinstance(xs, Marked) else 1.0)


class Marked(list[Tensor]):
    """A list with a class of its own, which is registered as though it were a plain one."""


torch.utils._pytree.register_pytree_node(
    Marked, lambda xs: (list(xs), None), lambda xs, _: list(xs), serialized_type_name="tests.Marked"
)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_caller_s_own_call_is_what_is_compared(engine: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="output 'y'"):
        export(Wrongly(), (Marked([torch.rand(4, 3)]),), tmp_path / "m.onnx", engine=engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_model_that_overwrites_its_input_leaves_the_example_as_it_was(engine: str, tmp_path: Path) -> None:
    model, x = Calls(lambda layer, x: layer(x.add_(1))), torch.rand(4, 3)
    before = x.clone()
    export(model, x, tmp_path / "m.onnx", engine=engine)
    assert torch.equal(x, before)
    np.testing.assert_allclose(run(tmp_path / "m.onnx", x), model(x).detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "args", "kwargs", "message"),
    [
        (MyLinear(3, 3), np.zeros((2, 3)), None, r"got a numpy.ndarray; torch.from_numpy\(array\) makes a tensor"),
        (torch.rand(2, 3), MyLinear(3, 3), None, r"model must be a torch.nn.Module .* are model and args swapped\?"),
        ((torch.rand(2, 3),), MyLinear(3, 3), None, r"model must be a torch.nn.Module .* are model and args swapped\?"),
        (MyLinear(3, 3), "m.onnx", None, r"got a str; the call is export\(model, args, path\)"),
        (MyLinear(3, 3), {"x": torch.rand(2, 3)}, None, r"got a dict; a single argument .* args=\(argument,\)"),
        (MyLinear(3, 3), Pair(torch.rand(2, 3), None), None, r"Pair; a single argument .* args=\(argument,\)"),
        (MyLinear(3, 3), torch.rand(2, 3), [1], "kwargs must be a dict of arguments by name, got a list"),
        (MyLinear(3, 3), (torch.rand(2, 3),) * 2, None, r"does not fit MyLinear.forward.*too many positional"),
        (MyLinear(3, 3), (Unknown(torch.rand(2, 3)),), None, "in which torch sees no tensors; register the class"),
        (OfList(len), ([np.zeros(3)],), None, "argument 'xs_0' is a numpy.ndarray"),
        (OfList(lambda layer, xs: Unknown(layer(xs))), torch.rand(2, 3), None, "the model must return tensors"),
        (linear, torch.rand(2, 3), None, "model must be a torch.nn.Module .* got a function"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_call_is_said_in_a_line(model: Any, args: Any, kwargs: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message) as caught:
        export(model, args, tmp_path / "m.onnx", kwargs=kwargs)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_args_and_path_the_other_way_round() -> None:
    with pytest.raises(ExportError, match=r"path must be the name of a file, got a torch.Tensor; are args and path sw"):
        export(MyLinear(3, 3), "m.onnx", torch.rand(2, 3))  # type: ignore[arg-type]


def test_a_model_without_the_layer_names_what_puts_it_in(tmp_path: Path) -> None:
    with pytest.warns(NoOperatorWarning, match=r"exporter\.swap_linear\(model\).*`mylinear adopt`"):
        export(nn.Linear(3, 3), torch.rand(2, 3), tmp_path / "m.onnx")


@pytest.mark.filterwarnings("ignore")  # the compiler's own, by the dozen
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["the model", "a part", "in place"])
def test_compiled_modules(engine: str, kind: str, tmp_path: Path) -> None:
    model: Any = nn.Sequential(MyLinear(3, 4), nn.ReLU(), MyLinear(4, 2))
    if kind == "the model":
        model = torch.compile(model, backend="eager")
    elif kind == "a part":
        model[2] = torch.compile(model[2], backend="eager")
    else:
        model.compile(backend="eager")
    assert export(model, torch.rand(4, 3), tmp_path / "m.onnx", engine=engine).num_linear == 2
    assert names_and_dims(tmp_path / "m.onnx") == (["x"], ["batch", 2])
    x = torch.rand(6, 3)
    np.testing.assert_allclose(run(tmp_path / "m.onnx", x), model(x).detach(), rtol=1e-5, atol=1e-6)
    assert kind != "in place" or model._compiled_call_impl is not None


class Ensemble(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.models = nn.ModuleList(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)) for _ in range(3))
        swap_linear(self)

    def forward(self, x: Tensor) -> Tensor:
        names = dict(self.models[0].named_parameters())
        stacked = {name: torch.stack([m.get_parameter(name) for m in self.models]) for name in names}
        call = lambda parameters, x: functional_call(self.models[0], parameters, (x,))  # noqa: E731
        return vmap(call, in_dims=(0, None))(stacked, x)


def test_an_ensemble_by_vmap_has_a_node_for_each_of_its_layers(tmp_path: Path) -> None:
    model = Ensemble().eval()
    stack_module_state(list(model.models))  # as torch's tutorial does
    assert export(model, torch.rand(5, 3), tmp_path / "m.onnx").num_linear == 6
    assert names_and_dims(tmp_path / "m.onnx") == (["x"], [3, "batch", 2])
    x = torch.rand(7, 3)
    np.testing.assert_allclose(run(tmp_path / "m.onnx", x), model(x).detach(), rtol=1e-5, atol=1e-6)


def test_vmap_over_a_batch_of_weights_keeps_the_batch_dynamic(tmp_path: Path) -> None:
    def each_row_has_weights(layer: MyLinear, x: Tensor) -> Tensor:
        return vmap(lambda row, weight: linear(row, weight))(x, layer(x).view(-1, 1, 3))

    model = Calls(each_row_has_weights)
    export(model, (torch.rand(4, 3),), tmp_path / "m.onnx")
    assert names_and_dims(tmp_path / "m.onnx") == (["x"], ["batch", 1])
    x = torch.rand(9, 3)
    np.testing.assert_allclose(run(tmp_path / "m.onnx", x), model(x).detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_autocast_casts_in_the_file_too(engine: str, tmp_path: Path) -> None:
    def narrow(layer: MyLinear, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return layer(x).float()

    export(Calls(narrow), torch.rand(4, 3), tmp_path / "m.onnx", engine=engine)
    (node,) = operator_nodes(onnx.load(tmp_path / "m.onnx"))
    inputs = {value.name: value.type.tensor_type.elem_type for value in onnx.load(tmp_path / "m.onnx").graph.value_info}
    assert inputs[node.node.output[0]] == onnx.TensorProto.BFLOAT16


class Encoder(nn.Module):
    def __init__(self, *, ignores_padding: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(8, 2)
        self.ignores_padding = ignores_padding
        swap_linear(self)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        hidden = self.encoder(x, src_key_padding_mask=mask)
        return self.head((hidden * ~mask[..., None] if self.ignores_padding else hidden).sum(1))


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
@pytest.mark.parametrize("engine", ENGINES)
def test_a_transformer_with_a_padding_mask(engine: str, tmp_path: Path) -> None:
    mask = torch.zeros(3, 5, dtype=torch.bool)
    mask[0, 3:] = True
    example = torch.rand(3, 5, 8), mask
    with torch.no_grad():  # torch takes its fast path only so
        export(Encoder(ignores_padding=True), example, tmp_path / "m.onnx", engine=engine)
        with pytest.raises(ExportError, match=r"torch\.backends\.mha\.set_fastpath_enabled\(False\) first"):
            export(Encoder(ignores_padding=False), example, tmp_path / "m.onnx", engine=engine)
    assert torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        export(Encoder(ignores_padding=False), example, tmp_path / "m.onnx", engine=engine)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
