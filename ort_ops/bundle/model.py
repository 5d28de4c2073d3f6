"""The model of a bundle: with the definitions of its operators inside, at the versions that a target loads."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import onnx

from ort_ops.bundle.manifest import BundledModel, BundledOperator, BundleError, is_inside
from ort_ops.files.inputs import open_input
from ort_ops.models.checks import check_shapes, function_difference
from ort_ops.models.complete import complete_inputs
from ort_ops.models.external_data import external_locations
from ort_ops.models.files import load_model
from ort_ops.models.graphs import scopes, tensors
from ort_ops.models.nodes import (
    OperatorNode,
    attach_functions,
    check_operator_nodes,
    domain_version,
    has_function,
    types_by_operator,
)
from ort_ops.models.runtimes import TargetError, newest_versions, oldest_runtime, parse_version
from ort_ops.opdef.kit import OperatorKit
from ort_ops.opdef.operator import ContractError

FOLDER, FILE_NAME = "model", "model.onnx"
_NEWER_TYPES = {10: {"UINT4", "INT4"}, 11: {"FLOAT4E2M1"}, 12: {"FLOAT8E8M0"}, 13: {"UINT2", "INT2"}}
"""Element types by the IR version that they came with."""


@dataclass(frozen=True)
class PreparedModel:
    """A model that is ready to be written.

    Attributes:
        source: the file that it was read from.
        proto: without the weights that lie outside of it.
        is_changed: whether it differs from the file.
        nodes: of registered operators.
        target: the onnxruntime that must load it; None for any that loads what the file had.
    """

    source: Path
    proto: onnx.ModelProto
    is_changed: bool
    nodes: list[OperatorNode]
    target: str | None

    @property
    def kits(self) -> list[OperatorKit]:
        """The operators in use, each once."""
        return list({id(found.kit): found.kit for found in self.nodes}.values())

    def operators(self, libraries: dict[str, str]) -> tuple[BundledOperator, ...]:
        """Describe the operators in use.

        Args:
            libraries: the name of the library that has an operator's kernel, by domain and name.
        """
        types = types_by_operator(self.proto)
        described = []
        for kit in self.kits:
            operator = kit.operator
            names = {name for found in types.get(operator.key, {}).values() for name in found}
            described.append(
                BundledOperator(
                    operator.domain,
                    operator.name,
                    operator.since_version,
                    tuple(sorted(names)),
                    sum(found.kit is kit for found in self.nodes),
                    has_function(self.proto, operator),
                    libraries.get(operator.op_type, ""),
                )
            )
        return tuple(described)


def prepare_model(source: str | Path, target: str | None) -> PreparedModel:
    """Read a model, check it, give it the definitions that it lacks, and lower its IR version if the target needs that.

    Raises: ModelError, ContractError; TargetError for an opset that the target does not load.
    """
    model = load_model(source, external_data=False)
    nodes = check_operator_nodes(model)
    if nodes:
        check_shapes(model)
        difference = function_difference(model)
        if difference is not None:
            raise ContractError(f"'{source}': {difference}")
    operators = {id(found.operator): found.operator for found in nodes}.values()
    lacks_definition = any(o.make_body is not None and not has_function(model, o) for o in operators)
    if lacks_definition:
        complete_inputs(model)
        attach_functions(model)
        nodes = check_operator_nodes(model)
    is_lowered = target is not None and _lower_ir_version(model, target, source)
    chosen = None if target is None else str(parse_version(target))
    return PreparedModel(Path(source), model, lacks_definition or is_lowered, nodes, chosen)


def write_model(prepared: PreparedModel, folder: Path) -> BundledModel:
    """Write a model and the files with its weights to the bundle's folder; a model that did not change, byte by byte.

    Raises: ModelError, BundleError for a file with weights of a name that a bundle cannot have.
    """
    inner = folder / FOLDER
    inner.mkdir()
    locations = external_locations(prepared.proto)
    for location in locations:
        if location == FILE_NAME or not is_inside(location):
            raise BundleError(
                f"'{prepared.source}' has weights in '{location}', a name that a bundle cannot have; save the model "
                "again, with its weights in a file beside it such as 'model.onnx.data'"
            )
        target = inner / location
        target.parent.mkdir(parents=True, exist_ok=True)
        with open_input(prepared.source.parent / location, what="file with weights") as file, target.open("wb") as copy:
            shutil.copyfileobj(file, copy, 1 << 20)
    if prepared.is_changed:
        (inner / FILE_NAME).write_bytes(prepared.proto.SerializeToString())
    else:
        with open_input(prepared.source, what="model") as file, (inner / FILE_NAME).open("wb") as copy:
            shutil.copyfileobj(file, copy, 1 << 20)
    proto = prepared.proto
    opset = domain_version(proto, "")
    return BundledModel(
        f"{FOLDER}/{FILE_NAME}",
        tuple(f"{FOLDER}/{location}" for location in locations),
        opset,
        proto.ir_version,
        oldest_runtime(opset, proto.ir_version),
        prepared.target,
    )


def _lower_ir_version(model: onnx.ModelProto, target: str, source: str | Path) -> bool:
    """Lower the IR version to what the target loads; return whether that changed the model. Raises: TargetError."""
    newest_opset, newest_ir = newest_versions(target)
    opset = domain_version(model, "")
    if opset > newest_opset:
        raise TargetError(
            f"'{source}' has opset {opset}, and onnxruntime {target} loads {newest_opset} and older; export it again "
            f"with `mylinear export --target {target}`"
        )
    if model.ir_version <= newest_ir:
        return False
    newer = {name for version, names in _NEWER_TYPES.items() if version > newest_ir for name in names}
    used = {onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in tensors(model)} & newer
    if used or any(node.overload for scope in scopes(model) for node in scope.container.node):
        what = f"numbers of type {', '.join(sorted(used))}" if used else "functions with overloads"
        raise TargetError(f"'{source}' has {what}, which onnxruntime {target} does not load; choose a newer --target")
    model.ir_version = newest_ir
    return True
