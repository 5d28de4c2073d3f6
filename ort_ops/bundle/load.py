"""Load a bundle: check everything that it says, and refuse the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256 as new_sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from packaging.version import Version

from ort_ops.bundle.manifest import AGAIN, FILE_NAME, BundledTensor, BundleError, Manifest, ParityRow, read_manifest
from ort_ops.bundle.platforms import this_platform
from ort_ops.bundle.sample import compare_outputs, load_array, numpy_dtype
from ort_ops.bundle.seal import check_sealed, open_inside, read_sealed
from ort_ops.files.inputs import input_path
from ort_ops.kernels.given import register_given
from ort_ops.kernels.refusal import KernelError
from ort_ops.models.external_data import external_locations
from ort_ops.numerics.compare import Verdict
from ort_ops.opdef import registry
from ort_ops.session import InferenceSession
from ort_ops.session_options import SessionOptions

Array = NDArray[Any]
AUTO, CPP, BODY = "auto", "cpp", "body"
_MAX_MANIFEST_NBYTES = 1 << 26
# Where the external data of a model in memory lies; onnxruntime knows it from 1.21 on.
_FOLDER_KEY, _TAKES_FOLDER = "session.model_external_initializers_file_folder_path", Version("1.21")


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a bundle.

    Attributes:
        dtype: NumPy's name, ``bfloat16`` or ``string``.
        shape: sizes; a name, or None, for a dynamic dimension. None as a whole where the rank is not known.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The dtype of arrays."""
        return numpy_dtype(self.dtype)


