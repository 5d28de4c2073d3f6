"""Find the libraries that a model's operators need, for each platform, and copy them into a bundle."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ort_ops.bundle.abi import oldest_runtime_of
from ort_ops.bundle.manifest import BundledLibrary, BundleError
from ort_ops.bundle.platforms import PLATFORMS, needed_nbytes, platforms_of, this_platform
from ort_ops.errors import MylinearError
from ort_ops.files.inputs import InputError, first_line, open_input
from ort_ops.installation.requirements import DISTRIBUTION
from ort_ops.native import library as native
from ort_ops.opdef.kit import OperatorKit

FOLDER = "libraries"
_ENDINGS = frozenset({".so", ".dylib", ".dll"})
_HEAD_NBYTES = 4096


@dataclass(frozen=True)
class NeededLibrary:
    """A library that the model's operators have on this machine.

    Attributes:
        name: in the bundle, the same on all platforms.
        path: of the installed file.
        op_types: domain and name of its operators in the model.
    """

    name: str
    path: Path
    op_types: tuple[str, ...]

    @property
    def version(self) -> str:
        """The version of the package that it is of, where that is known."""
        return (native.status().version or "") if native.is_own(str(self.path)) else ""


@dataclass(frozen=True)
class _Given:
    """A library file that was given for a platform: on disk, or in a wheel."""

    folder: str
    file_name: str
    source: Path
    member: str = ""

    def copy(self, target: Path) -> None:
        if not self.member:
            shutil.copyfile(self.source, target)
            return
        with zipfile.ZipFile(self.source) as wheel, wheel.open(self.member) as content, target.open("wb") as file:
            shutil.copyfileobj(content, file)


def needed_libraries(kits: Iterable[OperatorKit]) -> list[NeededLibrary]:
    """Return the libraries of the operators that have any. Raises: BundleError for one that cannot be found."""
    found: dict[str, list[str]] = {}
    for kit in kits:
        if kit.library is None:
            continue
        op_type = kit.operator.op_type
        try:
            path = Path(kit.library()).absolute()
        except Exception as error:  # of another package
            reason = str(error) if isinstance(error, MylinearError) else first_line(error)
            raise BundleError(
                f"the library of {op_type} is not there: {reason}; or bundle without libraries, by --platforms none"
            ) from error
        found.setdefault(str(path), []).append(op_type)
    paths = [Path(path) for path in found]
    stems = [_stem(path.name) for path in paths]
    names = [
        f"{path.parent.name}.{stem}" if stems.count(stem) > 1 else stem for path, stem in zip(paths, stems, strict=True)
    ]
    return [NeededLibrary(name, path, tuple(found[str(path)])) for name, path in zip(names, paths, strict=True)]


def read_platforms(text: str | None, needed: Sequence[NeededLibrary], given: Mapping[str, object]) -> tuple[str, ...]:
    """Return the platforms that were asked for. Raises: BundleError for an unknown one.

    Args:
        text: names separated by commas, ``none``, or None for those of ``given``, or else this machine's.
        needed: where there is none, so is no platform, unless it was asked for.
    """
    if text == "none" or (text is None and not needed):
        return ()
    if text is None:
        return tuple(dict.fromkeys([this_platform(), *given]))
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in names:
        if name not in (*PLATFORMS, this_platform()):
            raise BundleError(f"--platforms must be none, or among {', '.join(PLATFORMS)}, got '{name}'")
    return names


def read_given(texts: Sequence[str]) -> dict[str, list[Path]]:
    """Return the files of ``PLATFORM=PATH`` by platform. Raises: BundleError."""
    found: dict[str, list[Path]] = {}
    for text in texts:
        platform, equals, path = text.partition("=")
        if not equals or not path or platform not in (*PLATFORMS, this_platform()):
            rule = f"PLATFORM=PATH, with a library or a wheel, and PLATFORM among {', '.join(PLATFORMS)}"
            raise BundleError(f"--library must be {rule}; got '{text}'")
        found.setdefault(platform, []).append(Path(path))
    return found


def copy_libraries(
    folder: Path, platforms: Sequence[str], needed: Sequence[NeededLibrary], given: Mapping[str, Sequence[Path]]
) -> list[BundledLibrary]:
    """Copy each needed library of each platform into the bundle's folder.

    Raises: BundleError for one that was not given, is for another platform, or of another version; InputError.
    """
    here = this_platform()
    oldest = {library.name: oldest_runtime_of(library.path) for library in needed} if platforms else {}
    made = []
    for platform in platforms:
        candidates = [_given(path) for path in given.get(platform, ())]
        files = [file for found in candidates for file in found]
        for library in needed:
            if platform == here and not files:
                source = _Given(library.path.parent.name, library.path.name, library.path)
            else:
                source = _match(library, files, platform)
            name = source.file_name if library.name == _stem(source.file_name) else f"{library.name}{_ending(source)}"
            path = f"{FOLDER}/{platform}/{name}"
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            source.copy(folder / path)
            _check_platform(folder / path, source, platform)
            made.append(
                BundledLibrary(
                    library.name, platform, path, oldest[library.name], None, platform == here, library.version
                )
            )
    return made


def _match(library: NeededLibrary, files: Sequence[_Given], platform: str) -> _Given:
    stem = _stem(library.path.name)
    found = [file for file in files if _stem(file.file_name) == stem]
    if len(found) > 1:
        found = [file for file in found if file.folder == library.path.parent.name]
    if len(found) != 1:
        got = ", ".join(file.file_name for file in files) or "none"
        raise BundleError(
            f"platform {platform} needs '{stem}', the library of {' and '.join(library.op_types)}, got {got}; give it "
            f"by --library {platform}=PATH, a library or the wheel that has it"
        )
    return found[0]


def _given(path: Path) -> list[_Given]:
    """Return the libraries in a given file. Raises: BundleError, InputError."""
    if path.suffix != ".whl":
        with open_input(path, what="library", folder_advice="a library or a wheel"):
            return [_Given(path.absolute().parent.name, path.name, path)]
    with open_input(path, what="wheel", folder_advice="a library or a wheel") as file:
        try:
            with zipfile.ZipFile(file) as wheel:
                members = [PurePosixPath(name) for name in wheel.namelist()]
        except zipfile.BadZipFile as error:
            raise InputError(f"'{path}' is no wheel: {first_line(error)}") from error
    _check_version(path)
    return [_Given(m.parent.name, m.name, path, str(m)) for m in members if _ENDINGS & {*m.suffixes}]


def _check_version(wheel: Path) -> None:
    """Check that a wheel of this package has this version. Raises: BundleError."""
    distribution, _, rest = wheel.name.partition("-")
    expected = native.status().version
    version = rest.partition("-")[0]
    if distribution.lower().replace("_", "-") == DISTRIBUTION and expected and version != expected:
        raise BundleError(f"'{wheel}' must be of version {expected}, as this package is, got {version}")


def _check_platform(path: Path, source: _Given, platform: str) -> None:
    with path.open("rb") as file:
        head = file.read(_HEAD_NBYTES)
    found, nbytes, needed = platforms_of(head), path.stat().st_size, needed_nbytes(head)
    if not found:
        raise BundleError(
            f"'{source.member or source.source}' is no library of a known platform, and must be for {platform}"
        )
    if platform not in found:
        raise BundleError(f"'{source.member or source.source}' must be for {platform}, got one for {', '.join(found)}")
    if nbytes < needed:
        raise BundleError(
            f"'{source.member or source.source}' is cut off: it has {nbytes} bytes, and its headers tell of {needed}; "
            "copy it again"
        )


def _stem(name: str) -> str:
    """Return a library's name without what differs between platforms.

    >>> _stem("libscale.so"), _stem("scale.dll"), _stem("_kernel.abi3.so")
    ('scale', 'scale', '_kernel')
    """
    return name.partition(".")[0].removeprefix("lib")


def _ending(source: _Given) -> str:
    return source.file_name[source.file_name.index(".") :]
