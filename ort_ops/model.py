"""Models that hold the operator: read them, check them against the contract, complete them. ONNX only, no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ort_ops.contract import ABSENT_BIAS, MYLINEAR
from ort_ops.errors import MylinearError
from ort_ops.operator import ContractError, ElementType

# Of models made here: the newest that onnxruntime 1.17 loads.
_OPSET, _IR_VERSION = 20, 9

_SMALL_BITS = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}

NodeContainer = onnx.GraphProto | onnx.FunctionProto


class ModelError(MylinearError, ValueError):
    """A file that is no usable ONNX model, or a model that cannot do what is asked of it."""


@dataclass(frozen=True)
class LinearNode:
    """One MYLINEAR node and the graph (or function) that it stands in.

    Attributes:
        where: the bodies and the function around it in words, such as ``in then_branch of If 'branch'``; empty in the
            main graph.
    """

    container: NodeContainer
    node: onnx.NodeProto
    where: str = ""

    @property
    def label(self) -> str:
        """The node's name, or its output's where it has none."""
        return self.node.name or self.node.output[0]

    @property
    def path(self) -> str:
        """The label, and where the node stands: names need not be unique across bodies."""
        return f"{self.label} {self.where}".rstrip()

    @property
    def has_bias(self) -> bool:
        return len(self.node.input) > 2 and bool(self.node.input[2])


def load_model(source: str | Path | bytes, *, external_data: bool = True) -> onnx.ModelProto:
    """Read a model from a file or from its bytes.

    Args:
        source: path of the file, or the serialized model.
        external_data: whether to read weights that lie in files beside the model too.

    Raises: ModelError if there is no such file or it holds no ONNX model.
    """
    what = "the given bytes" if isinstance(source, bytes) else f"'{source}'"
    try:
        if isinstance(source, bytes):
            model = onnx.load_model_from_string(source)
        else:
            model = onnx.load(str(source), load_external_data=False)
    except FileNotFoundError as error:
        raise ModelError(f"{what}: there is no such file") from error
    except IsADirectoryError as error:
        raise ModelError(f"{what} is a folder; name an .onnx file") from error
    except OSError as error:
        raise ModelError(f"{what} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # protobuf's DecodeError
        raise ModelError(f"{what} is not an ONNX model, or is damaged: {error}") from error
    if not model.ir_version or not model.HasField("graph"):
        raise ModelError(f"{what} is not an ONNX model; export one with `mylinear export`")
    if not isinstance(source, bytes):
        _check_external_data(model, Path(source))
        if external_data:
            try:
                onnx.load_external_data_for_model(model, str(Path(source).parent))
            except Exception as error:  # such as a link, which onnx does not follow
                raise ModelError(f"{what}: its external data cannot be read: {error}") from error
    return model


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every stored tensor: initializers and attributes, of all graphs and functions."""
    yield from _tensors_in(model.graph)
    for function in model.functions:
        yield from _tensors_in(function)


