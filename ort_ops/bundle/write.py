"""Make a bundle: write all of it beside the folder that it will be, prove it, and give it its name at the end."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from ort_ops.bundle import hosts
from ort_ops.bundle.libraries import copy_libraries, needed_libraries, read_given, read_platforms
from ort_ops.bundle.load import read_root
from ort_ops.bundle.manifest import FILE_NAME, BundleError, Manifest
from ort_ops.bundle.model import prepare_model, write_model
from ort_ops.bundle.prove import prove, worst
from ort_ops.bundle.sample import UNTESTED
from ort_ops.bundle.seal import seal, sealed_file, total_nbytes
from ort_ops.console.shown import Shown, Table
from ort_ops.errors import MylinearError
from ort_ops.files.atomic import OutputError, output_error, replace_folder, temporary_folder
from ort_ops.installation.requirements import DISTRIBUTION, installed_version
from ort_ops.numerics.compare import Verdict

SMOKE_TEST = "smoke_test.py"
_PACKAGES = (DISTRIBUTION, "onnx", "onnxruntime", "numpy", "torch")


@dataclass(frozen=True, repr=False)
class BundleResult(Shown):
    """A bundle that was written.

    Attributes:
        folder: of the bundle.
        sha256: of its manifest, for `ort_ops.load_bundle`.
        nbytes: of all files.
        manifest: all that it says of itself.
    """

    folder: str
    sha256: str
    nbytes: int
    manifest: Manifest

    @property
    def verdict(self) -> str:
        """The worst of the parity check: ``ok``, or what is not proved."""
        return worst(self.manifest.parity)

    def shown(self) -> list[str | Table]:
        """Return what is in the bundle, and how it was proved."""
        manifest = self.manifest
        rows = [
            [row.kernel, row.output, "" if row.max_in_bounds is None else f"{row.max_in_bounds:.3g}", row.verdict]
            for row in manifest.parity
        ]
        lines: list[str | Table] = [(["kernel", "output", "error / bound", "verdict"], rows)]
        lines += [f"note: {row.kernel}, '{row.output}': {row.detail}" for row in manifest.parity if row.detail]
        if not manifest.operators:
            lines.append("note: the model has no node of a registered operator; onnxruntime's own kernels run it")
        elif not manifest.libraries:
            lines.append("note: there is no library in it; the definitions in the model run")
        for library in manifest.libraries:
            if not library.is_run:
                lines.append(f"note: {library.path} did not run here; {SMOKE_TEST} proves it there")
        oldest = manifest.model.oldest_onnxruntime
        platforms = ", ".join(manifest.platforms)
        lines.append(
            f"{self.folder}: {len(manifest.files) + 1} files, {self.nbytes / 2**20:.1f} MiB; "
            f"{f'libraries for {platforms}; ' if platforms else ''}onnxruntime {oldest or 'unknown'} or newer"
        )
        lines += [f"{name}: {command}" for name, command in manifest.hosts.items()]
        return [*lines, f"sha256 of {FILE_NAME}: {self.sha256}"]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, for JSON."""
        import json

        plain = json.loads(self.manifest.to_json())
        return {"folder": self.folder, "sha256": self.sha256, "nbytes": self.nbytes, "verdict": self.verdict, **plain}


