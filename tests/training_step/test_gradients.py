"""Files of gradients: each is within the bound of what torch computes, in a stock onnxruntime, at any batch size.

Models that take long are marked slow: ``pytest -m slow tests/training_step/test_gradients.py``.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import exporter
from exporter import export_gradients
from exporter.training_step import graphs
from ort_ops.analysis.float64_run import Float64Run
from ort_ops.cli import main as cli
from ort_ops.training.check import read_training


def compare(path: Path, feed: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Compare a file in plain onnxruntime, and torch, with the file's graph in float64."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    arrays = {name: tensor.detach().numpy() for name, tensor in feed.items()}
    names = [output.name for output in session.get_outputs()]
    assert names == list(expected)
    exact = Float64Run(onnx.load(path))(arrays).outputs
    for name, got in zip(names, session.run(names, arrays), strict=True):
        for result in (got, expected[name].detach().numpy()):
            comparison = exact[name].relaxed.compare(result)
            assert comparison.is_within_bound, f"{name}: {comparison.complaint}"
            assert comparison.is_proof, name


def by_torch(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    wrt: Sequence[str],
    of: Sequence[int],
    seeds: Sequence[Tensor] | None,
) -> dict[str, Tensor]:
    """Return outputs and gradients by autograd, named as in a file with default names."""
    leaves = {name: tensor.clone().requires_grad_() if name in wrt else tensor for name, tensor in inputs.items()}
    found = model(*leaves.values())
    outputs = [found] if isinstance(found, Tensor) else list(found)
    leaves |= dict(model.named_parameters())
    chosen = [outputs[i] for i in of]
    grads = torch.autograd.grad(chosen, [leaves[name] for name in wrt], seeds or [torch.ones_like(o) for o in chosen])
    names = ["y"] if len(outputs) == 1 else [f"y{i}" for i in range(len(outputs))]
    return dict(zip([*names, *(f"{name}/grad" for name in wrt)], [*outputs, *grads], strict=True))


class Block(nn.Module):
    """A transformer's layer on embeddings, with a mask, N-D."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm = nn.LayerNorm(4)
        self.up, self.down = exporter.MyLinear(4, 8), exporter.MyLinear(8, 4)

    def forward(self, embeddings: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        mixed, weights = self.attention(embeddings, embeddings, embeddings, key_padding_mask=mask)
        x = self.norm(embeddings + mixed)
        return x + self.down(torch.tanh(self.up(x))), weights


class Several(nn.Module):
    """Several inputs, one of integers, and several outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(5, 3)
        self.mixed = exporter.MyLinear(3, 2)
        self.scale = nn.Parameter(torch.tensor([1.5, -0.5]), requires_grad=False)

    def forward(self, x: Tensor, ids: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = self.mixed(x * self.words(ids)) * self.scale
        return y, ids + 1, (y * z).sum()


class Energy(nn.Module):
    """The energy of atoms, from the distances of all pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(exporter.MyLinear(1, 6), nn.SiLU(), exporter.MyLinear(6, 1))

    def forward(self, positions: Tensor) -> Tensor:
        distances = (positions[:, None] - positions[None]).square().sum(-1)
        return self.net(torch.exp(-distances)[..., None]).sum()  # type: ignore[no-any-return]


def test_forces_are_those_of_torch_for_any_number_of_atoms(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Energy()
    result = export_gradients(model, torch.rand(5, 3), tmp_path / "it.onnx")
    assert result.gradients == {"x/grad": "x"}
    assert result.num_nodes == {"mylinear::MYLINEAR": 2, "mylinear::MYLINEARGRAD": 2}
    for atoms in (2, 9):
        positions = torch.rand(atoms, 3)
        compare(result.path, {"x": positions}, by_torch(model, {"x": positions}, ["x"], [0], None))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_products_with_the_jacobian(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(exporter.MyLinear(4, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype).requires_grad_(False)
    wrt = ["x", "0.weight", "2.bias"]
    path = tmp_path / "it.onnx"
    export_gradients(model, torch.rand(1, 4, dtype=dtype), path, wrt=wrt, seed="cotangent")
    model.requires_grad_()
    for batch in (1, 6):
        x, seed = torch.rand(batch, 4, dtype=dtype), torch.randn(batch, 3, dtype=dtype)
        compare(path, {"x": x, "y/cotangent": seed}, by_torch(model, {"x": x}, wrt, [0], [seed]))
    session = onnxruntime.InferenceSession(str(path))
    feed = {name: np.zeros((0, n), str(dtype).removeprefix("torch.")) for name, n in (("x", 4), ("y/cotangent", 3))}
    assert [found.shape for found in session.run(None, feed)] == [(0, 3), (0, 4), (6, 4), (3,)]


@pytest.mark.slow
def test_saliency_of_a_convolution_is_each_row_s_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
    model = nn.Sequential(*layers, exporter.MyLinear(8, 1)).train()
    export_gradients(model, torch.rand(3, 1, 4, 4), tmp_path / "it.onnx", seed="sum")
    assert model.training
    model.eval()
    rows = torch.rand(4, 1, 4, 4)
    compare(tmp_path / "it.onnx", {"x": rows}, by_torch(model, {"x": rows}, ["x"], [0], None))


@pytest.mark.slow
def test_a_transformer_s_layer_by_its_embeddings(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Block().eval()
    mask = torch.tensor([[False, False, True], [False, False, False]])
    args, path = (torch.randn(2, 3, 4), mask), tmp_path / "it.onnx"
    export_gradients(model, args, path, wrt="embeddings", of="y0", seed="cotangent")
    given = {"embeddings": torch.randn(5, 3, 4), "mask": torch.rand(5, 3) > 1, "y0/cotangent": torch.randn(5, 3, 4)}
    inputs = {name: given[name] for name in ("embeddings", "mask")}
    compare(path, given, by_torch(model, inputs, ["embeddings"], [0], [given["y0/cotangent"]]))


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Several()
    wrt = ["z", "x", "words.weight", "scale"]
    args = torch.rand(4, 3), torch.randint(0, 5, (4,)), torch.rand(4, 2)
    result = export_gradients(model, args, tmp_path / "it.onnx", wrt=wrt, of=["y0", "y2"], seed="cotangent")
    assert result.metadata.given == ("x", "ids", "z", "y0/cotangent", "y2/cotangent")
    assert not model.scale.requires_grad
    model.scale.requires_grad_()
    inputs = {"x": torch.rand(7, 3), "ids": torch.randint(0, 5, (7,)), "z": torch.rand(7, 2)}
    seeds = [torch.randn(7, 2), torch.tensor(0.5)]
    expected = by_torch(model, inputs, wrt, [0, 2], seeds)
    compare(result.path, {**inputs, "y0/cotangent": seeds[0], "y2/cotangent": seeds[1]}, expected)


class Bonds(nn.Module):
    def forward(self, positions: Tensor, bonds: Tensor) -> Tensor:
        return ((positions[bonds[0]] - positions[bonds[1]]).norm(dim=-1) - 1).square().sum()


def test_dimensions_of_several_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shapes = {"positions": {0: "atoms"}, "bonds": {1: "bonds_"}}
    args = torch.rand(4, 3), torch.tensor([[0, 1, 2], [1, 2, 3]])
    export_gradients(Bonds(), args, tmp_path / "it.onnx", dynamic_shapes=shapes)
    inputs = {"positions": torch.rand(6, 3), "bonds": torch.tensor([[0, 1, 5, 4, 2], [3, 4, 1, 0, 3]])}
    compare(tmp_path / "it.onnx", inputs, by_torch(Bonds(), inputs, ["positions"], [0], None))


class Forces(nn.Module):
    """A model that differentiates in its own forward."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed = exporter.MyLinear(3, 4)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        positions.requires_grad_(True)
        energy = self.mixed(positions).sin().sum()
        return energy, -torch.autograd.grad(energy, positions, create_graph=True)[0]


def test_second_derivatives_where_torch_exports_the_first(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Forces()
    args, path = torch.rand(3, 3), tmp_path / "it.onnx"
    export_gradients(model, args, path, of="y1", seed="cotangent")
    assert not args.requires_grad
    x, seed = torch.rand(5, 3), torch.randn(5, 3)
    compare(path, {"x": x, "y1/cotangent": seed}, by_torch(model, {"x": x}, ["x"], [1], [seed]))


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = nn.Sequential(exporter.MyLinear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), exporter.MyLinear(4, 1)).train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    model[3].weight.grad = torch.full((1, 4), 7.0)
    x = torch.rand(4, 3, requires_grad=True)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [part.training for part in model.modules()]
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    random_state = torch.random.get_rng_state()
    export_gradients(model, x, tmp_path / "it.onnx", wrt=["x", "0.weight"], seed="sum")
    assert [part.training for part in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == wanted
    grads = [p.grad is not None for p in model.parameters()]
    assert grads == [False, False, False, False, True, False]
    assert torch.equal(model[3].weight.grad, torch.full((1, 4), 7.0))
    assert x.grad is None
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
    assert torch.equal(torch.random.get_rng_state(), random_state)


def test_large_weights_lie_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "MAX_NBYTES_INSIDE", 0)
    torch.manual_seed(0)
    model = nn.Sequential(exporter.MyLinear(20, 30), nn.Tanh(), exporter.MyLinear(30, 2))
    path = tmp_path / "it.onnx"
    export_gradients(model, torch.rand(3, 20), path, wrt=["x", "2.weight"], seed="sum")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["it.onnx", "it.onnx.data"]
    read_training(onnx.load(path, load_external_data=False), "it")
    x = torch.rand(5, 20)
    compare(path, {"x": x}, by_torch(model, {"x": x}, ["x", "2.weight"], [0], None))


@pytest.mark.slow
def test_adopt_keeps_gradients_whose_last_results_nobody_reads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(exporter.MyLinear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    export_gradients(model, torch.rand(3, 4), tmp_path / "before.onnx", wrt=["x", "0.weight"], seed="cotangent")
    assert cli.main(["adopt", str(tmp_path / "before.onnx"), str(tmp_path / "it.onnx")]) == 0
    given = {"x": torch.rand(5, 4), "y/cotangent": torch.randn(5, 3)}
    expected = by_torch(model, {"x": given["x"]}, ["x", "0.weight"], [0], [given["y/cotangent"]])
    compare(tmp_path / "it.onnx", given, expected)


def test_the_commands_take_such_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.Sequential(exporter.MyLinear(3, 4), nn.Tanh(), exporter.MyLinear(4, 1))
    path = tmp_path / "it.onnx"
    result = export_gradients(model, torch.rand(4, 3), path, seed="sum")
    assert str(result).endswith("10 nodes, 2 MYLINEAR, 2 MYLINEARGRAD, opset 20, takes x, returns y, x/grad")
    verification = exporter.verify(path, batch_sizes=[3], compile_backend=None)
    verification.check()
    assert "a file of gradients" in str(verification)
    assert cli.main(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "gradient   x/grad, by x" in shown
    assert "2 MYLINEAR, 2 MYLINEARGRAD" in shown
    (tmp_path / "rows.csv").write_text("a,b,c\n1,2,3\n4,5,6\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cli.main(["run", str(path), "--input", str(tmp_path / "rows.csv")]) == 0
    rows = np.array([float(line) for line in capsys.readouterr().out.split()[1:]], np.float32)
    exact = Float64Run(onnx.load(path))({"x": np.array([[1, 2, 3], [4, 5, 6]], np.float32)}).outputs["y"]
    assert exact.compare(rows[:, None]).is_within_bound


class Passing(nn.Module):
    """Returns its input too."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, 2 * x


def test_an_output_may_be_an_input_and_a_gradient_a_cotangent(tmp_path: Path) -> None:
    path = tmp_path / "it.onnx"
    export_gradients(Passing(), torch.rand(4, 3), path, of="y0", seed="cotangent")
    x, cotangent = torch.rand(5, 3), torch.rand(5, 3)
    expected = by_torch(Passing(), {"x": x}, ["x"], [0], [cotangent])
    compare(path, {"x": x, "y0/cotangent": cotangent}, expected)
