"""A `TorchKit` whose library op is not defined is refused, and leaves no operator behind."""

from __future__ import annotations

from dataclasses import replace

import pytest

from exporter.torch_ops.kit import TorchKit, torch_kit
from ort_ops.opdef import registry
from ort_ops.opdef.operator import DefinitionError
from tests.verification.small_operator import KIT, OPERATOR, torch_function

UNDEFINED = TorchKit(OPERATOR, "verification_tests::no_such_op", torch_function)


def test_a_library_op_that_is_not_defined_is_refused() -> None:
    kit = replace(KIT, torch=f"{__name__}:UNDEFINED")
    with pytest.raises(DefinitionError, match="must be a defined one, got 'verification_tests::no_such_op'"):
        torch_kit(kit)


def test_a_kit_that_a_listener_refuses_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(kit: object) -> None:
        raise ValueError("refused")

    monkeypatch.setattr(registry, "listeners", [refuse])
    with pytest.raises(ValueError, match="refused"):
        registry.add(KIT)
    assert registry.find(OPERATOR.domain, OPERATOR.name) is None