def all_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield every node: of the main graph, of If/Loop/Scan bodies, and of model-local functions."""
    yield from _nodes_in(model.graph)
    for function in model.functions:
        yield from _nodes_in(function)


def _nodes_in(container: NodeContainer) -> Iterator[onnx.NodeProto]:
    for node in container.node:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _nodes_in(graph)


def _tensors_in(container: NodeContainer) -> Iterator[onnx.TensorProto]:
    if isinstance(container, onnx.GraphProto):
        yield from container.initializer
    for node in container.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for graph in (attribute.g, *attribute.graphs):
                yield from _tensors_in(graph)


def _check_external_data(model: onnx.ModelProto, path: Path) -> None:
    """Check that the weights beside a model are within its folder, and whole. Raises: ModelError."""
    folder = path.parent.resolve()
    for tensor in tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        file = folder / location
        if not location or Path(location).is_absolute() or not file.resolve().is_relative_to(folder):
            raise ModelError(
                f"'{path}': tensor '{tensor.name}' lies in '{location}', which is outside the model's folder; "
                "such a path is refused, keep the data beside the model"
            )
        if not file.is_file():
            raise ModelError(f"'{path}': its external data '{location}' is missing; keep it beside the model")
        try:
            offset = int(entries.get("offset", 0))
            length = int(entries.get("length", tensor_nbytes(tensor)))
        except ValueError as error:
            raise ModelError(f"'{path}' is damaged: external data of tensor '{tensor.name}': {error}") from error
        if offset < 0 or length < 0 or length != tensor_nbytes(tensor):
            raise ModelError(
                f"'{path}' is damaged: tensor '{tensor.name}' takes {tensor_nbytes(tensor)} bytes, not {length}"
            )
        if offset + length > file.stat().st_size:
            raise ModelError(
                f"'{path}': its external data '{location}' is truncated: tensor '{tensor.name}' ends at byte "
                f"{offset + length}, the file at {file.stat().st_size}; copy it again"
            )


def tensor_nbytes(tensor: onnx.TensorProto) -> int:
    """Return the number of bytes that a tensor of this type and shape takes."""
    count = int(np.prod(tensor.dims, dtype=np.int64))
    bits = _SMALL_BITS.get(onnx.TensorProto.DataType.Name(tensor.data_type))
    return (count * bits + 7) // 8 if bits else count * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def make_linear_model(
    x_shape: Sequence[int | str], weight: NDArray[Any], bias: NDArray[Any] | None, *, with_function: bool = True
) -> onnx.ModelProto:
    """Make a model of one MYLINEAR node, ``x`` to ``y``, with the weights inside.

    Args:
        x_shape: of the input; a name for a dynamic dimension.
        weight: ``[out_features, in_features]``; its dtype is the model's.
        bias: ``[out_features]``, or None.
        with_function: whether to complete it as an exported model is: with a bias and the function body.
    """
    element_type = MYLINEAR.element_type(weight.dtype.name).onnx_type
    initializers = [numpy_helper.from_array(np.ascontiguousarray(weight), "weight")]
    if bias is not None:
        initializers.append(numpy_helper.from_array(np.ascontiguousarray(bias), "bias"))
    inputs = ["x", *(tensor.name for tensor in initializers)]
    graph = helper.make_graph(
        [helper.make_node(MYLINEAR.name, inputs, ["y"], name="linear", domain=MYLINEAR.domain)],
        "one_linear",
        [helper.make_tensor_value_info("x", element_type, x_shape)],
        [helper.make_tensor_value_info("y", element_type, [*x_shape[:-1], weight.shape[0]])],
        initializers,
    )
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(MYLINEAR.domain, MYLINEAR.since_version)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
    if with_function:
        complete_biases(model)
        attach_function(model)
    return model


def linear_nodes(model: onnx.ModelProto) -> list[LinearNode]:
    """Return every MYLINEAR node: of the main graph, of If/Loop/Scan bodies, and of model-local functions."""
    found = list(_linear_nodes_in(model.graph))
    for function in model.functions:
        found += _linear_nodes_in(function, _function_where(function))
    return found


def linear_nodes_within(model: onnx.ModelProto, node: onnx.NodeProto) -> list[LinearNode]:
    """Return the MYLINEAR nodes that a node of the main graph is, has in its bodies, or calls as functions."""
    found = list(_linear_nodes_at(model.graph, node))
    functions = {
        (f.domain, f.name): f for f in model.functions if (f.domain, f.name) != (MYLINEAR.domain, MYLINEAR.name)
    }
    pending = [node]
    while pending:
        current = pending.pop()
        for attribute in current.attribute:
            for graph in (attribute.g, *attribute.graphs):
                pending += graph.node
        function = functions.pop((current.domain, current.op_type), None)
        if function is not None:
            found += _linear_nodes_in(function, _function_where(function))
            pending += function.node
    return found


def check_linear_nodes(model: onnx.ModelProto) -> list[LinearNode]:
    """Return `linear_nodes` after checking versions, number of inputs and attributes of each.

    Raises: ContractError for a version, opset, attribute or number of inputs that the contract does not have.
    """
    nodes = linear_nodes(model)
    if not nodes:
        return nodes
    MYLINEAR.check_version(domain_version(model))
    check_opsets(model)
    for linear in nodes:
        MYLINEAR.check_attributes([attribute.name for attribute in linear.node.attribute])
        count = len(linear.node.input)
        if not MYLINEAR.num_required <= count <= len(MYLINEAR.inputs) or not all(linear.node.input[:2]):
            rule = f"X, W and optionally B (node '{linear.label}')"
            raise ContractError(MYLINEAR.message("the inputs", rule, f"{list(linear.node.input)}"))
    return nodes


def require_linear_nodes(model: onnx.ModelProto, source: object) -> list[LinearNode]:
    """Return `check_linear_nodes`. Raises: ModelError also where there is none at all."""
    nodes = check_linear_nodes(model)
    if not nodes:
        raise ModelError(
            f"'{source}' has no {MYLINEAR.name} node of domain '{MYLINEAR.domain}'; "
            "export it from a torch model made of exporter.MyLinear layers"
        )
    return nodes


def domain_version(model: onnx.ModelProto | onnx.FunctionProto, domain: str = MYLINEAR.domain) -> int:
    """Return the opset version that the model, or function, imports of ``domain``; 0 where it imports none."""
    wanted = {"", "ai.onnx"} if domain == "" else {domain}
    return max((entry.version for entry in model.opset_import if entry.domain in wanted), default=0)


def check_opsets(model: onnx.ModelProto) -> None:
    """Check the version of ONNX's own domain of the model and of its functions. Raises: ContractError."""
    for owner in (model, *model.functions):
        MYLINEAR.check_opset(domain_version(owner, ""))


