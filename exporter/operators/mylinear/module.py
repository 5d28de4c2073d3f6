"""`MyLinear`, the layer: a drop-in for ``torch.nn.Linear`` that runs and exports our operator."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from exporter.operators.mylinear.functional import linear
from exporter.operators.mylinear.version_2.arguments import check_activation


class MyLinear(nn.Linear):
    """``y = x @ weight.T + bias``: constructor, parameters and state_dict of ``torch.nn.Linear``.

    Args:
        in_features: size of the last dimension of ``x``.
        out_features: size of the last dimension of ``y``.
        bias: whether there is a ``bias`` of ``[out_features]``.
        device, dtype: of the parameters, as in ``torch.nn.Linear``.
        activation: of the sum: relu, gelu, gelu_tanh, silu, sigmoid or tanh; None or ``none`` for none.

    `reset_parameters` draws weight and bias anew, uniformly within 1/sqrt(in_features).

    Raises: ContractError for an unknown activation.

    >>> import torch
    >>> MyLinear(2, 1, activation="relu")(torch.zeros(5, 2)).shape
    torch.Size([5, 1])
    """

    activation: str | None = None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        activation: str | None = None,
    ) -> None:
        check_activation(activation)
        super().__init__(in_features, out_features, bias, device, dtype)
        if activation is not None:
            self.activation = activation

    def forward(self, input: Tensor) -> Tensor:  # torch's name for it, because callers may say input=
        """Return ``[..., out_features]`` for ``input`` of ``[..., in_features]``. Raises: ContractError."""
        if self.activation is None:
            return linear(input, self.weight, self.bias)
        return linear(input, self.weight, self.bias, activation=self.activation)

    def extra_repr(self) -> str:
        """Return what ``repr`` says between the parentheses."""
        end = "" if self.activation is None else f", activation={self.activation}"
        return f"{super().extra_repr()}{end}"
