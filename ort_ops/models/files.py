"""Read and validate model files, whole or without their weights."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import onnx

from ort_ops.errors import ModelError
from ort_ops.files.inputs import InputError, input_path
from ort_ops.models.external_data import ExternalData
from ort_ops.models.outline import Read, read_outline
from ort_ops.models.validation.model import guard_model, validate_model

_BYTES_LOCATION = "<the given bytes>"
_MAX_NBYTES = 2**31 - 1  # protobuf's own
_ZIP, _ORT = b"PK\3\4", b"ORTM"  # the first bytes of a file of torch.save; bytes 4 to 8 of an .ort file


@dataclass(frozen=True)
class _Bytes:
    """The bytes of a model, in a file or in memory."""

    what: str
    read: Read
    nbytes: int

    @property
    def is_ort_format(self) -> bool:
        return self.read(4, 4) == _ORT

    def check_kind(self) -> None:
        """Refuse a file that is recognized as something else. Raises: ModelError."""
        if self.is_ort_format:
            raise ModelError(
                f"{self.what} is in onnxruntime's own format (.ort), which only a session reads; "
                "name the .onnx file that it was made from"
            )
        if self.read(0, 4) == _ZIP:
            raise ModelError(
                f"{self.what} is not an ONNX model, but looks like a checkpoint of torch; export it first, with "
                "`mylinear export checkpoint.pt model.onnx`"
            )
        if self.nbytes > _MAX_NBYTES:
            raise ModelError(
                f"{self.what} is not an ONNX model: it has {self.nbytes} bytes, and protobuf ends at 2 GiB"
            )


def load_model(
    source: str | Path | bytes, *, external_data: bool = True, may_be_linked: bool = False
) -> onnx.ModelProto:
    """Read a model from a file or from its bytes, and validate it.

    Args:
        source: path of the file, or the serialized model.
        external_data: whether to read weights that lie in files beside the model too.
        may_be_linked: whether such a file may have several hard links, where only onnxruntime will read it.

    Raises: ModelError if there is no such file, it holds no ONNX model, or the model is damaged.
    """
    with _opened(source) as data:
        data.check_kind()
        try:
            model = onnx.load_model_from_string(data.read(0, data.nbytes))
        except Exception as error:  # protobuf's DecodeError
            raise _not_a_model(data.what, error) from error
    _check_has_graph(model, data.what)
    if isinstance(source, bytes):
        validate_model(model, data.what, None)
        return model
    validate_model(model, data.what, ExternalData(source, may_be_linked=may_be_linked))
    if external_data:
        try:
            onnx.load_external_data_for_model(model, str(Path(source).parent))
        except Exception as error:  # such as a link, which onnx does not follow
            reason = " ".join(str(error).split())
            raise ModelError(f"{data.what}: its external data cannot be read: {reason}") from error
    return model


def look_at_model(source: str | Path | bytes, *, for_session: bool = False) -> onnx.ModelProto:
    """Read a model without its weights, and validate it: every large tensor states where its data lies.

    Time and memory do not depend on the weights. Weights inside the file become external data that lies in this very
    file, so the model can be inspected; use `load_model` to run, convert or save one.

    Args:
        source: path of the file, or the serialized model.
        for_session: check only what onnxruntime does not check itself.

    Raises: ModelError as `load_model`.
    """
    location = _BYTES_LOCATION if isinstance(source, bytes) else Path(source).name
    with _opened(source) as data:
        data.check_kind()
        try:
            model = read_outline(data.read, data.nbytes, location)
        except Exception as error:  # DamageError or protobuf's DecodeError
            raise _not_a_model(data.what, error) from error
    _check_has_graph(model, data.what)
    external = ExternalData.within(location, data.nbytes) if isinstance(source, bytes) else ExternalData(source)
    (guard_model if for_session else validate_model)(model, data.what, external)
    return model


def is_ort_format(source: str | Path | bytes) -> bool:
    """Whether a file, or the bytes of one, is in onnxruntime's own format. Raises: ModelError if it cannot be read."""
    with _opened(source) as data:
        return data.is_ort_format


def describe_source(source: str | Path | bytes) -> str:
    """Return a model's path in quotes, or words for its bytes."""
    return "the given bytes" if isinstance(source, bytes) else f"'{source}'"


@contextmanager
def _opened(source: str | Path | bytes) -> Iterator[_Bytes]:
    """Yield the bytes of a regular file, or those given. Raises: ModelError if they cannot be read."""
    what = describe_source(source)
    if isinstance(source, bytes):
        yield _Bytes(what, lambda at, nbytes: source[at : at + nbytes], len(source))
        return
    try:
        path = input_path(source, what="model")
    except InputError as error:
        raise ModelError(str(error)) from error
    try:
        file = FileIO(path, "rb", opener=_open_at_once)
    except IsADirectoryError as error:
        raise ModelError(f"{what} is a folder; name an .onnx file") from error
    except FileNotFoundError as error:
        raise ModelError(f"{what}: there is no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL byte
        raise ModelError(f"{what} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    try:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ModelError(f"{what} is no regular file; save the model to one, and name that")

        def read(at: int, nbytes: int) -> bytes:
            file.seek(at)
            return file.read(nbytes)

        yield _Bytes(what, read, found.st_size)
    except OSError as error:
        raise ModelError(f"{what} cannot be read: {error.strerror or error}") from error
    finally:
        file.close()


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting for the writer of a FIFO, which is refused."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _check_has_graph(model: onnx.ModelProto, what: str) -> None:
    if not model.ir_version or not model.HasField("graph"):
        raise ModelError(f"{what} is not an ONNX model; export one with `mylinear export`")


def _not_a_model(what: str, error: Exception) -> ModelError:
    return ModelError(f"{what} is not an ONNX model, or is damaged: {' '.join(str(error).split())}")