def write_bundle(
    model: str | Path,
    folder: str | Path,
    *,
    target: str | None = None,
    platforms: str | None = None,
    libraries: Sequence[str] = (),
    for_hosts: Sequence[str] = (),
    sample: str | Path | None = None,
    allow_untested: bool = False,
    force: bool = False,
) -> BundleResult:
    """Write a bundle of a model, completely or not at all.

    Args:
        folder: to make; with ``force`` it may be a bundle, which is replaced.
        target: the oldest onnxruntime that must run it, such as ``1.17``; None for what the model has.
        platforms: to have libraries for, separated by commas; ``none`` for no library. By default that of this machine,
            and those of ``libraries``.
        libraries: ``PLATFORM=PATH``: a library, or a wheel that has it, of another platform or another build.
        for_hosts: names of hosts to write files for.
        sample: an .npz file with an array for each input; None for drawn numbers that the graph can take.
        allow_untested: whether to write it though an output could not be compared with exact values.

    Raises: BundleError, ModelError, ContractError, TargetError, KernelError, ExampleError, OutputError.
    """
    place = _checked_place(Path(folder), force)
    found_hosts = [hosts.find_host(name) for name in dict.fromkeys(for_hosts)]
    given = read_given(libraries)
    prepared = prepare_model(model, target)
    needed = needed_libraries(prepared.kits) if platforms != "none" else []
    chosen = read_platforms(platforms, needed, given)
    name = _name(Path(model))
    with temporary_folder(beside=place) as temporary:
        whole = temporary / "bundle"
        try:
            whole.mkdir()
            manifest = Manifest(
                name,
                write_model(prepared, whole),
                (),
                (),
                prepared.operators({op_type: found.name for found in needed for op_type in found.op_types}),
                tuple(copy_libraries(whole, chosen, needed, given)),
                versions={package: installed_version(package) for package in _PACKAGES},
            )
            manifest = prove(whole, manifest, prepared, sample)
            if worst(manifest.parity) == Verdict.VIOLATED.value:
                row = next(row for row in manifest.parity if row.verdict == Verdict.VIOLATED.value)
                raise BundleError(f"'{model}': output '{row.output}' is wrong by {row.kernel}: {row.detail}")
            if worst(manifest.parity) not in (Verdict.OK.value, Verdict.UNDECIDED.value) and not allow_untested:
                row = next(row for row in manifest.parity if row.verdict in (UNTESTED, Verdict.UNBOUNDED.value))
                raise BundleError(
                    f"'{model}': output '{row.output}' is not proved: {row.detail}; give real inputs by --sample "
                    "FILE.npz, or accept that by --allow-untested"
                )
            shutil.copyfile(Path(__file__).with_name(SMOKE_TEST), whole / SMOKE_TEST)
            manifest = _with_hosts(whole, manifest, found_hosts)
            manifest = replace(manifest, files=seal(whole))
            data = manifest.to_json()
            (whole / FILE_NAME).write_bytes(data)
            sealed_file(whole / FILE_NAME, sync=True)
            replace_folder(whole, place, temporary / "old")
        except OSError as error:
            if isinstance(error, MylinearError):
                raise
            raise output_error(place, error) from error
    return BundleResult(str(folder), sha256(data).hexdigest(), total_nbytes(manifest.files) + len(data), manifest)


def _checked_place(folder: Path, force: bool) -> Path:
    """Return where to put the bundle. Raises: BundleError, OutputError."""
    if not str(folder) or folder.name in ("", ".."):
        raise OutputError(f"'{folder}' cannot be a bundle; name a folder to make")
    place = folder.absolute()
    if not place.parent.is_dir():
        raise OutputError(f"'{folder}' cannot be made: there is no folder '{place.parent}'; make it first")
    if place.is_symlink() or place.exists():
        if not force:
            raise BundleError(f"'{folder}' exists; name another folder, or replace the bundle there by --force")
        try:
            if place.is_symlink():
                raise BundleError(f"'{folder}' is a symbolic link")
            read_root(place)
        except BundleError as error:
            raise BundleError(f"--force replaces a bundle alone, and '{folder}' is none: {error}") from error
    return place


def _name(model: Path) -> str:
    """Return a name for hosts: letters, digits, ``_``, ``-`` and ``.``."""
    cleaned = "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "_-.") else "_" for letter in model.stem
    )
    return cleaned.strip(".") or "model"


def _with_hosts(folder: Path, manifest: Manifest, found: Sequence[hosts.Host]) -> Manifest:
    commands: dict[str, str] = {}
    opened: list[str] = []
    for host in found:
        commands[host.name], folders = hosts.write_host(host, folder, manifest)
        opened += folders
    return replace(manifest, hosts=commands, open_folders=tuple(opened))
