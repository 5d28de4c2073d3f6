"""Give nodes the optional inputs that a function body or a kernel takes, and take out outputs that nobody reads."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ort_ops.errors import ModelError
from ort_ops.models.graphs import NodeContainer, declared_shape
from ort_ops.models.nodes import OperatorNode, domain_version, operator_nodes
from ort_ops.opdef import registry
from ort_ops.opdef.operator import AbsentInput, Parameter


def complete_inputs(model: onnx.ModelProto) -> int:
    """Give every operator's node the optional inputs that it lacks, and return how many nodes that were.

    A model-local function and kernels of onnxruntime-extensions take exactly the operator's inputs. A second function
    under an overload name would serve for a function, but onnxruntime up to 1.24 at least confuses overloads
    (``tests/opdef/test_function_body.py`` shows it), and it would not help the extensions. So the operator's
    `AbsentInput` is added, which changes no result. The time is linear in the model. Outputs are completed too.

    Raises: ModelError for an input whose shape is computed, below opset 15.
    """
    opset = domain_version(model, "")
    graphs: dict[int, _Completion] = {}
    count = 0
    nodes = operator_nodes(model)  # kept alive: graphs are distinguished by identity
    complete_outputs(nodes)
    for found in nodes:
        if found.lacks_input:
            completion = graphs.setdefault(id(found.container), _Completion(found.container, opset))
            completion.complete(found)
            count += 1
    for completion in graphs.values():
        completion.insert()
    return count


def complete_outputs(nodes: Iterable[OperatorNode]) -> None:
    """Give an empty name to each optional output that an operator's node does not list at all.

    onnxruntime infers the outputs of a function beyond those of the node, and then refuses the model.
    """
    for found in nodes:
        if found.lacks_output:
            found.node.output.extend([""] * (len(found.operator.outputs) - len(found.node.output)))


def remove_definitions(model: onnx.ModelProto) -> None:
    """Remove the operators' own functions, which evaluators would take instead of an operator; no weight is copied."""
    names = registry.names()
    for index, function in reversed(list(enumerate(model.functions))):
        if (function.domain, function.name) in names:
            del model.functions[index]


class _Completion:
    """Complete the nodes of one graph or function."""

    def __init__(self, container: NodeContainer, opset: int) -> None:
        self._container = container
        self._opset = opset
        self._used = {name for node in container.node for name in (*node.input, *node.output)}
        self._fixed: dict[str, tuple[list[int], int]] = {}
        self._added: dict[str, list[onnx.NodeProto]] = {}
        if isinstance(container, onnx.GraphProto):
            self._fixed = {value.name: found for value in container.input if (found := _fixed_shape(value))}
            self._fixed |= {t.name: (list(t.dims), t.data_type) for t in container.initializer}
            self._used |= {t.name for t in container.initializer} | {value.name for value in container.input}

    def complete(self, found: OperatorNode) -> None:
        """Give one node the inputs that it lacks."""
        names = [*found.inputs]
        for index, parameter in enumerate(found.operator.inputs):
            if names[index] or parameter.absent is None:
                continue
            names[index] = self._unused_name(f"{found.label}_absent_{parameter.argument}")
            self._make(found, parameter, parameter.absent, names[index])
        del found.node.input[:]
        found.node.input.extend(names)

    def insert(self) -> None:
        """Put the added nodes before those that need them, all at once: each insertion would move all that follow."""
        if self._added:
            nodes = [n for node in self._container.node for n in (*self._added.get(_first_output(node), ()), node)]
            copies = onnx.GraphProto(node=nodes)
            del self._container.node[:]
            self._container.node.extend(copies.node)

    def _make(self, found: OperatorNode, parameter: Parameter, absent: AbsentInput, name: str) -> None:
        """Make the tensor that stands for an input: stored where type and shape are fixed, otherwise computed."""
        by_name = {p.name: value for p, value in found.parameters()}
        sources = [by_name[dim[0]] for dim in absent.dims if not isinstance(dim, int)]
        same_type = [value for p, value in found.parameters() if p.type == parameter.type]
        types = (self._type_of(found, v) for v in (*sources, *same_type) if v in same_type)
        data_type = next(filter(None, types), None) if all(source in self._fixed for source in sources) else None
        if data_type is not None and isinstance(self._container, onnx.GraphProto):
            dims = [dim if isinstance(dim, int) else self._fixed[by_name[dim[0]]][0][dim[1]] for dim in absent.dims]
            self._store(name, dims, absent.value, data_type)
            return
        like = next((v for v in (*sources, *same_type) if v in same_type), None)
        sizes = [dim for dim in absent.dims if isinstance(dim, int)]
        if like is None and len(sizes) == len(absent.dims):
            # No value of the node has its type variable, so that any of the element types will do.
            self._store(name, sizes, absent.value, parameter.type.element_types[0].onnx_type)
            return
        if like is None:
            raise ModelError(f"node '{found.label}' has no input of the type of its absent {parameter.argument}")
        if self._opset < 15:
            source = next((p.argument for p, value in found.parameters() if value in sources), parameter.argument)
            raise ModelError(
                f"node '{found.label}' has a computed {source} and no {parameter.argument}, which takes opset 15 or "
                f"newer; the model has opset {self._opset}"
            )
        self._added.setdefault(_first_output(found.node), []).extend(
            absent_nodes(name, absent, by_name, like, self._unused_name)
        )

    def _type_of(self, found: OperatorNode, value: str) -> int | None:
        """Return the element type of a value as far as the model states it."""
        return self._fixed[value][1] if value in self._fixed else found.scope.element_type_of(value)

    def _store(self, name: str, dims: list[int], value: float, data_type: int) -> None:
        assert isinstance(self._container, onnx.GraphProto)
        array = np.full(dims, value, helper.tensor_dtype_to_np_dtype(data_type))
        self._container.initializer.append(numpy_helper.from_array(array, name))

    def _unused_name(self, wanted: str) -> str:
        names = itertools.chain([wanted], (f"{wanted}_{number}" for number in itertools.count(1)))
        name = next(name for name in names if name not in self._used)
        self._used.add(name)
        return name


