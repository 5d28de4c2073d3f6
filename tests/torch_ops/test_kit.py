"""A `TorchKit` whose library op is not defined is refused, and leaves no operator behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch.onnx._internal.torchscript_exporter.utils  # noqa: F401  # then its table is filled at once

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


def test_an_operator_may_be_added_where_an_exporter_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its import leads to all operators, itself among them; that is no fault, and not worth a warning."""
    (tmp_path / "kit_added_late.py").write_text(
        "from exporter.torch_ops.library_ops.define import define_library_op\n"
        "from tests.verification.small_operator import OPERATOR\n"
        "KIT = define_library_op(OPERATOR, 'kit_tests::added_late', lambda x, *rest, **attributes: x.clone())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    kit = replace(KIT, torch="kit_added_late:KIT")
    registry.add(kit)
    try:
        part = torch_kit(kit)
        assert part is not None
        assert part.library_op == "kit_tests::added_late"
    finally:
        registry.remove(kit)
