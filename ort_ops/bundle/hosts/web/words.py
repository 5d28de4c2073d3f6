"""What the files for a browser say of a bundle: nothing, but not every model can run there."""

from __future__ import annotations

from ort_ops.bundle.manifest import BundleError, Manifest


def words(manifest: Manifest) -> dict[str, str]:
    """Return no words. Raises: BundleError for an operator without a definition in the model."""
    if manifest.bodiless:
        raise BundleError(
            f"--for web cannot run {', '.join(manifest.bodiless)}: onnxruntime-web loads no library, and the model "
            f"has no definition; add one with `mylinear adopt`, or leave web out"
        )
    return {}
