"""Make torch's exporters know the operator, so that plain ``torch.onnx.export`` emits MYLINEAR nodes too.

`install` costs nothing until an exporter is loaded: torch and onnxscript take seconds to import, and serving or
training needs no exporter. It waits for the module that holds each exporter's table, and fills in one entry then.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # as typing has it; the command line handles signals before it imports that
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.abc import Loader, MetaPathFinder
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any
else:
    Loader = MetaPathFinder = object


def install() -> None:
    """Register the operator with the exporters that are loaded, and with the others when they are."""
    for name, register in _REGISTRATIONS.items():
        module = sys.modules.get(name)
        if module is not None and not _is_loading(module):
            register(module)
        elif not any(isinstance(finder, _Waiting) and finder.name == name for finder in sys.meta_path):
            sys.meta_path.insert(0, _Waiting(name, register))


def translate() -> Callable[..., Any]:
    """Return what torch's dynamo exporter calls for the library op: one node of our domain."""
    from onnxscript import values

    from ort_ops.opdef.onnx_objects import make_schema
    from ort_ops.operators.mylinear.contract import DOMAIN, MYLINEAR, NAME

    operator = values.Op(values.Opset(DOMAIN, MYLINEAR.since_version), NAME, make_schema(MYLINEAR))

    def linear(x: Any, weight: Any, bias: Any = None) -> Any:
        return operator(x, weight, bias)

    return linear


def _register_dynamo(registration: ModuleType) -> None:
    """Add the translation to onnxscript's table, from which torch's dynamo exporter makes its own."""

    # Without annotations: onnxscript reads them, and knows only those of its own kind.
    def linear(x, weight, bias=None):  # type: ignore[no-untyped-def]
        return translate()(x, weight, bias)

    registration.torch_op(_library_op(), trace_only=True)(linear)


def _register_torchscript(utils: ModuleType) -> None:
    """Add a symbolic for the library op, for models that call it directly; `LinearF` has one of its own."""

    def linear(g: Any, x: Any, weight: Any, bias: Any) -> Any:
        from exporter.operators.mylinear.functional import LinearF

        is_absent = bias is None or bias.node().mustBeNone()
        return LinearF.symbolic(g, x, weight, None if is_absent else bias)

    utils.register_custom_op_symbolic(_library_op(), linear, 9)


def _library_op() -> str:
    from ort_ops.operators.mylinear.contract import (
        DOMAIN,  # not before an exporter is there: `import exporter` costs next to nothing
    )

    return f"{DOMAIN}::linear"


_REGISTRATIONS: dict[str, Callable[[ModuleType], None]] = {
    "onnxscript.function_libs.torch_lib.registration": _register_dynamo,
    "torch.onnx._internal.torchscript_exporter.utils": _register_torchscript,
}


def _is_loading(module: ModuleType) -> bool:
    return bool(getattr(module.__spec__, "_initializing", False))


class _Waiting(MetaPathFinder):
    """Lets one module be found as always, and acts when it has been loaded; once."""

    def __init__(self, name: str, act: Callable[[ModuleType], None]) -> None:
        self.name = name
        self._act = act

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        import importlib.util

        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _ActingLoader(spec.loader, self._act)
        return spec


class _ActingLoader(Loader):
    """Another loader, and an act after it."""

    def __init__(self, loader: Loader, act: Callable[[ModuleType], None]) -> None:
        self._loader = loader
        self._act = act

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._act(module)
