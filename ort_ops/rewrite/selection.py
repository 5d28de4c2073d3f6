"""Choose operators of the registry by name."""

from __future__ import annotations

from collections.abc import Sequence

from ort_ops.errors import MylinearError
from ort_ops.opdef import registry
from ort_ops.opdef.kit import OperatorKit


class SelectionError(MylinearError, ValueError):
    """A name that no registered operator has."""


def select(names: Sequence[str] | None) -> list[OperatorKit]:
    """Return the kits of the operators of these names, in the registry's order.

    Args:
        names: each ``domain::NAME``; None for all operators.

    Raises: SelectionError for a name that no operator has.
    """
    kits = registry.kits()
    if names is None:
        return list(kits)
    known = {kit.operator.op_type for kit in kits}
    for name in names:
        if name not in known:
            raise SelectionError(f"the operator must be among {', '.join(sorted(known))}, got '{name}'")
    return [kit for kit in kits if kit.operator.op_type in names]
