"""What the files for Triton say of a bundle: platform, inputs and outputs, libraries, in protobuf's text format."""

from __future__ import annotations

from pathlib import PurePosixPath

from ort_ops.bundle.manifest import BundledTensor, BundleError, Manifest

REPOSITORY = "/models"
"""Where the server sees the model repository; it opens a library by the path in the file, as it stands there."""
_PLATFORMS = ("linux-x86_64", "linux-aarch64")
_TYPES = {
    "string": "STRING",
    "bool": "BOOL",
    "bfloat16": "BF16",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}


def words(manifest: Manifest) -> dict[str, str]:
    """Return the words of the templates. Raises: BundleError for a tensor of unknown rank."""
    platform = next((name for name in _PLATFORMS if name in manifest.platforms), "none")
    names = [PurePosixPath(library.path).name for library in manifest.libraries_for(platform)]
    paths = ", ".join(_quoted(f"{REPOSITORY}/{manifest.name}/{name}") for name in names)
    tensors = [("input", tensor) for tensor in manifest.inputs] + [("output", tensor) for tensor in manifest.outputs]
    no_library = "# No library: the definitions of its operators, inside the model, run.\n"
    return {
        "platform": platform,
        "tensors": "".join(_tensor(kind, tensor) for kind, tensor in tensors),
        "operations": f"model_operations {{ op_library_filename: [{paths}] }}\n" if names else no_library,
    }


def _tensor(kind: str, tensor: BundledTensor) -> str:
    if tensor.shape is None:
        raise BundleError(
            f"--for triton needs the rank of each tensor, and that of '{tensor.name}' is unknown; state it"
        )
    dims = ", ".join(str(size) if isinstance(size, int) else "-1" for size in tensor.shape)
    shape = f"dims: [{dims}]" if tensor.shape else "dims: [1], reshape { shape: [] }"
    data_type = f"TYPE_{_TYPES.get(tensor.dtype, tensor.dtype.upper())}"
    return f"{kind} [{{ name: {_quoted(tensor.name)}, data_type: {data_type}, {shape} }}]\n"


def _quoted(text: str) -> str:
    r"""Return text in quotes, as protobuf reads it.

    >>> print(_quoted('a"b\n'))
    "a\"b\012"
    """
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{"".join(letter if letter.isprintable() else f"{chr(92)}{ord(letter):03o}" for letter in escaped)}"'