def _first_output(node: onnx.NodeProto) -> str:
    """Return the name of the first output that a node has; no other node has that name. Empty for none."""
    return next(filter(None, node.output), "")


def drop_unread_outputs(model: onnx.ModelProto) -> int:
    """Take the names of optional outputs that nobody reads from every operator's node; return how many that were.

    Their places stay, with an empty name: onnxruntime refuses the function body of a node that lists fewer outputs than
    the operator has. A node of which nothing is read keeps its outputs; it is to be removed as a whole.

    It works within graphs and functions as they are, and does not look for nodes whose results lead nowhere.
    """
    count = 0
    read_in: dict[int, set[str]] = {}
    nodes = operator_nodes(model)  # kept alive: graphs are distinguished by identity
    for found in nodes:
        container = found.container
        if id(container) not in read_in:
            read_in[id(container)] = set(_read_names(container))
        read, outputs = read_in[id(container)], found.node.output
        if not any(name in read for name in outputs):
            continue
        for index, (parameter, name) in enumerate(zip(found.operator.outputs, outputs, strict=False)):
            if parameter.is_optional and name and name not in read:
                outputs[index] = ""
                _forget(container, name)
                count += 1
    return count


def _read_names(container: NodeContainer) -> Iterator[str]:
    """Yield the names of the values that nodes of a graph or function, and of the bodies within, read or give out."""
    yield from (o.name for o in container.output) if isinstance(container, onnx.GraphProto) else container.output
    for node in container.node:
        yield from node.input
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _read_names(graph)


def _forget(container: NodeContainer, name: str) -> None:
    """Remove what a graph or function states about a value."""
    kept = [value for value in container.value_info if value.name != name]
    if len(kept) != len(container.value_info):
        copies = onnx.GraphProto(value_info=kept)
        del container.value_info[:]
        container.value_info.extend(copies.value_info)


def _fixed_shape(value: onnx.ValueInfoProto) -> tuple[list[int], int] | None:
    """Return the shape and element type of a graph's input; None where the graph leaves any of it open."""
    shape = declared_shape(value)
    element_type = value.type.tensor_type.elem_type
    if shape is None or not element_type:
        return None
    dims = [dim for dim in shape if isinstance(dim, int)]
    return (dims, element_type) if len(dims) == len(shape) else None


def absent_nodes(
    name: str, absent: AbsentInput, by_name: Mapping[str, str], like: str, unused_name: Callable[[str], str]
) -> list[onnx.NodeProto]:
    """Make the nodes that compute an absent input whose shape is known only when the model runs.

    Args:
        name: of the result.
        by_name: names of the node's inputs by those of the operator's parameters.
        like: name of an input of the same element type.
        unused_name: returns a name that no value has, made of the one wanted.
    """
    nodes, sizes = [], []
    for number, dim in enumerate(absent.dims):
        suffix = str(number) if number else ""
        size = unused_name(f"{name}_size{suffix}")
        sizes.append(size)
        if isinstance(dim, int):
            fixed = helper.make_tensor("size", onnx.TensorProto.INT64, [1], [dim])
            nodes.append(helper.make_node("Constant", [], [size], value=fixed))
            continue
        index, shape = (unused_name(f"{name}_{part}{suffix}") for part in ("index", "shape"))
        axis = helper.make_tensor("index", onnx.TensorProto.INT64, [1], [dim[1]])
        nodes += [
            helper.make_node("Constant", [], [index], value=axis),
            helper.make_node("Shape", [by_name[dim[0]]], [shape]),
            helper.make_node("Gather", [shape, index], [size], axis=0),
        ]
    if len(sizes) != 1:
        whole = unused_name(f"{name}_sizes")
        empty = helper.make_tensor("sizes", onnx.TensorProto.INT64, [0], [])
        nodes.append(
            helper.make_node("Concat", sizes, [whole], axis=0)
            if sizes
            else helper.make_node("Constant", [], [whole], value=empty)
        )
        sizes = [whole]
    values = unused_name(f"{name}_float")
    value = helper.make_tensor("value", onnx.TensorProto.FLOAT, [1], [absent.value])
    nodes += [
        helper.make_node("ConstantOfShape", sizes, [values], value=value),
        helper.make_node("CastLike", [values, like], [name]),
    ]
    return nodes
