"""torch.compile, torch.export, jit.trace, fx, AOTInductor and opcheck: the same numbers, and one node per call."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim
from torch.func import grad, hessian, jacfwd, jvp, vmap

from exporter.operators.mylinear.functional import linear
from exporter.operators.mylinear.module import MyLinear

OP = torch.ops.mylinear.linear.default
pytestmark = pytest.mark.filterwarnings("ignore")  # the compilers' own, by the dozen


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Mlp(nn.Module):
    def __init__(self, layer: type[nn.Linear] = MyLinear) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = layer(8, 16), layer(16, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(torch.relu(self.first(x)))
        return y


class Autocast(Mlp):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(x).float()


def sample(leading: tuple[int, ...] = (3,), dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(s, generator=generator, dtype=dtype) for s in [(*leading, 2), (4, 2), (4,)]]


def num_nodes(program: torch.export.ExportedProgram) -> int:
    modules = [m for m in program.graph_module.modules() if isinstance(m, torch.fx.GraphModule)]
    return sum(node.target is OP for module in modules for node in module.graph.nodes)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.long)])
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_with_backward_gives_nn_linear_s_numbers(backend: str, dynamic: bool) -> None:
    models = Mlp(), Mlp(nn.Linear)
    compiled = torch.compile(models[0], fullgraph=True, dynamic=dynamic, backend=backend)
    for leading in [(3,), (5,), (2, 3)] if backend == "aot_eager" else [(3,), (5,)]:
        x = torch.rand(*leading, 8)
        for model, function in zip(models, (compiled, models[1]), strict=True):
            model.zero_grad()
            function(x).square().sum().backward()
        for ours, theirs in zip(models[0].parameters(), models[1].parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad)


def test_dynamic_shapes_are_compiled_once() -> None:
    from torch._dynamo.testing import CompileCounterWithBackend

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(linear, fullgraph=True, dynamic=True, backend=counter)
    for rows in (3, 5, 7):
        compiled(*sample((rows,)))
    assert counter.frame_count == 1


@pytest.mark.parametrize("wanted", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)], ids=str)
def test_compiled_gradients_of_subsets(wanted: tuple[int, ...]) -> None:
    ours, theirs = ([t.requires_grad_(bool(w)) for t, w in zip(sample(), wanted, strict=True)] for _ in range(2))
    torch.compile(linear, fullgraph=True, backend="aot_eager")(*ours).square().sum().backward()
    F.linear(*theirs).square().sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("inside", [True, False])
def test_compile_under_autocast(dtype: torch.dtype, inside: bool) -> None:
    def call(function: Callable[..., Tensor], is_compiled: bool) -> list[Tensor | None]:
        tensors = [t.requires_grad_() for t in sample(dtype=torch.float32)]

        def whole(*a: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype):
                return function(*a)

        chosen = whole if inside else function
        chosen = torch.compile(chosen, fullgraph=True, backend="aot_eager") if is_compiled else chosen
        with torch.autocast("cpu", dtype, enabled=not inside):
            out = chosen(*tensors)
        assert out.dtype is dtype
        out.float().square().sum().backward()
        return [out, *(t.grad for t in tensors)]

    for ours, theirs in zip(call(linear, True), call(F.linear, False), strict=True):
        torch.testing.assert_close(ours, theirs)


COMPILED = {
    "jvp": lambda f: lambda *a: jvp(f, a, a),
    "grad": lambda f: lambda x, w, b: grad(lambda w: f(x, w, b).pow(3).sum())(w),
    "per-sample": lambda f: lambda x, w, b: vmap(grad(lambda w, x: f(x, w, b).pow(3).sum()), (None, 0))(w, x),
    "vmap of weights": lambda f: lambda x, w, b: vmap(f, (None, 0, 0))(x, torch.stack([w, -w]), torch.stack([b, b])),
    "hessian": lambda f: lambda x, w, b: hessian(lambda w: f(x, w, b).pow(3).sum())(w),
    "jacfwd of jacfwd": lambda f: lambda x, w, b: jacfwd(jacfwd(lambda x, w: f(x, w, b).pow(3).sum()), 1)(x, w),
}


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_transforms_give_f_linear_s_numbers(name: str) -> None:
    ours = torch.compile(COMPILED[name](linear), fullgraph=True, backend="aot_eager")(*sample())
    torch.testing.assert_close(ours, COMPILED[name](F.linear)(*sample()))


def test_compiled_autograd() -> None:
    ours, theirs = ([t.requires_grad_() for t in sample()] for _ in range(2))
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager")):
        linear(*ours).square().sum().backward()
    F.linear(*theirs).square().sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("leading", [(), (3,), (2, 3)], ids=str)
def test_export_keeps_one_node_per_call(strict: bool, dynamic: bool, leading: tuple[int, ...]) -> None:
    model, x = Mlp(), torch.rand(*leading, 8)
    shapes = {"x": {0: Dim("batch")}} if dynamic and leading else None
    program = torch.export.export(model, (x,), strict=strict, dynamic_shapes=shapes)
    assert num_nodes(program) == num_nodes(program.run_decompositions()) == 2
    assert torch.equal(program.module()(x), model(x))
    if shapes:
        more = torch.rand(7, *leading[1:], 8)
        assert torch.equal(program.module()(more), model(more))


@pytest.mark.parametrize("strict", [True, False])
def test_export_of_an_autocast_block_keeps_the_nodes(strict: bool) -> None:
    model, x = Autocast(), torch.rand(3, 8)
    program = torch.export.export(model, (x,), strict=strict)
    assert num_nodes(program) == 2
    assert torch.equal(program.module()(x), model(x))


def test_an_exported_program_is_saved_loaded_and_trained() -> None:
    model, x = Mlp(), torch.rand(3, 8)
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(model, (x,)), buffer)
    buffer.seek(0)
    loaded = torch.export.load(buffer).module()
    for each in (model, loaded):
        each(x).square().sum().backward()
    for ours, theirs in zip(loaded.parameters(), model.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert torch.equal(ours.grad, theirs.grad)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loaded(x), model(x))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("leading", [(), (1,), (3,), (0,), (2, 3), (2, 0, 3), (2, 1, 3, 2)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.complex64], ids=str)
def test_opcheck(leading: tuple[int, ...], bias: bool, dtype: torch.dtype) -> None:
    tensors = [t.requires_grad_() for t in sample(leading, dtype)]
    tolerance = {"rtol": 1e-2, "atol": 1e-2} if dtype is torch.bfloat16 else {}
    torch.library.opcheck(OP, (*tensors[:2], tensors[2] if bias else None), **tolerance)


@pytest.mark.parametrize("wanted", [(False, False, False), (True, False, False), (False, True, True)], ids=str)
@pytest.mark.parametrize("layout", ["transposed", "expanded", "every other"])
def test_opcheck_of_layouts_and_subsets(wanted: tuple[bool, ...], layout: str) -> None:
    x = {
        "transposed": torch.rand(2, 3).t(),
        "expanded": torch.rand(1, 2).expand(3, 2),
        "every other": torch.rand(6, 4)[::2, ::2],
    }[layout]
    tensors = [t.requires_grad_(w) for t, w in zip([x, torch.rand(4, 2), torch.rand(4)], wanted, strict=True)]
    torch.library.opcheck(OP, tensors)


def test_jit_trace_records_the_op_and_can_be_saved_and_differentiated() -> None:
    model, x = Mlp(), torch.rand(3, 8)
    traced = torch.jit.trace(model, (x,))
    assert str(traced.inlined_graph).count("mylinear::linear") == 2
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer)
    buffer.seek(0)
    loaded = torch.jit.load(buffer)
    more = torch.rand(2, 5, 8)  # no shape was burnt in
    assert torch.equal(loaded(more), model(more))
    loaded(more).sum().backward()
    assert all(parameter.grad is not None for parameter in loaded.parameters())


def test_fx_keeps_one_call_of_linear_from_a_module_and_from_a_function() -> None:
    model, x = Mlp(), torch.rand(3, 8)
    graph = torch.fx.symbolic_trace(model)
    assert [node.target for node in graph.graph.nodes].count(linear) == 2
    assert torch.equal(graph(x), model(x))
    function = torch.fx.symbolic_trace(lambda x, weight: linear(x, weight) + 1)
    assert [node.target for node in function.graph.nodes].count(linear) == 1
    weight = torch.rand(4, 8)
    assert torch.equal(function(x, weight), linear(x, weight) + 1)
    torch.compile(function, backend="aot_eager", fullgraph=True)(x, weight)


def test_make_fx_traces_through() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    graph = make_fx(linear, tracing_mode="symbolic")(*sample())
    torch.testing.assert_close(graph(*sample((5,))), F.linear(*sample((5,))))


@pytest.mark.slow
def test_aot_inductor_runs_an_exported_model(tmp_path: Path) -> None:
    model, x = Mlp().eval(), torch.rand(3, 8)
    program = torch.export.export(model, (x,), dynamic_shapes={"x": {0: Dim("batch", min=2)}})
    package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "model.pt2"))
    # In a process of its own, which knows the op because it imports exporter.
    script = f"""
import torch, exporter.operators.mylinear.functional
x = torch.load({str(tmp_path / "x.pt")!r})
torch.save(torch._inductor.aoti_load_package({package!r})(x), {str(tmp_path / "y.pt")!r})
"""
    more = torch.rand(5, 8)
    torch.save(more, tmp_path / "x.pt")
    subprocess.run([sys.executable, "-c", script], check=True)
    torch.testing.assert_close(torch.load(tmp_path / "y.pt"), model(more))
