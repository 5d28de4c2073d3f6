"""The layers and losses whose training is tried: each as torch has it, small, with the shape of what it takes.

Long because it is one table, a case a line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Case:
    """A layer behind a scale and a shift, which are trained too, so that the gradient of its input counts; or a loss.

    Attributes:
        group: heading in the table.
        name: in the table.
        make: the layer; for a loss, the loss.
        shape: of one row of the input; an integer type for a layer that takes indices.
        indices: how many different indices a layer takes; 0 for one that takes numbers.
        target: of a loss: draws targets for so many rows; None for a layer.
        is_random: whether each run draws anew, so that torch is compared where all dropouts have p = 0.
    """

    group: str
    name: str
    make: Callable[[], Any]
    shape: tuple[int, ...] = (6,)
    indices: int = 0
    target: Callable[[int, torch.dtype], Any] | None = None
    is_random: bool = False

    def __str__(self) -> str:
        return self.name


class Call(nn.Module):
    """A function of a tensor, with parameters of its own."""

    def __init__(self, function: Callable[..., Any], **parameters: tuple[int, ...]) -> None:
        super().__init__()
        self.function = function
        self.own = nn.ParameterDict({name: nn.Parameter(torch.randn(shape)) for name, shape in parameters.items()})

    def forward(self, x: Tensor) -> Any:
        return self.function(x, **self.own)


class First(nn.Module):
    """The first of what a layer returns, which may be given its input several times."""

    def __init__(self, layer: nn.Module, times: int = 1) -> None:
        super().__init__()
        self.layer, self.times = layer, times

    def forward(self, x: Tensor) -> Any:
        result = self.layer(*[x] * self.times)
        return result[0] if isinstance(result, tuple) else result


class Tied(nn.Module):
    """An embedding, and a linear layer with the same weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.linear = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
        self.linear.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.linear(torch.tanh(self.embedding(x)))
        return output


