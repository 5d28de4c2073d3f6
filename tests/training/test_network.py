"""The network that is trained: what it takes, what it standardizes, and that its gradients are right."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from exporter.operators.mylinear.network import Architecture, make_network
from exporter.training.networks import column_statistics
from ort_ops.opdef.operator import ContractError


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_a_network_takes_raw_rows_and_gives_raw_targets(dtype: str) -> None:
    network = make_network(Architecture(2, (3,), 1, dtype, standardizes_inputs=True, restores_outputs=True))
    network.set_statistics("input", np.array([10.0, 20.0]), np.array([2.0, 4.0]))
    network.set_statistics("output", np.array([100.0]), np.array([8.0]))
    first, last = network.layers
    x = torch.tensor([[12.0, 16.0], [10.0, 24.0]], dtype=network.dtype)
    scaled = torch.tensor([[1.0, -1.0], [0.0, 1.0]], dtype=network.dtype)
    expected = last(torch.relu(first(scaled))) * 8 + 100
    assert torch.equal(network(x), expected)
    assert network(x).dtype == network.dtype
    assert torch.equal(network.standardize_targets(torch.tensor([[116.0]], dtype=network.dtype)), torch.tensor([[2.0]]))


def test_a_plain_network_is_its_one_layer_and_nothing_else() -> None:
    network = make_network(Architecture(2, (), 1, "float64"))
    x = torch.rand(5, 2, dtype=torch.float64)
    assert torch.equal(network(x), network.layers[0](x))
    assert list(network.state_dict()) == ["layers.0.weight", "layers.0.bias"]


def test_rows_of_the_wrong_width_are_refused_before_they_broadcast() -> None:
    network = make_network(Architecture(3, (), 1, standardizes_inputs=True))
    with pytest.raises(ContractError, match=r"x must be \[\.\.\., 3\], got \[5, 1\]"):
        network(torch.zeros(5, 1))


def test_a_constant_column_gets_the_deviation_1_despite_rounding() -> None:
    mean, std = column_statistics(np.column_stack([np.full(1000, 0.1), np.arange(1000.0)]))
    assert (mean[0], std[0]) == (0.1, 1.0)
    assert std[1] == np.arange(1000.0).std()
