"""Make a complete library op, and the `TorchKit`, from an operator and a function of torch's own operations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from exporter.torch_ops.arguments import check_results, check_tensors
from exporter.torch_ops.counting import counters
from exporter.torch_ops.kit import ExampleModule, Tensors, TorchKit
from exporter.torch_ops.library_ops.derivatives import Backward, Derivatives, Jvp, SetupContext, Vmap, split
from exporter.torch_ops.library_ops.fake import make_fake
from exporter.torch_ops.library_ops.kernels import Kernels, define_overload
from exporter.torch_ops.registration import register
from ort_ops.opdef.operator import Attribute, DefinitionError, Operator

NumOutputs = Callable[[Tensors, Mapping[str, Any]], int]
_TYPES = {1: "float", 2: "int", 3: "str", 6: "float[]", 7: "int[]", 8: "str[]"}
"""Types of a library op's arguments by ``onnx.AttributeProto.AttributeType``."""


def define_library_op(
    operator: Operator,
    name: str,
    compute: Callable[..., Any],
    *,
    backward: Backward | None = None,
    setup_context: SetupContext | None = None,
    jvp: Jvp | None = None,
    vmap: Vmap | None = None,
    num_outputs: NumOutputs | None = None,
    autocast: bool = False,
    examples: Callable[[], Iterable[ExampleModule]] | None = None,
) -> TorchKit:
    """Define the library op of an operator, and register it with both of torch's exporters.

    The op has a fake kernel from the operator's shape rule, derivatives, and a batch rule. It checks its arguments and
    what ``compute`` returns by the operator's contract. Numbers of float attributes are rounded to 32 bits, as a node
    holds them, so that torch computes with what onnxruntime gets.

    Args:
        name: of the op, ``namespace::name``.
        compute: takes the inputs by position, None for an absent one, and the attributes by keyword; returns the
            outputs that there are, made by torch's own operations. Any device, any number of calls.
        backward: ``(ctx, *gradients of the outputs)`` -> gradients of the inputs, as in `torch.autograd.Function`, None
            for one that has none; made of torch's operations, so that it has a derivative itself. None for torch's own
            derivative of ``compute``, which then works in forward mode too.
        setup_context: ``(ctx, inputs and attributes, output)``, what is kept for ``backward``; by default all inputs,
            by ``ctx.save_for_backward``, and ``ctx.attributes``.
        jvp: ``(ctx, *tangents of the inputs)`` -> tangents of the outputs, as in `torch.autograd.Function`, None for an
            input that has none; beside a ``backward``, which alone serves no forward mode.
        vmap: ``(info, in_dims of the inputs, *inputs, **attributes)`` -> (outputs, where each has the batch), as
            `torch.library.register_vmap` takes it; by default the op is called once for each sample.
        num_outputs: (inputs, attributes) -> how many outputs there are; None for all of them, always.
        autocast: whether autocast casts the inputs, as it does for products of matrices.
        examples: of the kit.

    Returns: the torch part of the operator; its ``function`` is what users call.
    Raises: DefinitionError for attributes that torch's ops cannot have.

    >>> from ort_ops.opdef.signature import Float, read_operator
    >>> def scale(x: Float, *, factor: float = 2.0) -> Float: ...
    >>> kit = define_library_op(
    ...     read_operator(scale, "my.domain", "Scale"), "my_ops::scale", lambda x, factor: x * factor
    ... )
    >>> kit.function(torch.ones(2), factor=3.0)
    tensor([3., 3.])
    """
    definition = _Definition(operator, name, compute, num_outputs)
    definition.define(Derivatives(operator, compute, backward, setup_context, jvp, vmap), autocast)
    register(operator, name)
    return TorchKit(
        operator,
        name,
        definition.function,
        plain=compute,
        autograd_nodes=definition.autograd_nodes,
        examples=examples,
    )


