"""Find the files that `mylinear run` was given: files, folders and patterns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path

from ort_ops.files.inputs import InputError, shown_names
from ort_ops.prediction.predict import OUTPUT_SUFFIXES


@dataclass(frozen=True)
class Source:
    """A file with rows.

    Attributes:
        path: of the file.
        name: without suffix, relative to the folder that was given; its results are called so.
    """

    path: Path
    name: Path


def are_many(inputs: Sequence[str]) -> bool:
    """Whether these are more than one file with rows: several, a folder, or a pattern such as ``rows/*.parquet``."""
    return len(inputs) > 1 or any(Path(text).is_dir() or _is_pattern(text) for text in inputs)


def find_sources(inputs: Sequence[str]) -> list[Source]:
    """Return the files in order; of a folder, all with rows in it and in its folders, except hidden ones and ``_*``.

    Raises: InputError if there is none, or two would have results of the same name.
    """
    found: list[Source] = []
    for text in inputs:
        if Path(text).is_dir():
            files = [path.relative_to(text) for path in Path(text).rglob("*") if path.is_file()]
            files = [f for f in files if f.suffix.lower() in OUTPUT_SUFFIXES and not any(p[0] in "._" for p in f.parts)]
            found += [Source(Path(text) / file, file.with_suffix("")) for file in sorted(files)]
        else:
            paths = sorted(glob(text)) if _is_pattern(text) else [text]
            found += [Source(Path(path), Path(Path(path).stem)) for path in paths]
    if not found:
        raise InputError(
            f"there is no file with rows (.csv, .npy, .parquet, .arrow, .feather) in {shown_names([*inputs])}"
        )
    for source in found:
        if source.path.suffix.lower() not in OUTPUT_SUFFIXES or not source.path.is_file():
            what = "must be a .csv, .npy, .parquet, .arrow or .feather file" if source.path.exists() else "is not there"
            raise InputError(f"'{source.path}' {what}")
    seen: dict[Path, Path] = {}
    for source in found:
        if source.name in seen:
            raise InputError(
                f"'{seen[source.name]}' and '{source.path}' would have results of the same name; run them apart"
            )
        seen[source.name] = source.path
    return found


def _is_pattern(text: str) -> bool:
    return has_magic(text) and not Path(text).exists()
