"""Make an exported model complete, free of traces of this machine, and checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
import onnx_ir
from onnx_ir.passes.common import ClearMetadataAndDocStringPass

from exporter.errors import ExportError
from exporter.to_onnx.checks.agreement import root_cause
from exporter.to_onnx.versions import ir_version
from ort_ops.models.complete import complete_inputs, drop_unread_outputs
from ort_ops.models.nodes import attach_functions, domain_version, import_oldest_versions
from ort_ops.opdef.onnx_objects import register_schemas


def finish(proto: onnx.ModelProto, opset: int, metadata: Mapping[str, str], file: Path | None = None) -> None:
    """Complete the exporter's model in place, and in its file, if it has one. Raises: ExportError."""
    reached = domain_version(proto, "")
    if reached != opset:
        raise ExportError(f"opset {opset} was not reached, the exporter stopped at {reached}; choose that, or another")
    clean = onnx_ir.to_proto(ClearMetadataAndDocStringPass()(onnx_ir.from_proto(proto)).model)
    proto.CopyFrom(clean)
    import_oldest_versions(proto)
    drop_unread_outputs(proto)
    complete_inputs(proto)
    proto.ir_version = ir_version(opset)
    attach_functions(proto)
    onnx.helper.set_model_props(proto, dict(metadata))
    register_schemas()
    if file is not None:
        file.write_bytes(proto.SerializeToString())
    try:
        onnx.checker.check_model(str(file) if file else proto, full_check=file is None, check_custom_domain=True)
    except Exception as error:
        raise ExportError(f"the exported model does not pass onnx.checker: {root_cause(error)}") from error
