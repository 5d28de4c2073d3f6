"""The hosts that a bundle has ready files for: one folder each, and nothing else to register.

``hosts/<name>/host.json`` says::

    {"summary": "what it is, in a few words",
     "run": "the command that starts it, in the bundle's folder",
     "copies": {"folder of the host": "folder of the bundle, whose files are copied there"},
     "open": ["folders of the host that its own tools fill, such as node_modules"],
     "without_libraries": "a runtime that loads none, so that every operator must have a definition in the model"}

All but the first two may be left out. Every other file of the folder goes to ``hosts/<name>/`` of the bundle, at the
same place. In its text, in its path and in ``host.json`` each word between two ``@`` is replaced, if it is one of:

- ``@name@``: of the bundle; ``@platform@``: the first that the bundle has libraries for, empty for none;
- ``@oldest_onnxruntime@``: that the model needs; ``@inputs@``, ``@outputs@``: names, joined by commas;
- what ``words(manifest)`` returns, if the folder has a ``words.py``: a dictionary of text. It is not copied.

A file that is no text is copied as it is. A host reads what else it needs from ``manifest.json``; samples are .npy
files.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from ort_ops.bundle.manifest import BundleError, Manifest

FOLDER = "hosts"
_HERE = Path(__file__).parent
_DESCRIPTION, _WORDS = "host.json", "words.py"
_WORD = re.compile(r"@([a-z_]+)@")


@dataclass(frozen=True)
class Host:
    """One host, as its ``host.json`` describes it."""

    name: str
    summary: str
    run: str
    copies: Mapping[str, str] = field(default_factory=dict)
    open: tuple[str, ...] = ()
    without_libraries: str = ""

    @property
    def folder(self) -> Path:
        """The folder of its templates."""
        return _HERE / self.name


def host_names() -> tuple[str, ...]:
    """Return the names of all hosts."""
    return tuple(sorted(path.parent.name for path in _HERE.glob(f"*/{_DESCRIPTION}")))


def find_host(name: str) -> Host:
    """Return a host. Raises: BundleError for an unknown one."""
    if name not in host_names():
        raise BundleError(f"--for must be among {', '.join(host_names())}, got '{name}'")
    plain = json.loads((_HERE / name / _DESCRIPTION).read_text(encoding="utf-8"))
    without_libraries = plain.get("without_libraries", "")
    opened = tuple(plain.get("open", ()))
    return Host(name, plain["summary"], plain["run"], plain.get("copies", {}), opened, without_libraries)


def write_host(host: Host, bundle: Path, manifest: Manifest) -> tuple[str, tuple[str, ...]]:
    """Write the files of one host into a bundle.

    Args:
        bundle: the folder of the bundle, whose model, libraries and sample are there already.

    Returns: the command that starts it, and the folders that are not sealed.
    Raises: BundleError for an operator without a definition, where the host has no other way to run it.
    """
    if host.without_libraries and manifest.bodiless:
        raise BundleError(
            f"--for {host.name} cannot run {', '.join(manifest.bodiless)}: {host.without_libraries} loads no library, "
            f"and the model has no definition; add one with `mylinear adopt`, or leave {host.name} out"
        )
    words = _words(host, manifest)
    target = bundle / FOLDER / host.name
    for source in sorted(host.folder.rglob("*")):
        inner = source.relative_to(host.folder)
        if source.is_dir() or inner.as_posix() in (_DESCRIPTION, _WORDS) or "__pycache__" in inner.parts:
            continue
        path = target / _replaced(inner.as_posix(), words)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path)
        shutil.copymode(source, path)
        try:
            text = source.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        path.write_text(_replaced(text, words), encoding="utf-8")
    for inner_folder, of_bundle in host.copies.items():
        _copy(bundle / _replaced(of_bundle, words), target / _replaced(inner_folder, words))
    return _replaced(host.run, words), tuple(f"{FOLDER}/{host.name}/{_replaced(name, words)}" for name in host.open)


def _copy(source: Path, target: Path) -> None:
    """Copy a folder's files; do nothing where the bundle has no such folder, as that of libraries."""
    for path in sorted(source.rglob("*")) if source.name else ():
        if path.is_file():
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def _words(host: Host, manifest: Manifest) -> dict[str, str]:
    words = {
        "name": manifest.name,
        "platform": next(iter(manifest.platforms), ""),
        "oldest_onnxruntime": manifest.model.oldest_onnxruntime or "",
        "inputs": ", ".join(tensor.name for tensor in manifest.inputs),
        "outputs": ", ".join(tensor.name for tensor in manifest.outputs),
    }
    if (host.folder / _WORDS).is_file():
        words |= import_module(f"{__name__}.{host.name}.words").words(manifest)
    return words


def _replaced(text: str, words: Mapping[str, str]) -> str:
    return _WORD.sub(lambda found: words.get(found[1], found[0]), text)
