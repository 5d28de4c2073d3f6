"""`exporter.rewrite`, where the rewriter was before, still has its public names."""

from __future__ import annotations

from exporter import rewrite as former
from ort_ops import rewrite


def test_the_former_place_of_the_rewriter_stays() -> None:
    assert former.__all__ == rewrite.__all__
    for name in rewrite.__all__:
        assert getattr(former, name) is getattr(rewrite, name)