@dataclass(frozen=True)
class Bundle:
    """A bundle that was checked, with a session; `ort_ops.load_bundle` makes it.

    It can be pickled, for worker processes: unpickling loads the folder again, with all checks.

    Attributes:
        folder: of the bundle.
        session: the `ort_ops.InferenceSession` of its model.
        manifest: all that the bundle says of itself.
    """

    folder: Path
    session: InferenceSession
    manifest: Manifest
    _reloading: Mapping[str, Any]

    @cached_property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The inputs, in their order."""
        return tuple(map(_info, self.manifest.inputs))

    @cached_property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """The outputs, in their order."""
        return tuple(map(_info, self.manifest.outputs))

    def run(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        """Run the model on an array for each input, and return the outputs by name."""
        names = [tensor.name for tensor in self.manifest.outputs]
        return dict(zip(names, self.session.run(names, feed), strict=True))

    def sample(self) -> dict[str, Array]:
        """Return the sample inputs. Raises: BundleError if they were damaged since the bundle was loaded."""
        return {tensor.name: load_array(self.folder, tensor.sample, tensor.dtype) for tensor in self.manifest.inputs}

    def check(self) -> list[ParityRow]:
        """Run the sample, and compare each output with its exact values, within the bound that the bundle states.

        Returns: a row for each output. Raises: BundleError for one that is out of its bound.
        """
        kernel = self._kernel()
        rows = compare_outputs(self.folder, self.manifest.outputs, self.run(self.sample()), kernel)
        for row in rows:
            if row.verdict == Verdict.VIOLATED.value:
                raise BundleError(
                    f"'{self.folder}': output '{row.output}' is wrong by {kernel} of onnxruntime "
                    f"{onnxruntime.__version__}: {row.detail}; try another onnxruntime, or kernels='body'"
                )
        return rows

    def _kernel(self) -> str:
        """Return what runs the operators, also where this process does not know them."""
        if self.session.kernels:
            return self.session.kernel
        if not self.manifest.operators:
            return "onnxruntime"
        return CPP if self.manifest.libraries and self._reloading["kernels"] != BODY else BODY

    def __reduce__(self) -> tuple[Callable[..., Bundle], tuple[Path, Mapping[str, Any]]]:
        return _loaded_again, (self.folder, self._reloading)


def load_bundle(
    folder: str | Path,
    *,
    kernels: str = AUTO,
    sess_options: onnxruntime.SessionOptions | None = None,
    providers: Sequence[Any] | None = None,
    sha256: str | None = None,
) -> Bundle:
    """Load a bundle that `mylinear bundle` made: check all of it, then open its model with its own library.

    Every file must have the hash that the manifest states, and there must be no other file and no link. What is not
    stated there is not loaded: no path is ever read from a model. Files are hashed a megabyte at a time.

    The manifest itself is as trustworthy as its source. Where a bundle comes over a wire, give its ``sha256``, which
    `mylinear bundle` prints, and everything hangs on that.

    The model is opened from the very bytes that were hashed. A library is opened by its path, and so are weights
    outside the model (the model too, then, before onnxruntime 1.21): somebody who can write to the folder could change
    those between the check and the use. Keep it read-only for the process.

    Args:
        folder: of the bundle.
        kernels: ``auto`` takes the bundle's library for this platform, and the definitions in the model where the
            bundle has no libraries; ``cpp`` requires the library; ``body`` does without.
        sess_options: without kernels; changed in place. By default new ones.
        providers: as for `InferenceSession`.
        sha256: of the manifest, in hexadecimal; None to take any.

    Raises: BundleError that says what is wrong, what was found, and what to do: a folder that is no bundle, another
        format version, a file that was changed, added or removed, a platform without a library, an onnxruntime that is
        too old. KernelError if onnxruntime cannot load the library.
    """
    if kernels not in (AUTO, CPP, BODY):
        raise KernelError(f"kernels must be {AUTO}, {CPP} or {BODY}, got {kernels!r}")
    root = input_path(folder, what="bundle").absolute()
    manifest = read_root(root, sha256)
    libraries = _libraries(root, manifest, kernels)
    _check_runtime(root, manifest, libraries)
    check_sealed(root, manifest)
    session = open_sealed(root, manifest, bool(libraries), sess_options, providers)
    _check_names(root, manifest, session)
    reloading = {"kernels": kernels, "sess_options": sess_options, "providers": providers, "sha256": sha256}
    return Bundle(root, session, manifest, reloading)


def read_root(root: Path, sha256: str | None = None) -> Manifest:
    """Read the manifest of a folder. Raises: BundleError if it is no bundle, or not the one of that hash."""
    if not root.is_dir():
        raise BundleError(f"'{root}' is no folder; name that of a bundle, which `mylinear bundle model.onnx DIR` makes")
    if not (root / FILE_NAME).exists():
        raise BundleError(f"'{root}' is no bundle: it has no {FILE_NAME}; `mylinear bundle model.onnx DIR` makes one")
    with open_inside(root, FILE_NAME) as file:
        data = file.read(_MAX_MANIFEST_NBYTES + 1)
    if len(data) > _MAX_MANIFEST_NBYTES:
        raise BundleError(f"'{root}' is damaged: {FILE_NAME} has more than {_MAX_MANIFEST_NBYTES} bytes; {AGAIN}")
    if sha256 is not None and (found := new_sha256(data).hexdigest()) != sha256.lower():
        raise BundleError(f"'{root}' must have a {FILE_NAME} of sha256 {sha256}, got {found}; copy the bundle again")
    return read_manifest(data, str(root))


def open_sealed(
    root: Path,
    manifest: Manifest,
    with_library: bool,
    sess_options: onnxruntime.SessionOptions | None = None,
    providers: Sequence[Any] | None = None,
) -> InferenceSession:
    """Open the model of a bundle whose other files were checked. Raises: BundleError, KernelError."""
    model = read_sealed(root, manifest.model.path, manifest)
    path = root / manifest.model.path
    options = SessionOptions() if sess_options is None else sess_options
    source: bytes | Path = model
    if manifest.model.external_data:
        _check_locations(root, manifest, model)
        if Version(onnxruntime.__version__) >= _TAKES_FOLDER:
            options.add_session_config_entry(_FOLDER_KEY, str(path.parent))
        else:
            source = path
    libraries = manifest.libraries_for(this_platform()) if with_library else ()
    names = {library.name for library in libraries}
    operators = {}
    for found in manifest.operators:
        kit = registry.find(found.domain, found.name, found.since_version)
        if kit is not None:  # else onnxruntime alone knows the operator, by the bundle's library or the model's body
            operators[kit.operator.op_type] = (kit.operator, found.library in names)
    register_given(options, [str(root / library.path) for library in libraries], operators)
    return InferenceSession(source, options, providers)


def _loaded_again(folder: Path, arguments: Mapping[str, Any]) -> Bundle:
    return load_bundle(folder, **arguments)


def _info(tensor: BundledTensor) -> TensorInfo:
    return TensorInfo(tensor.name, tensor.dtype, tensor.shape)


def _libraries(root: Path, manifest: Manifest, kernels: str) -> tuple[Any, ...]:
    """Return the libraries to register. Raises: BundleError where this platform has none, and needs one."""
    here = this_platform()
    if kernels == BODY or (kernels == AUTO and not manifest.libraries):
        if manifest.bodiless:
            raise BundleError(
                f"'{root}' has no definition of {', '.join(manifest.bodiless)} to run in place of a library; load it "
                f"by kernels='auto', with a library for {here}"
            )
        return ()
    found = manifest.libraries_for(here)
    if not found:
        has = ", ".join(manifest.platforms) or "no platform"
        raise BundleError(
            f"'{root}' has libraries for {has}, and this is {here}; bundle it with --platforms {here}, or load it by "
            "kernels='body'"
        )
    return found


def _check_runtime(root: Path, manifest: Manifest, libraries: Sequence[Any]) -> None:
    """Check that this onnxruntime loads the model and the libraries. Raises: BundleError."""
    here = Version(onnxruntime.__version__)
    limits = [("its model", manifest.model.oldest_onnxruntime, None)]
    limits += [(f"'{found.path}'", found.oldest_onnxruntime, found.newest_onnxruntime) for found in libraries]
    for what, oldest, newest in limits:
        is_old = oldest is not None and here.release[:2] < Version(oldest).release[:2]
        is_new = newest is not None and here.release[:2] > Version(newest).release[:2]
        if is_old or is_new:
            rule = f"{oldest} or newer" if newest is None else f"{oldest or 'any'} to {newest}"
            raise BundleError(
                f"'{root}': {what} needs onnxruntime {rule}, got {here}; install that, or bundle for this one, with "
                f"--target {here.major}.{here.minor}"
            )


def _check_names(root: Path, manifest: Manifest, session: InferenceSession) -> None:
    """Check that the manifest speaks of this model's inputs and outputs. Raises: BundleError."""
    required = {value.name for value in session.get_inputs()}
    known = required | {value.name for value in session.get_overridable_initializers()}
    named = [tensor.name for tensor in manifest.inputs]
    outputs, got = [tensor.name for tensor in manifest.outputs], [value.name for value in session.get_outputs()]
    if not required <= {*named} <= known or outputs != got:
        raise BundleError(
            f"'{root}': the model must have inputs {named} and outputs {outputs}, as {FILE_NAME} says, got "
            f"{sorted(known)} and {got}; {AGAIN}"
        )


def _check_locations(root: Path, manifest: Manifest, model: bytes) -> None:
    """Check that the model's weights lie in files that the manifest lists. Raises: BundleError."""
    folder = Path(manifest.model.path).parent
    listed = {*manifest.model.external_data}
    for location in external_locations(onnx.load_model_from_string(model)):
        if (folder / location).as_posix() not in listed:
            raise BundleError(
                f"'{root}': the model has weights in '{location}', which {FILE_NAME} does not list; {AGAIN}"
            )
