"""Make the function body of an operator by exporting its torch function, and check that it is the function."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import AttributeProto, helper
from torch import Tensor, nn

from exporter.to_onnx.checks.agreement import root_cause
from exporter.to_onnx.dynamo import export_dynamo
from exporter.to_onnx.example_call import make_example
from exporter.to_onnx.job import Job
from exporter.to_onnx.surroundings import prepared
from exporter.to_onnx.versions import ir_version
from exporter.torch_ops.tensors import to_numpy
from ort_ops.analysis.float64_run import Float64Run
from ort_ops.errors import MylinearError
from ort_ops.opdef.element_types import ElementType
from ort_ops.opdef.operator import DefinitionError, Operator
from ort_ops.opdef.shapes import format_shape

MIN_OPSET, MAX_OPSET = 18, 25
"""What torch's dynamo exporter writes."""
_FLOAT, _INT = 1, 2
_GIVE = "give the body by body=, or body=None for an operator that only kernels run"


@dataclass(frozen=True)
class Example:
    """One call: inputs in the operator's order, None for an absent one; and attributes that differ from defaults."""

    inputs: tuple[Tensor | None, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class ExportedBody:
    """The function body of an operator, exported anew for each opset and each choice of element types.

    Attributes:
        function: inputs by position, attributes by keyword -> outputs.
        examples: of inputs; others are made of them to try the body on.
    """

    operator: Operator
    function: Callable[..., Any]
    examples: Sequence[Example]
    _models: dict[tuple[int, tuple[tuple[str, str], ...]], onnx.ModelProto] = field(default_factory=dict)

    def make_body(self, opset: int, types: Mapping[str, tuple[ElementType, ...]]) -> list[onnx.NodeProto]:
        """Return the nodes of the body; see `Operator`. Raises: DefinitionError."""
        chosen = {}
        for variable in self.operator.variables:
            found = types.get(variable.name) or variable.element_types[:1]
            if len(found) > 1:
                names = " and ".join(t.name for t in found)
                raise self._error(f"is for one element type in a model, and the model has {names}")
            chosen[variable.name] = found[0].name
        return _nodes_of(self.operator, self.model(opset, chosen))

    def model(self, opset: int, types: Mapping[str, str]) -> onnx.ModelProto:
        """Return the function as a model whose inputs are those of the operator, and then its attributes.

        Args:
            types: the element type of each type variable.

        Raises: DefinitionError for a function that cannot be exported, or that the model is not.
        """
        key = opset, tuple(sorted(types.items()))
        if key not in self._models:
            if not MIN_OPSET <= opset <= MAX_OPSET:
                raise self._error(f"needs opset {MIN_OPSET} to {MAX_OPSET}, and the model has {opset}")
            made = self._export(opset, types)
            self._check(made, types)
            self._models[key] = made
        return self._models[key]

    def _export(self, opset: int, types: Mapping[str, str]) -> onnx.ModelProto:
        for parameter in self.operator.inputs:
            if parameter.is_optional:
                raise self._error(f"would need to have input {parameter.argument}, which is optional")
        defaults = self._values(self.examples[0]).values()
        module = _Whole(self.operator, self.function)
        tensors = (*present(self.operator, self.examples[0], types), *(torch.tensor(value) for value in defaults))
        dims = tuple(dict.fromkeys(range(tensor.dim()), torch.export.Dim.AUTO) for tensor in tensors)
        names = [f"in_{i}" for i in range(len(tensors))]
        outputs = [f"out_{i}" for i in range(len(self.operator.outputs))]
        try:
            with torch.no_grad(), prepared(module, None), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                program = torch.export.export(module, tensors, dynamic_shapes=(dims,), strict=False)
                example = make_example(program.module(), tensors, None, must_wrap=True)
                axes: dict[str, dict[int, str]] = {name: {} for name in names}
                proto = export_dynamo(Job(example, program, opset, names, outputs, axes, {}, training=False))
        except Exception as error:
            is_structural = "data-dependent" in str(error) or "Data dependent" in str(error)
            names_of = ", ".join(attribute.name for attribute in self.operator.attributes)
            hint = f" (one of {names_of} decides what is computed)" if is_structural and names_of else ""
            raise self._error(f"cannot be exported{hint}: {root_cause(error)}") from error
        foreign = sorted({f"{n.domain}::{n.op_type}" for n in proto.graph.node if n.domain not in ("", "ai.onnx")})
        if foreign:
            raise self._error(f"must be of standard operators alone, and the function calls {', '.join(foreign)}")
        proto.ir_version = ir_version(opset)
        return proto

    def _check(self, proto: onnx.ModelProto, types: Mapping[str, str]) -> None:
        """Compare the body with the function on other sizes, ranks and attributes that both take."""
        in_float64 = Float64Run(proto)
        for trial in self._trials(types):
            where = f"inputs {', '.join(format_shape([*t.shape]) for t in trial.inputs)}"
            where += "".join(f", {name} = {value}" for name, value in trial.attributes.items())
            try:
                self.operator.infer_shape([[*t.shape] for t in trial.inputs], trial.attributes)
                with torch.no_grad():
                    result = self.function(*trial.inputs, **trial.attributes)
            except Exception:
                if trial.is_given:
                    raise
                continue  # the function does not take these
            results = [result] if isinstance(result, Tensor) else list(result)
            feed = self.feed(proto, trial.inputs, trial.attributes)
            restrict = f"let infer_shape refuse what the operator is not for, or {_GIVE}"
            try:
                exact = in_float64(feed).outputs
            except MylinearError as error:
                raise self._error(f"does not run on {where}, which the function takes: {error}", restrict) from error
            for parameter, value, output in zip(self.operator.outputs, exact.values(), results, strict=True):
                comparison = value.relaxed.compare(to_numpy(output))
                if not comparison.is_within_bound:
                    told = f"gives another {parameter.argument} than the function for {where}: {comparison.complaint}"
                    raise self._error(told, restrict)

    def feed(
        self, proto: onnx.ModelProto, inputs: Sequence[Any], attributes: Mapping[str, Any]
    ) -> dict[str, NDArray[Any]]:
        """Return what a model of the body takes: the inputs, and then the attributes in the operator's order."""
        arrays = [to_numpy(value) if isinstance(value, Tensor) else value for value in inputs]
        values = [attributes[attribute.name] for attribute in self.operator.attributes]
        arrays += [np.asarray(value, np.float32 if isinstance(value, float) else np.int64) for value in values]
        # torch renames an input that is an output too.
        return {value.name: array for value, array in zip(proto.graph.input, arrays, strict=True)}

    def _trials(self, types: Mapping[str, str]) -> Iterator[_Trial]:
        """Yield the examples, then other attributes, other sizes, no rows, a further dimension, and one less."""
        for example in self.examples:
            yield _Trial(present(self.operator, example, types), self._values(example), is_given=True)
        first, values = present(self.operator, self.examples[0], types), self._values(self.examples[0])
        for attribute in self.operator.attributes:
            value = values[attribute.name]
            other = float(np.float32(value * 0.5 + 0.25)) if isinstance(value, float) else value + 1
            yield _Trial(first, {**values, attribute.name: other})
        rank = max(tensor.dim() for tensor in first)
        sizes = sorted({size for tensor in first for size in tensor.shape})
        for changed in [*([size] for size in sizes), sizes]:
            for more in (2, -1):
                yield _Trial([_resized(t, {size: max(size + more, 0) for size in changed}) for t in first], values)
        for size in sizes[:1] + sizes[-1:]:
            yield _Trial([_resized(t, {size: 1}) for t in first], values)
        yield _Trial([torch.stack([t, t.flip(0)]) if t.dim() == rank and rank else t for t in first], values)
        if rank > 1:
            yield _Trial([t[:0] if t.dim() == rank else t for t in first], values)
            yield _Trial([t[0] if t.dim() == rank and len(t) else t for t in first], values)

    def _values(self, example: Example) -> dict[str, Any]:
        """Return a number for each attribute, which the body can have as a tensor. Raises: DefinitionError."""
        values = {}
        for attribute in self.operator.attributes:
            if attribute.kind not in (_FLOAT, _INT) or attribute.python_type == "bool":
                raise self._error(f"can have numbers for attributes, and {attribute.name} is {attribute.python_type}")
            value = example.attributes.get(attribute.name, 1 if attribute.default is None else attribute.default)
            values[attribute.name] = float(np.float32(value)) if attribute.kind == _FLOAT else int(value)
        return values

    def _error(self, told: str, hint: str = _GIVE) -> DefinitionError:
        return DefinitionError(f"{self.operator.op_type}: the body made by exporting the function {told}; {hint}")


@dataclass(frozen=True)
class _Trial:
    inputs: Sequence[Tensor]
    attributes: Mapping[str, Any]
    is_given: bool = False


class _Whole(nn.Module):
    """The function, of inputs and attributes as tensors by position."""

    def __init__(self, operator: Operator, function: Callable[..., Any]) -> None:
        super().__init__()
        self._count = len(operator.inputs)
        self._names = [attribute.name for attribute in operator.attributes]
        self._function = function

    def forward(self, *tensors: Tensor) -> Any:
        attributes = dict(zip(self._names, tensors[self._count :], strict=True))
        result = self._function(*tensors[: self._count], **attributes)
        return result if isinstance(result, Tensor) else tuple(result)


def typed(operator: Operator, inputs: Sequence[Tensor | None], types: Mapping[str, str]) -> list[Tensor | None]:
    """Return inputs in other element types, given by the name of the type variable."""
    pairs = zip(operator.inputs, inputs, strict=True)
    return [None if t is None else t.detach().to(getattr(torch, types[p.type.name])) for p, t in pairs]


def present(operator: Operator, example: Example, types: Mapping[str, str]) -> list[Tensor]:
    """Return the inputs that an example has, in other element types."""
    return [tensor for tensor in typed(operator, example.inputs, types) if tensor is not None]


def _resized(tensor: Tensor, sizes: Mapping[int, int]) -> Tensor:
    """Return a tensor with every dimension of a size in another, its elements repeated in another order."""
    for axis, size in enumerate(tensor.shape):
        if size in sizes:
            index = torch.arange(sizes[size]).flip(0) % max(size, 1)
            tensor = tensor.index_select(axis, index) if size else tensor
    return tensor


def _nodes_of(operator: Operator, proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the nodes of a model as those of the operator's body, with names of its own for all other values."""
    graph = proto.graph
    taken = [value.name for value in graph.input]
    names = {name: parameter.name for name, parameter in zip(taken, operator.inputs, strict=False)}
    names |= {value.name: parameter.name for value, parameter in zip(graph.output, operator.outputs, strict=True)}
    nodes = []
    for name, attribute in zip(taken[len(operator.inputs) :], operator.attributes, strict=True):
        names[name] = f"_{attribute.name}"
        kind = AttributeProto.FLOAT if attribute.kind == _FLOAT else AttributeProto.INT
        key = "value_float" if kind == AttributeProto.FLOAT else "value_int"
        node = helper.make_node("Constant", [], [names[name]])
        node.attribute.append(AttributeProto(name=key, type=kind, ref_attr_name=attribute.name))
        nodes.append(node)
    for tensor in graph.initializer:
        value = onnx.TensorProto()
        value.CopyFrom(tensor)
        value.name, value.doc_string = "", ""
        nodes.append(helper.make_node("Constant", [], [names.setdefault(tensor.name, f"_{len(names)}")], value=value))
    for node in graph.node:
        nodes.append(_renamed(node, names))
    return nodes


def _renamed(node: onnx.NodeProto, names: dict[str, str]) -> onnx.NodeProto:
    """Return a copy without traces of torch, with other names of values, in its graphs too."""

    def rename(name: str) -> str:
        return names.setdefault(name, f"_{len(names)}") if name else ""

    copy = onnx.NodeProto(op_type=node.op_type, domain="")
    copy.input.extend(map(rename, node.input))
    copy.output.extend(map(rename, node.output))
    for attribute in node.attribute:
        own = copy.attribute.add()
        own.CopyFrom(attribute)
        own.doc_string = ""
        if attribute.HasField("g"):
            del own.g.metadata_props[:], own.g.value_info[:]
            for value in (*own.g.input, *own.g.output, *own.g.initializer):
                value.name = rename(value.name)
            inner = [_renamed(one, names) for one in own.g.node]
            del own.g.node[:]
            own.g.node.extend(inner)
    return copy
