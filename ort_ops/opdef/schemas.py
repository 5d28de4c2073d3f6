"""Register operator schemas with onnx, and remove them before the process ends.

onnx keeps a schema's Python inference function in a C++ object that outlives the interpreter. Up to onnx 1.22 the
process then hangs (1.19) or ends in SIGSEGV (1.20 to 1.22) after all work is done, which turns a gate's status 0
into 139. A schema that is removed while Python still runs does no harm.
"""

from __future__ import annotations

import atexit
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import defs

_registered: set[tuple[str, int, str]] = set()
"""Name, version and domain of the schemas that this module registered."""


def is_registered(name: str, since_version: int, domain: str) -> bool:
    """Whether onnx knows exactly this version of the operator."""
    from onnx import defs

    return defs.has(name, since_version, domain) and (
        defs.get_schema(name, since_version, domain).since_version == since_version
    )


def register(schema: defs.OpSchema) -> None:
    """Make an operator known to ``onnx.checker`` and ``onnx.shape_inference``, in place of an earlier definition."""
    from onnx import defs

    if not _registered:
        atexit.register(_deregister_all)
    deregister(schema.name, schema.since_version, schema.domain)
    defs.register_schema(schema)
    _registered.add((schema.name, schema.since_version, schema.domain))


def deregister(name: str, since_version: int, domain: str) -> None:
    """Remove an operator from onnx's registry; do nothing if it is not there."""
    from onnx import defs

    _registered.discard((name, since_version, domain))
    if is_registered(name, since_version, domain):
        defs.deregister_schema(name, since_version, domain)


def _deregister_all() -> None:
    for key in sorted(_registered):
        deregister(*key)