class _Definition:
    """One library op, with an overload for each number of outputs."""

    def __init__(
        self, operator: Operator, name: str, compute: Callable[..., Any], num_outputs: NumOutputs | None
    ) -> None:
        self.operator = operator
        self.name = name
        self.compute = compute
        self._num_outputs = num_outputs
        self._num_inputs = len(operator.inputs)
        self._derivatives: Derivatives
        self._apply: dict[int, Callable[..., Any]] = {}
        self.autograd_nodes: frozenset[str] = frozenset()

    def define(self, derivatives: Derivatives, autocast: bool) -> None:
        """Define every overload, with all its kernels."""
        namespace, _, name = self.name.partition("::")
        library = torch.library.Library(namespace, "FRAGMENT")
        _libraries.append(library)
        total = len(self.operator.outputs)
        first = total if self._num_outputs is None else self.operator.num_required_outputs
        nodes: set[str] = set()
        for count in range(first, total + 1):
            full = name if count == first else f"{name}.outputs{count}"
            functions = derivatives.functions(lambda *arguments: self._call(arguments))
            kernels = Kernels(
                compute=self._kernel(count),
                fake=make_fake(self.operator, self.compute, count),
                vmap=functions.batch_rule,
                autograd=functions.autograd,
                backward=derivatives.gradients,
                save=derivatives.save,
                num_cast=self._num_inputs * autocast,
            )
            functions.op = define_overload(library, full, self._schema(count), kernels)
            self._apply[count] = functions.apply
            nodes |= functions.node_names
        self.autograd_nodes = frozenset(nodes)

    def function(self, *inputs: Tensor | None, **attributes: Any) -> Any:
        """Compute the operator; see `TorchKit.function`. Raises: ContractError, TypeError."""
        if len(inputs) > self._num_inputs:
            rule = f"at most {self._num_inputs}"
            raise self.operator.error("the number of inputs", rule, str(len(inputs)))
        self.operator.check_attributes(attributes)
        values = self.operator.defaults | attributes
        absent = [None] * (self._num_inputs - len(inputs))
        arguments = (*inputs, *absent, *(values[attribute.name] for attribute in self.operator.attributes))
        for counter in counters:
            counter[self.operator.op_type] += 1
        return self._call(arguments)

    def _call(self, arguments: Sequence[Any]) -> Any:
        total = count = len(self.operator.outputs)
        if self._num_outputs is not None:  # torch.compile traces this, and not what `split` does to attributes
            values = arguments[self._num_inputs :]
            attributes = {a.name: value for a, value in zip(self.operator.attributes, values, strict=True)}
            count = self._num_outputs(arguments[: self._num_inputs], attributes)
        if count not in self._apply:
            rule = f"{min(self._apply)} to {total}"
            raise self.operator.error("the number of outputs", rule, str(count))
        return self._apply[count](*arguments)

    def _split(self, arguments: Sequence[Any]) -> tuple[Sequence[Any], dict[str, Any]]:
        return split(self.operator, arguments)

    def _kernel(self, count: int) -> Callable[..., Any]:
        def kernel(*arguments: Any) -> Any:
            inputs, attributes = self._split(arguments)
            check_tensors(self.operator, inputs, attributes)
            result = self.compute(*inputs, **attributes)
            outputs = [result] if isinstance(result, Tensor) else list(result)
            check_results(self.operator, inputs, attributes, outputs, count)
            # Of an op torch expects memory of its own, and the layout that the fake kernel has.
            taken = {tensor.untyped_storage().data_ptr() for tensor in inputs if tensor is not None}
            fresh = []
            for output in outputs:
                is_alias = output.untyped_storage().data_ptr() in taken
                fresh.append(output.clone(memory_format=torch.contiguous_format) if is_alias else output.contiguous())
                taken.add(fresh[-1].untyped_storage().data_ptr())
            return fresh[0] if count == 1 else tuple(fresh)

        return kernel

    def _schema(self, count: int) -> str:
        parts = [f"Tensor{'?' * p.is_optional} {p.argument}" for p in self.operator.inputs]
        parts += [f"{self._type(a)} {a.name}" for a in self.operator.attributes]
        returns = "Tensor" if count == 1 else f"({', '.join(['Tensor'] * count)})"
        return f"({', '.join(parts)}) -> {returns}"

    def _type(self, attribute: Attribute) -> str:
        if attribute.kind not in _TYPES:
            raise DefinitionError(
                f"{self.operator.op_type}: attribute {attribute.name} must be a number, text or list to be an argument "
                f"of a library op, got {attribute.python_type}"
            )
        kind = "bool" if attribute.python_type == "bool" else _TYPES[attribute.kind]
        return kind if attribute.is_required or attribute.default is not None else f"{kind}?"


_libraries: list[torch.library.Library] = []
"""Kept alive: kernels go with their library."""
