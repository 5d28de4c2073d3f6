"""What an operator is made of: inputs, element types, shape rule, body, and the ONNX objects made from them.

`ort_ops.operators` holds the instances that this project ships.
Only the standard library is imported until an ONNX object is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ort_ops.errors import MylinearError
from ort_ops.opdef import schemas

if TYPE_CHECKING:
    import onnx
    from onnx import defs

Dim = int | str | None
"""One dimension: its size, its symbolic name, or None where nothing is known of it."""
Shape = Sequence[Dim]


@dataclass(frozen=True)
class ElementType:
    """An element type that an operator accepts, and the one that its sums run in.

    Attributes:
        name: NumPy's and torch's name, such as ``float16``.
        onnx_type: the value in ``onnx.TensorProto.DataType``, part of the ONNX standard.
        nbytes: size of one element.
        accumulator: name of the element type that sums are held in.
        unit_roundoff: half the distance from 1 to the next number; the error of one rounding.
        smallest: the smallest positive (subnormal) number; twice the absolute error of one underflow.
        largest: the largest finite number.
    """

    name: str
    onnx_type: int
    nbytes: int
    accumulator: str
    unit_roundoff: float
    smallest: float
    largest: float

    @property
    def onnx_name(self) -> str:
        """The name in ONNX type strings: ``tensor(double)``, ``tensor(float)``, and so on."""
        return f"tensor({ {'float64': 'double', 'float32': 'float'}.get(self.name, self.name) })"


@dataclass(frozen=True)
class Parameter:
    """A formal input or output: its ONNX name, the word for it in messages, and what it holds."""

    name: str
    argument: str
    doc: str
    is_optional: bool = False


class ContractError(MylinearError, ValueError):
    """A shape, element type, attribute or version breaks an operator's contract."""


MakeBody = Callable[[int, ElementType, ElementType | None], "list[onnx.NodeProto]"]


