"""The torch part of an operator, and where to find it for every registered operator."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from exporter.torch_ops import registration
from exporter.torch_ops.workloads.network import NetworkKit
from ort_ops.numerics.compare import Comparison
from ort_ops.opdef import registry
from ort_ops.opdef.call import Call
from ort_ops.opdef.kit import OperatorKit
from ort_ops.opdef.operator import ContractError, DefinitionError, Operator

Tensors = Sequence[Tensor | None]


@dataclass(frozen=True)
class ExampleModule:
    """A module that calls the operator, with an example call; for tests.

    Attributes:
        module: in eval mode, with parameters of its own or none.
        args: of ``forward``; the first dimension of each tensor of rank 2 or more may change.
        label: what is special about it, in a few words.
    """

    module: nn.Module
    args: tuple[Any, ...]
    label: str = ""


@dataclass(frozen=True)
class GradientCheck:
    """One way to check the backward of an operator, for `verify`.

    Attributes:
        label: in the table of results, such as ``gradients, finite differences``.
        compare: (what a node received, random generator) -> how far the gradients are off, in units of their bound.
        dtype: name of the element type that it computes in; empty for that of the call.
    """

    label: str
    compare: Callable[[Call, np.random.Generator], Comparison]
    dtype: str = ""


@dataclass(frozen=True)
class TorchKit:
    """What an operator is in torch. The `OperatorKit` names it by ``torch="module:attribute"``.

    Attributes:
        operator: the description.
        library_op: the name of the library op that stays one node in exported programs: ``my_ops::square``. An
            overload, ``my_ops::square.name``, of each further number of outputs may stand beside the default one.
        function: what users call, differentiable, on every path of torch: takes the inputs by position, in the
            operator's order (None for an absent one), and the attributes by keyword; returns the output, or a tuple of
            those that the operator has for these inputs, without trailing absent ones.
        arguments: names of the operator's inputs and attributes, in the order of the library op's arguments; empty for
            all inputs, then all attributes.
        plain: the same function of torch's own operations, with torch's own derivatives, for checking gradients; None
            where there is none.
        autograd_nodes: names of the nodes that calls leave in torch's autograd graph, one for each call; `export`
            counts by them which calls an output depends on.
        examples: () -> modules that call the operator, for tests; None for none.
        network: () -> a network of layers that call it, for `mylinear train`; None for none.
        gradient_checks: () -> how `verify` checks the backward; None for torch's gradcheck, and for the exact gradient
            where the `OperatorKit` has one with a bound.
        update: name of the rule, such as ``Adam``, that the operator is a whole step of for one parameter; see
            `exporter.training_step.optimizers.rules`. Empty for none.
        advice: how a model comes to call the operator, for messages.
        count_name: a name under which the result of `export` has the number of nodes; empty for none.
    """

    operator: Operator
    library_op: str
    function: Callable[..., Any]
    arguments: tuple[str, ...] = ()
    plain: Callable[..., Any] | None = None
    autograd_nodes: frozenset[str] = frozenset()
    examples: Callable[[], Iterable[ExampleModule]] | None = None
    network: Callable[[], NetworkKit] | None = None
    gradient_checks: Callable[[], Sequence[GradientCheck]] | None = None
    update: str = ""
    advice: str = ""
    count_name: str = ""

    @property
    def argument_names(self) -> tuple[str, ...]:
        """Names of the operator's inputs and attributes, in the order of the library op's arguments."""
        own = (*(p.name for p in self.operator.inputs), *(a.name for a in self.operator.attributes))
        return self.arguments or own

    def run(
        self, inputs: Tensors, attributes: Mapping[str, Any] | None = None, has_output: Sequence[bool] = ()
    ) -> tuple[Tensor | None, ...]:
        """Call `function` as a node would; see `call_operator`."""
        return call_operator(self.operator, self.function, inputs, attributes, has_output)


def call_operator(
    operator: Operator,
    function: Callable[..., Any],
    inputs: Tensors,
    attributes: Mapping[str, Any] | None = None,
    has_output: Sequence[bool] = (),
) -> tuple[Tensor | None, ...]:
    """Call a function that takes inputs and attributes as `TorchKit.function` does.

    Args:
        inputs: in the operator's order, None for an absent one; trailing absent ones may be left out.
        attributes: those that differ from the defaults, or all.
        has_output: which outputs are wanted; empty for all that the function gives.

    Returns: one for each of the operator's outputs, None for one that is not wanted.
    Raises: ContractError where the function does not give a wanted output.
    """
    absent = [None] * (len(operator.inputs) - len(inputs))
    result = function(*inputs, *absent, **operator.defaults | dict(attributes or {}))
    given = [result] if isinstance(result, Tensor) else list(result)
    given += [None] * (len(operator.outputs) - len(given))
    if not has_output:
        return tuple(given)
    wanted = [*has_output, *[False] * (len(operator.outputs) - len(has_output))]
    for output, value, is_wanted in zip(operator.outputs, given, wanted, strict=True):
        if is_wanted and value is None:
            raise operator.error(f"output {output.argument}", "given for these inputs by the torch function", "nothing")
    return tuple(value if is_wanted else None for value, is_wanted in zip(given, wanted, strict=True))


_loaded: dict[str, TorchKit] = {}
_warned: set[str] = set()


def torch_kit(kit: OperatorKit) -> TorchKit | None:
    """Return the torch part of an operator, imported when it is first asked for; None where it has none.

    Raises: DefinitionError where the kit names something that cannot be imported, or is no TorchKit.
    """
    if not kit.torch:
        return None
    found = _loaded.get(kit.torch)
    if found is not None and found.operator == kit.operator:
        return found
    module, _, attribute = kit.torch.partition(":")
    try:
        imported = getattr(import_module(module), attribute)
    except Exception as error:
        raise DefinitionError(
            f"{kit.operator.op_type}: torch must be 'module:attribute' of a TorchKit, got '{kit.torch}': "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(imported, TorchKit) or imported.operator != kit.operator:
        got = imported.operator.op_type if isinstance(imported, TorchKit) else type(imported).__name__
        raise DefinitionError(f"{kit.operator.op_type}: '{kit.torch}' must be its TorchKit, got {got}")
    namespace, _, name = imported.library_op.partition("::")
    if not hasattr(getattr(torch.ops, namespace), name):
        got = f"'{imported.library_op}', which is not defined"
        raise DefinitionError(
            f"{kit.operator.op_type}: the library op of '{kit.torch}' must be a defined one, got {got}"
        )
    registration.register(imported.operator, imported.library_op, imported.arguments)
    _loaded[kit.torch] = imported
    return imported


def torch_kits() -> list[TorchKit]:
    """Return the torch part of every registered operator that has one.

    One that cannot be imported is left out with a warning, once: it must not end models that do not need it. One that
    is being imported is left out too.
    """
    found = []
    for kit in registry.kits():
        module = sys.modules.get(kit.torch.partition(":")[0])
        if module is not None and registration.is_loading(module):
            continue  # its import leads here, where its library op registers itself
        try:
            part = torch_kit(kit)
        except DefinitionError as error:
            if kit.torch not in _warned:
                _warned.add(kit.torch)
                warnings.warn(f"{error}; models that call it cannot be exported", stacklevel=2)
            continue
        if part is not None:
            found.append(part)
    return found


def find_update(rule: str, dtype: torch.dtype) -> Callable[..., Any] | None:
    """Return the function of an operator that is a whole step of a rule for a parameter of ``dtype``, or None."""
    name = str(dtype).removeprefix("torch.")
    for kit in torch_kits():
        if kit.update == rule and name in kit.operator.inputs[0].type.dtypes:
            return kit.function
    return None


def required_torch_kit(kit: OperatorKit) -> TorchKit:
    """Return `torch_kit`. Raises: ContractError where the operator has none."""
    found = torch_kit(kit)
    if found is None:
        raise ContractError(f"{kit.operator.op_type} has no torch part; name a TorchKit in OperatorKit.torch")
    return found