class Frozen(nn.Module):
    """Two linear layers, the first of which is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 5).requires_grad_(False), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.second(torch.tanh(self.first(x)))
        return output


def _attention(x: Tensor, *, is_causal: bool = False) -> Tensor:
    x = x.unflatten(2, (2, 4)).transpose(1, 2)  # two heads
    return functional.scaled_dot_product_attention(x, x.flip(2), x * 0.5, is_causal=is_causal)


def _encoder(**options: Any) -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 12, **{"dropout": 0.0, "batch_first": True, **options})


def _decoder() -> nn.Module:
    return nn.TransformerDecoderLayer(8, 2, 12, dropout=0.0, batch_first=True)


def _of(group: str, layers: dict[str, Callable[[], nn.Module]], shape: tuple[int, ...], **more: Any) -> list[Case]:
    return [Case(group, name, make, shape, **more) for name, make in layers.items()]


_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "CELU": nn.CELU,
    "ELU": nn.ELU,
    "GELU": nn.GELU,
    "Hardshrink": nn.Hardshrink,
    "Hardsigmoid": nn.Hardsigmoid,
    "Hardswish": nn.Hardswish,
    "Hardtanh": nn.Hardtanh,
    "LeakyReLU": nn.LeakyReLU,
    "LogSigmoid": nn.LogSigmoid,
    "Mish": nn.Mish,
    "PReLU": nn.PReLU,
    "ReLU": nn.ReLU,
    "ReLU6": nn.ReLU6,
    "SELU": nn.SELU,
    "SiLU": nn.SiLU,
    "Sigmoid": nn.Sigmoid,
    "Softplus": nn.Softplus,
    "Softshrink": nn.Softshrink,
    "Softsign": nn.Softsign,
    "Tanh": nn.Tanh,
    "Tanhshrink": nn.Tanhshrink,
    "GELU (tanh)": lambda: nn.GELU(approximate="tanh"),
    "GLU": nn.GLU,
    "Threshold": lambda: nn.Threshold(0.1, 0.3),
    "Softmax": lambda: nn.Softmax(-1),
    "Softmin": lambda: nn.Softmin(-1),
    "LogSoftmax": lambda: nn.LogSoftmax(-1),
}

_IMAGES: dict[str, Callable[[], nn.Module]] = {
    "BatchNorm2d": lambda: nn.BatchNorm2d(4),
    "GroupNorm": lambda: nn.GroupNorm(2, 4),
    "InstanceNorm2d": lambda: nn.InstanceNorm2d(4, affine=True),
    "LocalResponseNorm": lambda: nn.LocalResponseNorm(2),
}

_CONVOLUTIONS_2D: dict[str, Callable[[], nn.Module]] = {
    "Conv2d": lambda: nn.Conv2d(4, 3, 3, padding=1),
    "Conv2d (stride 2)": lambda: nn.Conv2d(4, 3, 3, stride=2),
    "Conv2d (groups 2)": lambda: nn.Conv2d(4, 6, 3, groups=2),
    "Conv2d (dilation 2)": lambda: nn.Conv2d(4, 3, 2, dilation=2),
    "ConvTranspose2d": lambda: nn.ConvTranspose2d(4, 3, 2, stride=2),
    "PixelShuffle": lambda: nn.PixelShuffle(2),
    "Upsample (nearest)": lambda: nn.Upsample(scale_factor=2),
    "Upsample (bilinear)": lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
    "ZeroPad2d": lambda: nn.ZeroPad2d(1),
    "ReflectionPad2d": lambda: nn.ReflectionPad2d(1),
    "Unfold": lambda: nn.Unfold(2),
}

_POOLINGS_2D: dict[str, Callable[[], nn.Module]] = {
    "MaxPool2d": lambda: nn.MaxPool2d(2),
    "MaxPool2d (overlapping)": lambda: nn.MaxPool2d(3, stride=2, padding=1),
    "AvgPool2d": lambda: nn.AvgPool2d(2),
    "AvgPool2d (overlapping)": lambda: nn.AvgPool2d(3, stride=2, padding=1),
    "LPPool2d": lambda: nn.LPPool2d(2, 2),
    "AdaptiveAvgPool2d": lambda: nn.AdaptiveAvgPool2d(2),
    "AdaptiveMaxPool2d": lambda: nn.AdaptiveMaxPool2d(2),
}

_SEQUENCES: dict[str, Callable[[], nn.Module]] = {
    "scaled_dot_product_attention": lambda: Call(_attention),
    "scaled_dot_product_attention (causal)": lambda: Call(lambda x: _attention(x, is_causal=True)),
    "MultiheadAttention": lambda: First(nn.MultiheadAttention(8, 2, batch_first=True), 3),
    "TransformerEncoderLayer": _encoder,
    "TransformerEncoderLayer (norm first, GELU)": lambda: _encoder(norm_first=True, activation="gelu"),
    "TransformerDecoderLayer": lambda: First(_decoder(), 2),
}

_RECURRENT: dict[str, Callable[[], nn.Module]] = {
    "RNN": lambda: First(nn.RNN(4, 3, batch_first=True)),
    "LSTM": lambda: First(nn.LSTM(4, 3, batch_first=True)),
    "LSTM (2 layers, both directions)": lambda: First(nn.LSTM(4, 3, 2, batch_first=True, bidirectional=True)),
    "GRU": lambda: First(nn.GRU(4, 3, batch_first=True)),
}

_CELLS: dict[str, Callable[[], nn.Module]] = {
    "RNNCell": lambda: nn.RNNCell(6, 3),
    "LSTMCell": lambda: First(nn.LSTMCell(6, 3)),
    "GRUCell": lambda: nn.GRUCell(6, 3),
}

_OPERATIONS: dict[str, Callable[[], nn.Module]] = {
    "cumsum": lambda: Call(lambda x: x.cumsum(1)),
    "cumprod": lambda: Call(lambda x: x.cumprod(1)),
    "prod": lambda: Call(lambda x: x.prod(1, keepdim=True)),
    "logsumexp": lambda: Call(lambda x: x.logsumexp(1, keepdim=True)),
    "amax": lambda: Call(lambda x: x.amax(1, keepdim=True)),
    "sort": lambda: Call(lambda x: x.sort(1).values),
    "topk": lambda: Call(lambda x: x.topk(2, 1).values),
    "std": lambda: Call(lambda x: x.std(1, keepdim=True)),
    "norm": lambda: Call(lambda x: x.norm(dim=1, keepdim=True)),
    "normalize": lambda: Call(lambda x: functional.normalize(x, dim=1)),
    "einsum": lambda: Call(lambda x, weight: torch.einsum("bi,ijk->bjk", x, weight), weight=(6, 2, 3)),
    "where": lambda: Call(lambda x: torch.where(x > 0, x.exp(), x.sin())),
    "gather": lambda: Call(lambda x: x.gather(1, torch.tensor([[0, 2, 2]]).expand(x.shape[0], 3))),
    "roll": lambda: Call(lambda x: x.roll(1, 1)),
    "atan2": lambda: Call(lambda x: torch.atan2(x, x.flip(1))),
    "erf": lambda: Call(lambda x: x.erf()),
}


def _numbers(*shape: int) -> Callable[[int, torch.dtype], Tensor]:
    return lambda rows, dtype: torch.randn(rows, *shape).to(dtype)


def _probabilities(rows: int, dtype: torch.dtype) -> Tensor:
    return torch.rand(rows, 5).softmax(1).to(dtype)


def _classes(rows: int, dtype: torch.dtype) -> Tensor:
    return torch.randint(0, 5, (rows,))


def _signs(*shape: int) -> Callable[[int, torch.dtype], Tensor]:
    return lambda rows, dtype: (torch.randint(0, 2, (rows, *shape)) * 2 - 1).to(dtype)


def _bits(rows: int, dtype: torch.dtype) -> Tensor:
    return torch.randint(0, 2, (rows, 5)).to(dtype)


def _positive(rows: int, dtype: torch.dtype) -> Tensor:
    return (torch.rand(rows, 5) + 0.5).to(dtype)


def _gaussian(output: Tensor, target: Tensor) -> Tensor:
    return functional.gaussian_nll_loss(output, target, functional.softplus(output).detach() + 0.1)


def _triplet(output: Tensor, target: Tensor) -> Tensor:
    return functional.triplet_margin_loss(output, target, target.flip(1))


def _ranking(output: Tensor, target: Tensor) -> Tensor:
    return functional.margin_ranking_loss(output[:, 0], output[:, 1], target)


def _cosine(output: Tensor, target: Tensor) -> Tensor:
    return functional.cosine_embedding_loss(output, output.flip(1) * 0.5 + 1, target)


def _kl(output: Tensor, target: Tensor) -> Tensor:
    return functional.kl_div(output.log_softmax(1), target, reduction="batchmean")


def _binary(output: Tensor, target: Tensor) -> Tensor:
    return functional.binary_cross_entropy(output.sigmoid(), target)


def _nll(output: Tensor, target: Tensor) -> Tensor:
    return functional.nll_loss(output.log_softmax(1), target)


def _weighted_classes() -> nn.Module:
    return nn.CrossEntropyLoss(weight=torch.tensor([0.5, 1.0, 2.0, 1.5, 0.25]), ignore_index=3)


_LOSSES: dict[str, tuple[Callable[[], Any], Callable[[int, torch.dtype], Any]]] = {
    "L1Loss": (nn.L1Loss, _numbers(5)),
    "MSELoss": (nn.MSELoss, _numbers(5)),
    "SmoothL1Loss": (nn.SmoothL1Loss, _numbers(5)),
    "HuberLoss": (nn.HuberLoss, _numbers(5)),
    "CrossEntropyLoss": (nn.CrossEntropyLoss, _classes),
    "CrossEntropyLoss (label smoothing)": (lambda: nn.CrossEntropyLoss(label_smoothing=0.1), _classes),
    "CrossEntropyLoss (weights, ignore_index)": (_weighted_classes, _classes),
    "CrossEntropyLoss (probabilities)": (nn.CrossEntropyLoss, _probabilities),
    "NLLLoss": (lambda: _nll, _classes),
    "PoissonNLLLoss": (nn.PoissonNLLLoss, _positive),
    "GaussianNLLLoss": (lambda: _gaussian, _numbers(5)),
    "KLDivLoss": (lambda: _kl, _probabilities),
    "BCELoss": (lambda: _binary, _bits),
    "BCEWithLogitsLoss": (nn.BCEWithLogitsLoss, _bits),
    "HingeEmbeddingLoss": (nn.HingeEmbeddingLoss, _signs(5)),
    "SoftMarginLoss": (nn.SoftMarginLoss, _signs(5)),
    "MultiMarginLoss": (nn.MultiMarginLoss, _classes),
    "MultiLabelSoftMarginLoss": (nn.MultiLabelSoftMarginLoss, _bits),
    "MarginRankingLoss": (lambda: _ranking, _signs()),
    "CosineEmbeddingLoss": (lambda: _cosine, _signs()),
    "TripletMarginLoss": (lambda: _triplet, _numbers(5)),
}

CASES: list[Case] = [
    Case("linear", "Linear", lambda: nn.Linear(6, 4)),
    Case("linear", "Linear without bias", lambda: nn.Linear(6, 4, bias=False)),
    Case("linear", "Bilinear", lambda: First(nn.Bilinear(6, 6, 3), 2)),
    Case("linear", "Linear, frozen", Frozen),
    *_of("activations", _ACTIVATIONS, (6,)),
    Case("normalization", "LayerNorm", lambda: nn.LayerNorm(6)),
    Case("normalization", "RMSNorm", lambda: nn.RMSNorm(6)),
    Case("normalization", "BatchNorm1d", lambda: nn.BatchNorm1d(6)),
    *_of("normalization", _IMAGES, (4, 3, 3)),
    Case("embeddings", "Embedding", lambda: nn.Embedding(9, 4), (3,), indices=9),
    Case("embeddings", "Embedding (padding_idx)", lambda: nn.Embedding(9, 4, padding_idx=0), (3,), indices=9),
    Case("embeddings", "EmbeddingBag", lambda: nn.EmbeddingBag(9, 4), (3,), indices=9),
    Case("embeddings", "Embedding, tied to Linear", Tied, (3,), indices=9),
    *_of("attention", _SEQUENCES, (3, 8)),
    Case("convolutions", "Conv1d", lambda: nn.Conv1d(4, 3, 2), (4, 5)),
    Case("convolutions", "Conv3d", lambda: nn.Conv3d(2, 2, 2), (2, 3, 3, 3)),
    Case("convolutions", "ConvTranspose1d", lambda: nn.ConvTranspose1d(4, 3, 2), (4, 5)),
    *_of("convolutions", _CONVOLUTIONS_2D, (4, 4, 4)),
    Case("pooling", "MaxPool1d", lambda: nn.MaxPool1d(2), (4, 6)),
    Case("pooling", "AvgPool1d", lambda: nn.AvgPool1d(2), (4, 6)),
    Case("pooling", "AdaptiveAvgPool1d", lambda: nn.AdaptiveAvgPool1d(2), (4, 6)),
    Case("pooling", "MaxPool3d", lambda: nn.MaxPool3d(2), (2, 4, 4, 2)),
    *_of("pooling", _POOLINGS_2D, (2, 4, 4)),
    *_of("recurrent", _RECURRENT, (3, 4)),
    *_of("recurrent", _CELLS, (6,)),
    Case("dropout", "Dropout", lambda: nn.Dropout(0.4), (20,), is_random=True),
    Case("dropout", "Dropout2d", lambda: nn.Dropout2d(0.4), (20, 2, 2), is_random=True),
    Case("dropout", "AlphaDropout", lambda: nn.AlphaDropout(0.4), (20,), is_random=True),
    Case("dropout", "TransformerEncoderLayer, dropout", lambda: _encoder(dropout=0.2), (3, 8), is_random=True),
    *_of("operations", _OPERATIONS, (6,)),
    *(Case("losses", name, make, target=target) for name, (make, target) in _LOSSES.items()),
]