@dataclass(frozen=True)
class Operator:
    """One version of one operator, and every ONNX object that states it.

    Attributes:
        infer_shape: shapes of the inputs (None for a missing or unknown one) -> shape of the output, or None
            if it cannot be known. Raises ContractError if the known dimensions contradict the contract.
        make_body: (opset version, accumulator, element type or None) -> nodes of the function body, over the
            parameters' names. ``accumulator`` is the element type to compute in, to which every input is cast first
            unless it is the inputs' own; the result is cast back to that, None for "like the first input".
        former_bodies: what stood in place of ``make_body`` in older versions of this project; as right, and accepted.
        min_opset: the oldest version of ONNX's own domain that the body is written for.
    """

    domain: str
    name: str
    since_version: int
    inputs: tuple[Parameter, ...]
    output: Parameter
    element_types: tuple[ElementType, ...]
    doc: str
    infer_shape: Callable[[Sequence[Shape | None]], Shape | None]
    make_body: MakeBody
    former_bodies: tuple[MakeBody, ...] = ()
    min_opset: int = 7

    @property
    def num_required(self) -> int:
        """How many inputs must be given; optional ones come last."""
        return sum(not parameter.is_optional for parameter in self.inputs)

    def element_type(self, key: str | int) -> ElementType:
        """Return the element type called ``key`` (a name, or a value of ``onnx.TensorProto.DataType``).

        Raises: ContractError if the operator does not accept it.
        """
        for element_type in self.element_types:
            if key in (element_type.name, element_type.onnx_type):
                return element_type
        got = key if isinstance(key, str) else element_type_name(key)
        raise ContractError(self.message(self.inputs[0].argument, self.element_type_rule, got))

    @property
    def element_type_rule(self) -> str:
        """The accepted element types in words: ``float64, float32, float16 or bfloat16``."""
        *head, last = (element_type.name for element_type in self.element_types)
        return f"{', '.join(head)} or {last}" if head else last

    def message(self, argument: str, rule: str, got: str, hint: str = "") -> str:
        """The one form of every error: ``NAME: <argument> must be <rule>, got <value>[; hint]``."""
        return f"{self.name}: {argument} must be {rule}, got {got}" + (f"; {hint}" if hint else "")

    def check_element_types(self, names: Sequence[str | None]) -> ElementType:
        """Check that the inputs (None for a missing one) share one accepted element type, and return it.

        Raises: ContractError naming the first argument that breaks the rule.
        """
        first = names[0]
        if first not in {element_type.name for element_type in self.element_types}:
            raise ContractError(self.message(self.inputs[0].argument, self.element_type_rule, str(first)))
        for parameter, name in zip(self.inputs, names, strict=False):
            if name is not None and name != first:
                rule = f"{first} (the dtype of {self.inputs[0].argument})"
                raise ContractError(self.message(parameter.argument, rule, name))
        assert first is not None
        return self.element_type(first)

    def check_version(self, version: int) -> None:
        """Check that a model's opset import of the domain is one that this code knows.

        Raises: ContractError for a version below or above it.
        """
        if version != self.since_version:
            argument = f"the version of domain '{self.domain}'"
            raise ContractError(self.message(argument, str(self.since_version), str(version), "update ort-mylinear"))

    def check_opset(self, version: int) -> None:
        """Check that ONNX's own domain is new enough for the operator; 0 stands for a model that imports none.

        Below opset 7 the same names mean other operators: Add and Gemm broadcast only where ``broadcast`` says so, and
        along ``axis``. Raises: ContractError.
        """
        if 0 < version < self.min_opset:
            hint = "convert the model with onnx.version_converter"
            raise ContractError(self.message("the opset version", f"{self.min_opset} or newer", str(version), hint))

    def check_attributes(self, names: Collection[str]) -> None:
        """Check that a node carries no attribute: version 1 has none. Raises: ContractError naming them."""
        if names:
            raise ContractError(self.message("the attributes", "none", ", ".join(sorted(names))))

    def schema(self) -> defs.OpSchema:
        """Make the ``OpSchema`` with its shape inference; it is not registered yet."""
        from onnx import defs

        option = defs.OpSchema.FormalParameterOption

        def formal(parameter: Parameter) -> defs.OpSchema.FormalParameter:
            kind = option.Optional if parameter.is_optional else option.Single
            return defs.OpSchema.FormalParameter(parameter.name, "T", parameter.doc, param_option=kind)

        schema = defs.OpSchema(
            self.name,
            self.domain,
            self.since_version,
            self.doc,
            inputs=[formal(parameter) for parameter in self.inputs],
            outputs=[formal(self.output)],
            type_constraints=[("T", [t.onnx_name for t in self.element_types], "The element types.")],
        )
        # Without it onnx would also stop inferring through the model-local function.
        schema.set_type_and_shape_inference_function(self._infer)
        return schema

    def register_schema(self) -> None:
        """Make the operator known to ``onnx.checker`` and ``onnx.shape_inference``; again does nothing."""
        if not schemas.is_registered(self.name, self.since_version, self.domain):
            schemas.register(self.schema())

    def function(
        self, opset_version: int, element_types: Collection[str], make_body: MakeBody | None = None
    ) -> onnx.FunctionProto:
        """Make the model-local function that defines the operator in standard ONNX operators.

        One function serves every node of a model, so it depends on what types the model's nodes have:

        - one type that sums in itself (float32, float64): no cast;
        - one type that sums in a wider one: cast, compute, cast back to that type (one rounding);
        - several types: cast to the widest accumulator among them and back with ``CastLike`` (opset 15 on).

        Args:
            opset_version: the model's own version of the default domain.
            element_types: names of the element types of the model's nodes.
            make_body: one of `former_bodies`; None for the present one.

        Raises: ContractError if a type is not accepted or the opset version cannot say it.
        """
        from onnx import helper

        self.check_opset(opset_version)
        types = sorted({self.element_type(name) for name in element_types}, key=lambda t: t.unit_roundoff)
        accumulators = [self.element_type(t.accumulator) for t in types]
        accumulator = min(accumulators, key=lambda t: t.unit_roundoff)
        element_type = types[0] if len(types) == 1 else None
        argument = "the opset version"
        if element_type is None and opset_version < 15:
            rule = f"15 or newer for a model that mixes {' and '.join(t.name for t in types)}"
            raise ContractError(self.message(argument, rule, str(opset_version)))
        if opset_version < 13 and "bfloat16" in {t.name for t in types}:
            raise ContractError(self.message(argument, "13 or newer for bfloat16", str(opset_version)))
        return helper.make_function(
            self.domain,
            self.name,
            [parameter.name for parameter in self.inputs],
            [self.output.name],
            (make_body or self.make_body)(opset_version, accumulator, element_type),
            [helper.make_opsetid("", opset_version)],
            doc_string=self.doc,
        )

    def _infer(self, context: Any) -> None:
        """Infer type and shape of the output; ``context`` is onnx's InferenceContext."""
        import onnx

        num_inputs = context.get_num_inputs()
        types = [context.get_input_type(i) if context.has_input(i) else None for i in range(num_inputs)]
        known = [t.tensor_type.elem_type for t in types if t is not None and t.tensor_type.elem_type]
        if not known:
            return
        result = onnx.TypeProto()
        result.tensor_type.elem_type = known[0]
        shape = self.infer_shape([_shape_of(t) for t in types])
        if shape is not None:
            dims = result.tensor_type.shape
            for dim in shape:
                proto = dims.dim.add()
                if isinstance(dim, str):
                    proto.dim_param = dim
                elif dim is not None:
                    proto.dim_value = dim
            result.tensor_type.shape.SetInParent()
        context.set_output_type(0, result)


def element_type_name(onnx_type: int) -> str:
    """The name of any of ONNX's element types: NumPy's where it has the type."""
    from onnx import TensorProto, helper

    if onnx_type not in TensorProto.DataType.values():
        return f"the unknown element type {onnx_type}"
    if onnx_type in (TensorProto.UNDEFINED, TensorProto.STRING):
        return str(TensorProto.DataType.Name(onnx_type).lower())
    return str(helper.tensor_dtype_to_np_dtype(onnx_type).name)


def _shape_of(type_proto: onnx.TypeProto | None) -> Shape | None:
    """The shape that a TypeProto states, or None where it states none."""
    if type_proto is None or not type_proto.tensor_type.HasField("shape"):
        return None
    dims: list[Dim] = []
    for dim in type_proto.tensor_type.shape.dim:
        kind = dim.WhichOneof("value")
        dims.append(getattr(dim, kind) or (0 if kind == "dim_value" else None) if kind else None)
    return dims
