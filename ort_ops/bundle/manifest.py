"""What a bundle says of itself: `manifest.json`, written as it is read, and checked field by field.

Long because it is one table: the fields of a manifest, and what each must be.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any, TypeVar

from ort_ops.errors import MylinearError
from ort_ops.opdef.element_types import ELEMENT_TYPES

FILE_NAME = "manifest.json"
FORMAT = "mylinear-bundle"
FORMAT_VERSION = 1
TEXT = "string"
"""The dtype of text, beside those of numbers."""
AGAIN = "make it again with `mylinear bundle model.onnx DIR`"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_VERSION = re.compile(r"\d+\.\d+(\.|$)")
_Part = TypeVar("_Part")
_PLAIN = {"str": (str,), "str | None": (str, type(None)), "int": (int,), "bool": (bool,)}
"""The types that fields of plain values have, by their annotation."""


class BundleError(MylinearError, ValueError):
    """A bundle that cannot be made, or must not be loaded; the message says what, what was got, and what to do."""


@dataclass(frozen=True)
class SealedFile:
    """One file of a bundle, by its hash and size."""

    sha256: str
    nbytes: int


@dataclass(frozen=True)
class BundledTensor:
    """One input or output.

    Attributes:
        dtype: NumPy's name, ``bfloat16`` or ``string``.
        shape: sizes; a name, or None, for a dimension that is dynamic. None as a whole where the rank is not known.
        sample: the .npy file with the sample input, or with what the bundle's maker got for this output.
        exact: the .npy file with the output in float64, or in its own dtype where it has no rounding errors; empty
            where none could be computed.
        bound: the .npy file with how far a right runtime may be from each number: infinite where nothing is proved,
            NaN where a decision before it may turn. Empty where the output must be equal.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None
    sample: str
    exact: str = ""
    bound: str = ""


@dataclass(frozen=True)
class BundledOperator:
    """One operator of the model that is not ONNX's own.

    Attributes:
        dtypes: element types of its nodes.
        num_nodes: of the model.
        has_body: whether the model has its definition, so that it runs without a library.
        library: the library with its kernel, as `BundledLibrary.name`; empty for none.
    """

    domain: str
    name: str
    since_version: int
    dtypes: tuple[str, ...]
    num_nodes: int
    has_body: bool
    library: str


@dataclass(frozen=True)
class BundledLibrary:
    """One library with kernels, for one platform.

    Attributes:
        name: the same on all platforms.
        oldest_onnxruntime: that it takes; None where it could not be asked.
        newest_onnxruntime: None for no limit, as onnxruntime keeps what older libraries use.
        is_run: whether it ran when the bundle was made.
        version: of the package that it is of; empty if that is not known.
    """

    name: str
    platform: str
    path: str
    oldest_onnxruntime: str | None
    newest_onnxruntime: str | None
    is_run: bool
    version: str = ""


@dataclass(frozen=True)
class BundledModel:
    """The model's file.

    Attributes:
        path: of the .onnx file.
        external_data: paths of the files with its weights, if they lie outside of it.
        oldest_onnxruntime: that loads its opset and IR version; None if none is known.
        target: what the bundle was asked to run on; None for what the model had.
    """

    path: str
    external_data: tuple[str, ...]
    opset: int
    ir_version: int
    oldest_onnxruntime: str | None
    target: str | None


@dataclass(frozen=True)
class ParityRow:
    """One kernel's output beside the exact one.

    Attributes:
        verdict: of `ort_ops.numerics.compare.Verdict`, or ``untested``.
        max_error: the largest absolute error; max_in_bounds: the same in units of its bound. None for what is no
            number.
    """

    kernel: str
    output: str
    verdict: str
    max_error: float | None
    max_in_bounds: float | None
    detail: str = ""


@dataclass(frozen=True)
class Manifest:
    """Everything that a bundle says of itself.

    Attributes:
        parity: what was proved when it was made, of each kernel that ran.
        hosts: by name, how to start each host that it has files for.
        open_folders: folders that the hosts' own tools fill, and that are not sealed.
        versions: of the packages that made it; None for one that was not installed.
        files: all files but the manifest, by path.
    """

    name: str
    model: BundledModel
    inputs: tuple[BundledTensor, ...]
    outputs: tuple[BundledTensor, ...]
    operators: tuple[BundledOperator, ...]
    libraries: tuple[BundledLibrary, ...]
    parity: tuple[ParityRow, ...] = ()
    hosts: Mapping[str, str] = field(default_factory=dict)
    open_folders: tuple[str, ...] = ()
    versions: Mapping[str, str | None] = field(default_factory=dict)
    files: Mapping[str, SealedFile] = field(default_factory=dict)

    @property
    def platforms(self) -> tuple[str, ...]:
        """The platforms that it has libraries for."""
        return tuple(dict.fromkeys(library.platform for library in self.libraries))

    @property
    def bodiless(self) -> tuple[str, ...]:
        """The operators that run by a library alone."""
        return tuple(f"{found.domain}::{found.name}" for found in self.operators if not found.has_body)

    def libraries_for(self, platform: str) -> tuple[BundledLibrary, ...]:
        """Return the libraries for a platform."""
        return tuple(library for library in self.libraries if library.platform == platform)

    def to_json(self) -> bytes:
        """Return the content of the manifest's file."""
        plain = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self)}
        return json.dumps(plain, indent=2, allow_nan=False).encode() + b"\n"


