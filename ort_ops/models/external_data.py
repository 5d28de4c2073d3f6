"""Where the weights in files beside a model lie: checked without reading them, and how the files are named."""

from __future__ import annotations

import itertools
import os
import re
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import onnx

from ort_ops.errors import ModelError
from ort_ops.models.graphs import tensors


class ExternalData:
    """The files beside a model that hold its weights; each is looked at once.

    Args:
        model: path of the model.
        may_be_linked: whether a file with several hard links may serve. onnxruntime reads it; onnx and onnx_ir, which
            read the weights to convert them, refuse it as a way to smuggle another file in.
    """

    def __init__(self, model: str | Path, *, may_be_linked: bool = True) -> None:
        self._folder = Path(model).parent.resolve()
        self._may_be_linked = may_be_linked
        self._is_in_memory = False
        self._nbytes: dict[str, int] = {}

    @classmethod
    def within(cls, location: str, nbytes: int) -> ExternalData:
        """Return the data that lies within ``nbytes`` bytes in memory, which go by the name ``location``.

        Other data of a model in memory is not checked. Only onnxruntime knows where it lies: in the folder that a
        session option names, or in the current one.
        """
        data = cls(".")
        data._is_in_memory = True
        data._nbytes[location] = nbytes
        return data

    def check(self, tensor: onnx.TensorProto, nbytes: int) -> None:
        """Check that a tensor's data, of ``nbytes`` bytes, lies within the model's folder and is complete.

        State the length where the model does not: onnx would read up to the end of the file, onnxruntime does not.

        Raises: ModelError; its message lacks the name of the model.
        """
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if any(isinstance(text, bytes) for entry in entries.items() for text in entry):
            raise ModelError(f" is damaged: where the data of tensor '{tensor.name}' lies is not in UTF-8")
        location = entries.get("location", "")
        if location not in self._nbytes:
            if self._is_in_memory:
                return
            self._nbytes[location] = self._look_at(location, tensor.name)
        offset = _number(entries.get("offset", "0"), tensor.name)
        length = _number(entries.get("length", str(nbytes)), tensor.name)
        if length != nbytes:
            raise ModelError(f" is damaged: tensor '{tensor.name}' takes {nbytes} bytes, not {length}")
        if offset + length > self._nbytes[location]:
            raise ModelError(
                f": its external data '{location}' is truncated: tensor '{tensor.name}' ends at byte "
                f"{offset + length}, the file at {self._nbytes[location]}; copy it again"
            )
        if "length" not in entries:
            tensor.external_data.add(key="length", value=str(nbytes))

    def _look_at(self, location: str, name: str) -> int:
        """Return the size of a file beside the model."""
        if "\0" in location:
            raise ModelError(f" is damaged: tensor '{name}' lies in a file whose name has a NUL byte")
        file = self._folder / location
        try:
            is_inside = location and not Path(location).is_absolute() and file.resolve().is_relative_to(self._folder)
            if not is_inside:
                raise ModelError(
                    f": tensor '{name}' lies in '{location}', which is outside the model's folder; "
                    "such a path is refused, keep the data beside the model"
                )
            found = file.stat()
        except FileNotFoundError as error:
            raise ModelError(f": its external data '{location}' is missing; keep it beside the model") from error
        except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, up to Python 3.12
            reason = getattr(error, "strerror", None) or "its links lead in a circle"
            raise ModelError(f": its external data '{location[:200]}' cannot be read: {reason}") from error
        if not stat.S_ISREG(found.st_mode):
            raise ModelError(f": its external data '{location}' is no regular file; keep it beside the model")
        if found.st_nlink > 1 and not self._may_be_linked:
            raise ModelError(
                f": its external data '{location}' has {found.st_nlink} hard links, which onnx refuses to read; "
                "copy it to a file of its own"
            )
        return found.st_size


def external_locations(model: onnx.ModelProto) -> list[str]:
    """Return the names of the files that hold weights of a model."""
    found: dict[str, None] = {}
    for tensor in tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            found |= {entry.value: None for entry in tensor.external_data if entry.key == "location"}
    return list(found)


def data_files(path: Path) -> list[Path]:
    """Return the files beside a model's path that may hold its weights: ``<path>.data``, ``<path>.data2`` and so on."""
    pattern = re.compile(re.escape(f"{path.name}.data") + r"([2-9]|[1-9][0-9]+)?")
    with suppress(OSError):
        return sorted(file for file in path.parent.iterdir() if pattern.fullmatch(file.name))
    return []


def free_data_file(path: Path) -> Path:
    """Return the first of these that is not there.

    So the model that is replaced goes on using its own file until the new one has its name, and no file is overwritten
    that a model of another name may use.
    """
    numbers = itertools.chain([""], map(str, itertools.count(2)))
    files = (path.with_name(f"{path.name}.data{number}") for number in numbers)
    return next(file for file in files if not os.path.lexists(file))


def data_in_use(path: Path, model: onnx.ModelProto) -> list[Path]:
    """Return those of these that a model uses which lies at ``path``."""
    found = {entry.value for tensor in tensors(model) for entry in tensor.external_data if entry.key == "location"}
    return [file for file in data_files(path) if file.name in found]


def remove_quietly(files: Iterable[Path]) -> None:
    """Remove files that nothing uses any more, as far as the system allows it."""
    for file in files:
        with suppress(OSError):
            file.unlink()


def _number(text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ModelError(
            f" is damaged: offset and length of tensor '{name}' in its file must be numbers, got '{text[:40]}'"
        )
    return int(text)
