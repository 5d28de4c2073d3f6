"""`MyLinear`, the layer: a drop-in for ``torch.nn.Linear`` that runs and exports our operator."""

from __future__ import annotations

from torch import Tensor, nn

from exporter.operators.mylinear.functional import linear


class MyLinear(nn.Linear):
    """``y = x @ weight.T + bias``: constructor, parameters and state_dict of ``torch.nn.Linear``.

    Args:
        in_features: size of the last dimension of ``x``.
        out_features: size of the last dimension of ``y``.
        bias: whether there is a ``bias`` of ``[out_features]``.
        device, dtype: of the parameters, as in ``torch.nn.Linear``.

    `reset_parameters` draws weight and bias anew, uniformly within 1/sqrt(in_features).

    >>> import torch
    >>> MyLinear(2, 1)(torch.zeros(5, 2)).shape
    torch.Size([5, 1])
    """

    def forward(self, input: Tensor) -> Tensor:  # torch's name for it, because callers may say input=
        """Return ``[..., out_features]`` for ``input`` of ``[..., in_features]``. Raises: ContractError."""
        return linear(input, self.weight, self.bias)
