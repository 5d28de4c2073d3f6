"""Whether torch can use a GPU, and what is missing if not."""

from __future__ import annotations

from ort_ops.installation.extras import install_extra


def why_not_cuda() -> str | None:
    """Say why torch has no CUDA device, with the remedy; None if it has one."""
    try:
        import torch
    except ModuleNotFoundError:
        return f"torch is not installed; {install_extra('torch')}"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} was built without it; install a build for CUDA, as pytorch.org says"
    if not torch.cuda.is_available():
        built = f"torch {torch.__version__}, built for CUDA {torch.version.cuda}"
        return f"{built}, finds no device; `nvidia-smi` says whether there is a GPU and which CUDA its driver knows"
    return None