def element_types(model: onnx.ModelProto) -> set[str]:
    """Return the names of the element types of the model's MYLINEAR nodes.

    Raises: ContractError for a type that the contract does not have; ModelError where none can be inferred.
    """
    return {element_type.name for element_type in linear_element_types(model)}


def linear_element_types(model: onnx.ModelProto) -> list[ElementType]:
    """Return the element type of each of `linear_nodes`. Raises: as `element_types`."""
    nodes = linear_nodes(model)
    types = [_type_of(linear, _known_types(linear.container)) for linear in nodes]
    if None in types:
        MYLINEAR.register_schema()
        nodes = linear_nodes(onnx.shape_inference.infer_shapes(model))
        types = [_type_of(linear, _known_types(linear.container)) for linear in nodes]
    for linear, element_type in zip(nodes, types, strict=True):
        if element_type is None:
            raise ModelError(f"the element type of {MYLINEAR.name} node '{linear.label}' cannot be inferred")
    return [MYLINEAR.element_type(t) for t in types if t is not None]


def complete_biases(model: onnx.ModelProto) -> int:
    """Give every MYLINEAR node without a bias one that changes nothing, and return how many that were.

    The model-local function and kernels of onnxruntime-extensions take exactly three inputs. A second function under
    an overload name would do for the first, but onnxruntime mistakes one overload for the other up to 1.24 at least
    (``tests/test_function_body.py`` shows it), and it does not help the second. The added bias is -0.0, the number
    that leaves every other as it is.

    Raises: ModelError for a computed weight without bias below opset 15.
    """
    count = 0
    for linear in linear_nodes(model):
        if linear.has_bias:
            continue
        if _weight_is_computed(linear) and domain_version(model, "") < 15:
            raise ModelError(
                f"node '{linear.label}' has a computed weight and no bias, which takes opset 15 or newer; "
                f"the model has opset {domain_version(model, '')}"
            )
        count += 1
        del linear.node.input[2:]
        linear.node.input.append(_absent_bias(linear))
    return count


def attach_function(model: onnx.ModelProto) -> None:
    """Put the operator's definition into the model, as a model-local function at the model's own opset.

    Replaces a definition that is there. Every node must have its bias (`complete_biases`).

    Raises: ContractError if the opset cannot state it for the model's element types.
    """
    function = MYLINEAR.function(domain_version(model, ""), element_types(model))
    others = [f for f in model.functions if (f.domain, f.name) != (MYLINEAR.domain, MYLINEAR.name)]
    del model.functions[:]
    model.functions.extend([*others, function])
    model.ir_version = max(model.ir_version, 8)  # model-local functions came with IR version 8


