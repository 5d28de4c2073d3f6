"""Write the package of a new operator, complete or not at all."""

from __future__ import annotations

import shutil
import tomllib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from ort_ops.files.atomic import replace_folder, temporary_folder
from ort_ops.installation.requirements import DISTRIBUTION, installed_version
from ort_ops.native.library import NativeLibraryError, include_path
from ort_ops.scaffold.attributes import PackageError
from ort_ops.scaffold.example import example_parts
from ort_ops.scaffold.request import PackageRequest, package_names

if TYPE_CHECKING:
    from jinja2 import Environment

_HEADERS = ("ort/*.h", "ort/cuda/*.h", "kernels/half.h")
_THIRD_PARTY = Path("third_party", "mylinear")


@dataclass(frozen=True)
class NewPackage:
    """A package that was written.

    Attributes:
        folder: it lies here.
        files: written by hand from now on, without the headers; paths within the folder.
        todo: how many places are an example, marked TODO, by the files that have some.
    """

    request: PackageRequest
    folder: Path
    files: tuple[str, ...]
    todo: dict[str, int]


def write_package(request: PackageRequest, folder: str | Path | None = None) -> NewPackage:
    """Write the package of an operator.

    Args:
        folder: to make; by default the distribution's name, here.

    Raises: PackageError if the folder exists, or there are no headers for a kernel in C++; OutputError if it cannot be
        written; ModuleNotFoundError without jinja2.
    """
    target = Path(request.distribution if folder is None else folder)
    if target.exists() or target.is_symlink():
        raise PackageError(f"'{target}' exists; name another folder by --folder, or remove it")
    if not target.absolute().parent.is_dir():
        raise PackageError(f"'{target}' cannot be made: there is no folder '{target.absolute().parent}'")
    texts = render(request)
    with temporary_folder(beside=target) as temporary:
        whole = temporary / "package"
        for name, text in texts.items():
            path = whole / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (whole / "ci.sh").chmod(0o755)
        if request.with_cpp:
            _copy_headers(whole / _THIRD_PARTY)
        whole.rename(target)
    todo = {name: count for name, text in texts.items() if (count := text.count("TODO:"))}
    return NewPackage(request, target, tuple(texts), todo)


def find_package(name: str | None, folder: str | Path | None) -> Path:
    """Return the folder of a package to update: ``folder``, or the one that ``name`` has here, or this folder.

    Raises: PackageError if the package there is that of another operator than ``name``.
    """
    if name is None:
        return Path("." if folder is None else folder)
    expected = package_names(name)[1]
    if folder is None:
        folder = expected if Path(expected, "pyproject.toml").is_file() else "."
    target = Path(folder)
    try:
        found = tomllib.loads((target / "pyproject.toml").read_text())["project"]["name"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        hint = f"give its folder by --folder, or run this where '{expected}' is"
        raise PackageError(
            f"'{target}' must be the package of {name}, and has no readable pyproject.toml; {hint}"
        ) from error
    if found != expected:
        hint = "leave NAME out, or give its folder by --folder"
        raise PackageError(f"'{target}' must be the package of {name}, which is '{expected}', got '{found}'; {hint}")
    return target


def update_headers(folder: str | Path) -> list[str]:
    """Bring the headers that a package has in ``third_party/`` up to date with this version; change nothing else.

    Returns: the files that differ, were added or removed. Raises: PackageError for a folder without such headers;
        OutputError if they cannot be written; ModuleNotFoundError without jinja2.
    """
    target = Path(folder) / _THIRD_PARTY
    if not (target / "ort").is_dir():
        raise PackageError(f"'{folder}' must be a package with headers in '{_THIRD_PARTY}'; name it by --folder")
    readme = _environment().get_template("third_party.md.jinja").render(version=_version())
    with temporary_folder(beside=target) as temporary:
        new, old = temporary / "new", temporary / "old"
        new.mkdir()
        (new / "README.md").write_text(readme)
        _copy_headers(new)
        before, after = _contents(target), _contents(new)
        replace_folder(new, target, old)
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def render(request: PackageRequest) -> dict[str, str]:
    """Return the text of every file but the headers, by its path within the package."""
    module = request.module
    names = {
        "README.md": "README.md",
        "pyproject.toml": "pyproject.toml",
        ".gitignore": "gitignore",
        "ci.sh": "ci.sh",
        f"{module}/__init__.py": "init.py",
        f"{module}/operator.py": "operator.py",
        f"{module}/in_torch.py": "in_torch.py",
        f"tests/test_{module}.py": "test_operator.py",
    }
    if request.with_cpp:
        names |= {
            f"{module}/kernel.cc": "kernel.cc",
            "setup.py": "setup.py",
            "MANIFEST.in": "MANIFEST.in",
            f"{_THIRD_PARTY.as_posix()}/README.md": "third_party.md",
        }
    if request.with_cuda:
        names |= {f"{module}/kernel.cu": "kernel.cu", "tests/conftest.py": "conftest.py"}
    environment = _environment()
    values = {
        "name": request.name,
        "module": module,
        "class_name": request.class_name,
        "distribution": request.distribution,
        "domain": request.domain,
        "inputs": request.inputs,
        "required": request.required,
        "optional": request.optional,
        "attributes": request.attributes,
        "outputs": request.outputs,
        "dtypes": request.dtypes,
        "cpp": request.with_cpp,
        "cuda": request.with_cuda,
        "version": _version(),
        **example_parts(request),
    }
    return {path: environment.get_template(f"{name}.jinja").render(values) for path, name in names.items()}


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("ort_ops.scaffold"),
        autoescape=False,  # it is code, of names that are checked
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _version() -> str:
    return installed_version(DISTRIBUTION) or "0.1.0"


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _copy_headers(target: Path) -> None:
    try:
        source = Path(include_path())
    except NativeLibraryError as error:
        raise PackageError(f"{error}; or write the package without a kernel in C++, by --no-cpp") from error
    for pattern in _HEADERS:
        for header in sorted(source.glob(pattern)):
            path = target / header.relative_to(source)
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(header, path)
    licence = _licence()
    if licence:
        (target / "LICENSE").write_text(licence)


def _licence() -> str:
    """Return the text of this project's licence, which goes with its headers; empty in a source tree without it."""
    try:
        files = metadata.files(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        files = []
    found = next((str(file.locate()) for file in files if file.name == "LICENSE"), "")
    for path in (Path(found), Path(__file__).parents[2] / "LICENSE"):
        if path.is_file():
            return path.read_text()
    return ""
