"""`operator`: make an operator of a torch function and its backward, on every path of torch and of ONNX."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from exporter.definition import defined
from exporter.definition.body import MIN_OPSET, Example, ExportedBody
from exporter.definition.kernel import make_kernel
from exporter.definition.module import make_module
from exporter.definition.proof import BodyProof, in_float64, make_reference, make_samples, unbounded
from exporter.definition.shapes import make_shape_rule
from exporter.torch_ops.gradients import check_gradients
from exporter.torch_ops.kit import ExampleModule, TorchKit
from exporter.torch_ops.library_ops.define import NumOutputs, define_library_op
from exporter.torch_ops.library_ops.derivatives import Backward, Jvp, SetupContext, Vmap
from ort_ops.numerics.bound import Arithmetic, Bound
from ort_ops.opdef import onnx_objects, registry
from ort_ops.opdef.call import Call
from ort_ops.opdef.kit import OperatorKit
from ort_ops.opdef.operator import DefinitionError, MakeBody, Operator
from ort_ops.opdef.signature import read_operator
from ort_ops.python_kernels.decorator import PythonKernel, split_op_type

Function = Callable[..., Any]
_BOUND = Callable[[Call, Arithmetic], Sequence[Bound | None]]


class TorchOperator:
    """An operator in torch, made by `operator`; called like the function that it was made of.

    Attributes:
        operator: the description.
        torch_kit: what the exporter asks for; a package names it in its `OperatorKit`.
        kit: what the registry has of it; None where a package's own kit describes it.
        examples: calls of it.
    """

    def __init__(
        self, torch_kit: TorchKit, function: Function, kit: OperatorKit | None, examples: Sequence[Example]
    ) -> None:
        self.operator = torch_kit.operator
        self.torch_kit = torch_kit
        self.kit = kit
        self.examples = tuple(examples)
        self._arguments = [parameter.argument for parameter in self.operator.inputs]
        self.__doc__ = function.__doc__
        self.__name__ = getattr(function, "__name__", self.operator.name)
        self.__wrapped__ = function

    def __call__(self, *inputs: Tensor | None, **named: Any) -> Any:
        """Compute the operator: inputs by position or by name, attributes by name. Raises: ContractError, TypeError."""
        values = list(inputs)
        if named:
            for argument in self._arguments[len(inputs) :]:
                if not any(name in named for name in self._arguments):
                    break
                values.append(named.pop(argument, None))
        return self.torch_kit.function(*values, **named)

    def __repr__(self) -> str:
        return f"<operator {self.operator.op_type}, version {self.operator.since_version}, in torch>"

    def __deepcopy__(self, memo: object) -> TorchOperator:
        return self

    def module(self, **given: Any) -> nn.Module:
        """Return a module whose ``forward`` takes the inputs that are not given here.

        Args:
            given: attributes; and tensors for inputs, of which an `nn.Parameter` becomes a parameter, another a buffer.

        Raises: ContractError for a name that the operator does not have, TypeError for an input that is no tensor.
        """
        return make_module(self.operator, self.torch_kit.function, given)

    def check_gradients(self, *inputs: Tensor | None, second_order: bool = True, **attributes: Any) -> None:
        """Compare derivatives with finite differences, on these inputs, or on every example.

        Raises: GradientError naming the input whose gradient is wrong.
        """
        calls = [Example(inputs, attributes)] if inputs else self.examples
        if not calls:
            raise self.operator.error("what gradients are checked on", "inputs, or examples of the operator", "none")
        for call in calls:

            def function(*values: Any, call: Example = call) -> Any:
                return self.torch_kit.function(*values, **call.attributes)

            names = inspect.Parameter.POSITIONAL_ONLY
            signature = inspect.Signature([inspect.Parameter(name, names) for name in self._arguments])
            function.__signature__ = signature  # type: ignore[attr-defined]
            check_gradients(function, call.inputs, second_order=second_order)

    def make_node(self, inputs: Sequence[str], outputs: Sequence[str], name: str = "", **attributes: Any) -> Any:
        """Make an ONNX node of the operator. Raises: ContractError for an unknown or missing attribute."""
        return onnx_objects.make_node(self.operator, inputs, outputs, name, **attributes)

    def remove(self) -> None:
        """Remove the operator from the registry; its function goes on computing in torch."""
        if self.kit is not None:
            registry.remove(self.kit)
            if _defined.get(self.operator.key) is self:
                del _defined[self.operator.key]


_defined: dict[tuple[str, str, int], TorchOperator] = {}


def operator(
    op_type: str | Operator,
    *,
    backward: Backward | None = None,
    setup_context: SetupContext | None = None,
    jvp: Jvp | None = None,
    vmap: Vmap | None = None,
    examples: Sequence[Any] = (),
    kernel: Function | PythonKernel[..., Any] | None = None,
    reference: Function | None = None,
    bound: _BOUND | None = None,
    infer_shape: Function | None = None,
    body: MakeBody | Literal["export"] | None = "export",
    since_version: int = 1,
    num_outputs: NumOutputs | None = None,
    autocast: bool = False,
    library_op: str = "",
) -> Callable[[Function], TorchOperator]:
    """Make a torch function an operator: differentiable, compiled, exported as one node, and run in onnxruntime.

    A decorator for a function of torch's own operations, annotated as for `ort_ops.python_kernel`: parameters before
    the ``*`` are inputs, those after it attributes. Defining the same operator again replaces it.

    >>> from ort_ops import Float
    >>> @operator("doc.example::Shrink", examples=[torch.rand(3, 4)])
    ... def shrink(x: Float, *, cut: float = 0.5) -> Float:
    ...     return torch.sign(x) * torch.relu(x.abs() - cut)
    >>> shrink(torch.tensor([-2.0, 0.25]), cut=0.5).tolist()
    [-1.5, 0.0]
    >>> shrink.remove()

    Args:
        op_type: domain and name, ``my.domain::Shrink``; or an `Operator` that a package describes. Of the latter, the
            package's own `OperatorKit` says what runs and proves it, and names ``torch_kit`` of the result.
        backward: ``(ctx, *gradients of the outputs)`` -> gradient of each input, None for none, of torch's operations;
            ``ctx.saved_tensors`` has the inputs, ``ctx.attributes`` the attributes. None: torch's own derivative.
        setup_context: ``(ctx, inputs and attributes, output)``: keeps something else for ``backward``.
        jvp: ``(ctx, *tangents of the inputs)`` -> tangents of the outputs, for forward mode beside a ``backward``.
        vmap: ``(info, in_dims of the inputs, *inputs, **attributes)`` -> (outputs, their batch dimensions); by default
            one call for each sample.
        examples: calls of the function: each a tensor, or a tuple of the inputs, which may end with a dict of
            attributes. The body is exported of the first, and checked on all, and on others made of them.
        kernel: a NumPy function, the Python kernel; annotated like the torch function, or not at all.
        reference: a NumPy function that computes the exact results of float64 arrays. None: the exported body in
            float64, or beside a body of your own the torch function in float64.
        bound: see `OperatorKit`. None: by the rounding errors of the body's nodes.
        infer_shape: as of `ort_ops.python_kernel`. None: the function says, run on tensors without numbers.
        body: the operator in standard ONNX, as `Operator.make_body`. ``"export"``: made by exporting the function.
            None: none; then only kernels run it.
        since_version: the version of the domain in which the operator got this signature.
        num_outputs: (inputs, attributes) -> how many outputs there are; None for all of them, always.
        autocast: whether autocast casts the inputs, as it does for products of matrices.
        library_op: name of the op in torch, ``my_domain::shrink``; by default of the operator's name.

    Raises: DefinitionError that says what cannot be an operator, and why. A body is exported, and found to be wrong,
        when a model first needs it.
    """
    torch_options: dict[str, Any] = {"backward": backward, "setup_context": setup_context, "jvp": jvp, "vmap": vmap}
    torch_options |= {"num_outputs": num_outputs, "autocast": autocast}

    def define(function: Function) -> TorchOperator:
        if isinstance(op_type, Operator):
            own = {"kernel": kernel, "reference": reference, "bound": bound, "infer_shape": infer_shape}
            given = [name for name, value in own.items() if value is not None] + ["body"] * (body != "export")
            if given:
                raise DefinitionError(
                    f"{op_type.op_type}: {given[0]} must be part of the OperatorKit of an operator that is described "
                    "already, got it here; or give the operator's name instead of the description"
                )
            calls = _read_examples(op_type, examples)
            return TorchOperator(_define(op_type, function, library_op, calls, torch_options), function, None, calls)
        domain, name = split_op_type(op_type, since_version)
        taken = {kit.operator.domain for kit in registry.kits() if kit.operator.key not in _defined}
        if domain in taken:
            raise DefinitionError(f"{name}: the domain must be one of your own, such as 'my.domain', got {domain!r}")
        try:
            described = read_operator(function, domain, name, since_version)
            if infer_shape is not None:
                rule = PythonKernel(described, function, infer_shape, False).infer_shapes
                described = replace(described, infer_shape=rule)
            else:
                described = replace(described, infer_shape=make_shape_rule(described, function))
        except DefinitionError as error:
            raise DefinitionError(f"{name}: {error}") from None
        calls = _read_examples(described, examples)
        if body == "export":
            if not calls:
                raise DefinitionError(
                    f"{name}: examples must be calls of the function, to export its body of, got none; or give the "
                    "body by body=, or body=None for an operator that only kernels run"
                )
            exported = ExportedBody(described, function, calls)
            described = replace(described, make_body=exported.make_body, min_opset=MIN_OPSET)
        elif body is not None:
            described = replace(described, make_body=body)
        python = None if kernel is None else make_kernel(described, kernel, function)
        proof = None if described.make_body is None else BodyProof(described, None if body == "export" else function)
        exact = make_reference(described, reference or in_float64(function))
        if proof is not None and body == "export" and reference is None:
            exact = proof.reference
        torch_kit = _define(described, function, library_op, calls, torch_options)
        kit = OperatorKit(
            described,
            exact,
            bound or (unbounded if proof is None else proof.bound),
            make_samples(described, calls),
            python_kernel=None if python is None else lambda: python,
            torch=defined.keep(torch_kit),
            samples_are_examples=True,
        )
        if (old := _defined.get(described.key)) is not None:
            old.remove()
        registry.add(kit)
        _defined[described.key] = made = TorchOperator(torch_kit, function, kit, calls)
        return made

    return define


def _define(
    described: Operator, function: Function, library_op: str, calls: Sequence[Example], options: Mapping[str, Any]
) -> TorchKit:
    """Define the library op, under a name of its own: programs that have an older definition go on with that."""
    wanted = library_op or f"{re.sub(r'[^0-9a-zA-Z_]', '_', described.domain)}::{described.name.lower()}"
    namespace, _, name = wanted.partition("::")
    number = 1
    while hasattr(getattr(torch.ops, namespace), name if number == 1 else f"{name}_{number}"):
        number += 1
    if number > 1 and library_op:
        raise DefinitionError(f"{described.op_type}: library_op must be a name that torch has no op of, got {wanted}")

    def module_examples() -> Iterator[ExampleModule]:
        for call in calls:
            count = max((i + 1 for i, value in enumerate(call.inputs) if value is not None), default=0)
            module = make_module(described, kit.function, call.attributes)
            yield ExampleModule(module.eval(), tuple(call.inputs[:count]))

    own = f"{namespace}::{name}" if number == 1 else f"{namespace}::{name}_{number}"
    kit = define_library_op(described, own, function, examples=module_examples if calls else None, **options)
    return kit


def _read_examples(described: Operator, examples: Sequence[Any]) -> list[Example]:
    """Read the examples as a caller gives them. Raises: DefinitionError."""
    found = []
    listed = [examples] if isinstance(examples, Tensor) else list(examples)
    for example in listed:
        values = [example] if isinstance(example, Tensor) else list(example)
        attributes = values.pop() if values and isinstance(values[-1], Mapping) else {}
        is_right = described.num_required <= len(values) <= len(described.inputs)
        if not is_right or not all(value is None or isinstance(value, Tensor) for value in values):
            got = ", ".join("None" if value is None else type(value).__name__ for value in values) or "nothing"
            arguments = ", ".join(parameter.argument for parameter in described.inputs)
            raise DefinitionError(
                f"{described.op_type}: each of examples must be tensors for {arguments}, and perhaps a dict of "
                f"attributes, got {got}"
            )
        described.check_attributes([*described.defaults, *attributes])
        values += [None] * (len(described.inputs) - len(values))
        found.append(Example(tuple(values), dict(attributes)))
    return found