def has_function(model: onnx.ModelProto) -> bool:
    """Whether the model carries the operator's definition."""
    return any((f.domain, f.name) == (MYLINEAR.domain, MYLINEAR.name) for f in model.functions)


def _linear_nodes_in(container: NodeContainer, where: str = "") -> Iterator[LinearNode]:
    for node in container.node:
        yield from _linear_nodes_at(container, node, where)


def _linear_nodes_at(container: NodeContainer, node: onnx.NodeProto, where: str = "") -> Iterator[LinearNode]:
    if (node.domain, node.op_type) == (MYLINEAR.domain, MYLINEAR.name):
        yield LinearNode(container, node, where)
    for attribute in node.attribute:
        body = f"in {attribute.name} of {node.op_type} '{node.name or node.output[0]}' {where}".rstrip()
        for graph in (attribute.g, *attribute.graphs):
            yield from _linear_nodes_in(graph, body)


def _function_where(function: onnx.FunctionProto) -> str:
    return f"in function '{function.name}'"


def _known_types(container: NodeContainer) -> dict[str, int]:
    """Element types by value name, as far as the container itself states them."""
    types: dict[str, int] = {}
    values = list(container.value_info)
    if isinstance(container, onnx.GraphProto):
        values += [*container.input, *container.output]
        types.update((tensor.name, tensor.data_type) for tensor in container.initializer)
    types.update((value.name, value.type.tensor_type.elem_type) for value in values)
    for node in container.node:  # a function states no types, but it may hold its weights
        if node.op_type == "Constant" and not node.domain and node.attribute[0].HasField("t"):
            types[node.output[0]] = node.attribute[0].t.data_type
    return types


def _type_of(linear: LinearNode, known: dict[str, int]) -> int | None:
    names = (*linear.node.input, *linear.node.output)
    return next((known[name] for name in names if known.get(name)), None)


def _weight_is_computed(linear: LinearNode) -> bool:
    """Whether the weight is anything but an initializer of the node's own graph."""
    if isinstance(linear.container, onnx.FunctionProto):
        return True
    return all(tensor.name != linear.node.input[1] for tensor in linear.container.initializer)


def _absent_bias(linear: LinearNode) -> str:
    """Add a bias of -0.0 to the container and return its name."""
    container, weight = linear.container, linear.node.input[1]
    name = _unused_name(container, f"{linear.label}_absent_bias")
    if not _weight_is_computed(linear):
        tensor = next(t for t in container.initializer if t.name == weight)
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        container.initializer.append(numpy_helper.from_array(np.full(tensor.dims[0], ABSENT_BIAS, dtype), name))
        return name
    # The weight is computed: its size is known only when the model runs.
    index, shape, size, zeros = (
        _unused_name(container, f"{name}_{part}") for part in ("index", "shape", "size", "float")
    )
    nodes = [
        helper.make_node("Constant", [], [index], value=helper.make_tensor("index", onnx.TensorProto.INT64, [1], [0])),
        helper.make_node("Shape", [weight], [shape]),
        helper.make_node("Gather", [shape, index], [size], axis=0),
        helper.make_node("ConstantOfShape", [size], [zeros], value=helper.make_tensor("value", 1, [1], [ABSENT_BIAS])),
        helper.make_node("CastLike", [zeros, weight], [name]),
    ]
    position = next(i for i, node in enumerate(container.node) if node == linear.node)
    for node in reversed(nodes):
        container.node.insert(position, node)
    return name


def _unused_name(container: NodeContainer, wanted: str) -> str:
    used = {name for node in container.node for name in (*node.input, *node.output)}
    if isinstance(container, onnx.GraphProto):
        used |= {value.name for value in (*container.initializer, *container.input)}
    name, number = wanted, 1
    while name in used:
        name, number = f"{wanted}_{number}", number + 1
    return name