def read_manifest(data: bytes, where: str) -> Manifest:
    """Read a manifest, and check each field.

    Args:
        where: the bundle, for messages.

    Raises: BundleError for another format version, a field that is missing or of another type, or a path that leaves
        the bundle.
    """
    try:
        plain = json.loads(data, object_pairs_hook=_without_doubles)
        json.dumps(plain, ensure_ascii=False, allow_nan=False).encode()  # raises for half a character, and for NaN
    except (ValueError, RecursionError) as error:
        raise _damaged(where, f"it is no JSON ({' '.join(str(error).split())[:200]})") from error
    if not isinstance(plain, dict) or plain.pop("format", None) != FORMAT:
        raise BundleError(f'\'{where}\' is no bundle: {FILE_NAME} does not say "format": "{FORMAT}"; {AGAIN}')
    version = plain.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise BundleError(
            f"'{where}' has format version {version!r}, and this ort-mylinear reads {FORMAT_VERSION}; {AGAIN}, or "
            "install the ort-mylinear that made it"
        )
    try:
        files = {path: _typed(SealedFile, entry) for path, entry in plain.pop("files").items()}
        manifest = Manifest(
            model=_typed(BundledModel, _with_tuples(plain.pop("model"), "external_data")),
            inputs=_parts(BundledTensor, plain.pop("inputs"), "shape"),
            outputs=_parts(BundledTensor, plain.pop("outputs"), "shape"),
            operators=_parts(BundledOperator, plain.pop("operators"), "dtypes"),
            libraries=_parts(BundledLibrary, plain.pop("libraries")),
            parity=_parts(ParityRow, plain.pop("parity")),
            files=files,
            **_with_tuples(plain, "open_folders"),
        )
        fault = _fault(manifest)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(where, " ".join(str(error).split())[:200]) from error
    if fault:
        raise _damaged(where, fault)
    return manifest


def is_inside(path: object) -> bool:
    """Whether a path of a manifest names a file within the bundle, in one way only, on every system.

    >>> [is_inside(path) for path in ("model/a.onnx", "../a", "/a", "a/./b", "a//b", "C:a", "a\\\\b", "")]
    [True, False, False, False, False, False, False, False]
    """
    if not isinstance(path, str) or not path or re.search(r"[\\:\x00-\x1f]", path):
        return False
    pure = PurePosixPath(path)
    return not pure.is_absolute() and ".." not in pure.parts and str(pure) == path and path != "."


def _fault(manifest: Manifest) -> str:
    """Return what is wrong with a manifest whose fields are there; empty if nothing is."""
    for path, entry in manifest.files.items():
        if not is_inside(path) or path == FILE_NAME:
            return f"path '{path}' leaves the bundle, or is not plain"
        if not _SHA256.fullmatch(entry.sha256):
            return f"'{path}' has no sha256"
    model = manifest.model
    named = [model.path, *model.external_data, *(library.path for library in manifest.libraries)]
    for tensor in (*manifest.inputs, *manifest.outputs):
        if tensor.dtype not in (*ELEMENT_TYPES, TEXT):
            return f"'{tensor.name}' has dtype {tensor.dtype!r}"
        named += [path for path in (tensor.sample, tensor.exact, tensor.bound) if path != ""]
    for path in named:
        if path not in manifest.files:
            return f"{path!r} is used, and not among the files"
    for library in manifest.libraries:
        oldest, newest = library.oldest_onnxruntime, library.newest_onnxruntime
        if not all(limit is None or _VERSION.match(limit) for limit in (oldest, newest)):
            return f"library '{library.name}' is for onnxruntime {oldest!r} to {newest!r}"
    if not (model.oldest_onnxruntime is None or _VERSION.match(model.oldest_onnxruntime)):
        return f"the model is for onnxruntime {model.oldest_onnxruntime!r}"
    if not all(is_inside(folder) for folder in manifest.open_folders):
        return f"the open folders are {list(manifest.open_folders)}"
    if any(path.startswith(f"{folder}/") for folder in manifest.open_folders for path in named):
        return "an open folder has files that the bundle uses"
    return ""


def _damaged(where: str, what: str) -> BundleError:
    return BundleError(f"'{where}' is damaged: {FILE_NAME}: {what}; copy the bundle again, or {AGAIN}")


def _without_doubles(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _parts(kind: type[_Part], entries: Any, *lists: str) -> tuple[_Part, ...]:
    if not isinstance(entries, list):
        raise TypeError(f"a list of {kind.__name__} is missing")
    return tuple(_typed(kind, _with_tuples(entry, *lists)) for entry in entries)


def _typed(kind: type[_Part], entry: dict[str, Any]) -> _Part:
    """Make a part of its fields. Raises: TypeError for one that is missing, unknown, or of another type."""
    made = kind(**entry)
    for name, annotation in kind.__annotations__.items():
        value = getattr(made, name)
        if annotation in _PLAIN and type(value) not in _PLAIN[annotation]:
            raise TypeError(f"'{name}' must be {annotation}, got {value!r:.60}")
        if annotation == "int" and not 0 <= value < 2**63:
            raise TypeError(f"'{name}' must be a count, got {value!r:.60}")
    return made


def _with_tuples(entry: Any, *lists: str) -> dict[str, Any]:
    """Return the fields of an entry, lists as tuples of plain values."""
    if not isinstance(entry, dict):
        raise TypeError(f"fields are missing, got {entry!r:.60}")
    found = dict(entry)
    for name in lists:
        if found[name] is not None:
            if not isinstance(found[name], list):
                raise TypeError(f"'{name}' must be a list")
            if not all(value is None or isinstance(value, str | int) for value in found[name]):
                raise TypeError(f"'{name}' must hold text and whole numbers")
            found[name] = tuple(found[name])
    return found
