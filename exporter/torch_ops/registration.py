"""Make torch's exporters know the library ops of operators, so that plain ``torch.onnx.export`` emits their nodes.

An operator is registered where its library op is defined: no model of this process can call it before. To register
costs nothing until an exporter is loaded, for torch and onnxscript take seconds to import, and neither serving nor
training needs an exporter: the module that holds each exporter's table is waited for, and filled in when it is there.

`install`, which ``import exporter`` calls, has the operators of all installed packages loaded at that time too.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # as typing has it; the command line handles signals before it imports that
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.abc import Loader, MetaPathFinder
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from ort_ops.opdef.kit import OperatorKit
    from ort_ops.opdef.operator import Operator
else:
    Loader = MetaPathFinder = object

WANTED_OUTPUTS = "(which outputs are wanted)"
"""Among the names of a library op's arguments: the one that holds a bool for each output, all of which the op returns,
with size 0 where it is not wanted."""
_entries: dict[str, tuple[Operator, tuple[str, ...]]] = {}
_done: dict[str, set[str]] = {}
_being_filled: set[str] = set()


def install() -> None:
    """Wait for torch's exporters, to register all operators with them."""
    for name in _REGISTRATIONS:
        _fill_or_wait(name)


def register(operator: Operator, library_op: str, arguments: Sequence[str] = ()) -> None:
    """Let both of torch's exporters emit nodes of an operator for the calls of its library op; again does nothing.

    Args:
        library_op: ``namespace::name``, already defined; all of its overloads are meant.
        arguments: names of the operator's inputs and attributes, in the order of the op's, and `WANTED_OUTPUTS` where
            it has such an argument; empty for all inputs, then all attributes.
    """
    own = (*(p.name for p in operator.inputs), *(a.name for a in operator.attributes))
    _entries[library_op] = operator, tuple(arguments) or own
    for name in _REGISTRATIONS:
        _fill_or_wait(name)


def entries() -> dict[str, tuple[Operator, tuple[str, ...]]]:
    """Return the operator, and the names of its arguments, of each library op that is registered."""
    return dict(_entries)


def _fill_or_wait(name: str) -> None:
    if name in _being_filled:
        return
    module = sys.modules.get(name)
    if module is not None and not is_loading(module):
        _fill(name, module)
    elif not any(isinstance(finder, _Waiting) and finder.name == name for finder in sys.meta_path):
        sys.meta_path.insert(0, _Waiting(name, _fill))


def _fill(name: str, module: ModuleType) -> None:
    """Add to an exporter's table what is not there yet."""
    _being_filled.add(name)
    try:
        _load_kits()
    finally:
        _being_filled.discard(name)
    done = _done.setdefault(name, set())
    for library_op in [op for op in _entries if op not in done]:
        done.add(library_op)
        _REGISTRATIONS[name](module, library_op)


def _load_kits() -> None:
    """Load the torch parts of all operators, each of which registers itself, and of those that will be added."""
    from exporter.torch_ops.kit import torch_kits
    from ort_ops.opdef import registry

    torch_kits()
    if _load_added not in registry.listeners:
        registry.listeners.append(_load_added)


def _load_added(kit: OperatorKit) -> None:
    from exporter.torch_ops.kit import torch_kits

    torch_kits()


def _register_dynamo(registration: ModuleType, library_op: str) -> None:
    """Add translations to onnxscript's table, from which torch's dynamo exporter makes its own for each export."""
    from exporter.torch_ops.translation import overload_names, translate

    operator, arguments = _entries[library_op]
    for overload in overload_names(library_op):
        function = translate(operator, library_op, overload, arguments)
        name = library_op if overload == "default" else f"{library_op}.{overload}"
        registration.torch_op(name, trace_only=True)(function)


def _register_torchscript(utils: ModuleType, library_op: str) -> None:
    """Add a symbolic; an autograd function may have one of its own beside it."""
    operator, arguments = _entries[library_op]

    def symbolic(g, *values):  # type: ignore[no-untyped-def]  # torch reads annotations
        from exporter.torch_ops.translation import emit_symbolic

        return emit_symbolic(operator, arguments, g, values)

    utils.register_custom_op_symbolic(library_op, symbolic, 9)


_REGISTRATIONS: dict[str, Callable[[ModuleType, str], None]] = {
    "onnxscript.function_libs.torch_lib.registration": _register_dynamo,
    "torch.onnx._internal.torchscript_exporter.utils": _register_torchscript,
}


def is_loading(module: ModuleType) -> bool:
    """Whether a module is being imported right now."""
    return bool(getattr(module.__spec__, "_initializing", False))


class _Waiting(MetaPathFinder):
    """Lets one module be found as always, and acts when it has been loaded; once."""

    def __init__(self, name: str, act: Callable[[str, ModuleType], None]) -> None:
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

    def __init__(self, loader: Loader, act: Callable[[str, ModuleType], None]) -> None:
        self._loader = loader
        self._act = act

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._act(module.__name__, module)
