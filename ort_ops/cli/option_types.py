"""Types of command-line options that argparse does not have; a refused value is a usage error in one line."""

from __future__ import annotations

import argparse

_MAX_SEED = 2**63 - 1


def seed(text: str) -> int:
    """Read the seed of a random generator, as NumPy and torch take it."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not 0 <= value <= _MAX_SEED:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to {_MAX_SEED}, got '{text}'")
    return value


def kernel(text: str) -> str:
    """Read the name of a kernel that this version knows, whether or not it is available."""
    from ort_ops.installation import requirements

    requirements.check()
    from ort_ops.session import available_kernels

    names = [kernel.name for kernel in available_kernels()]
    if text not in names:
        raise argparse.ArgumentTypeError(f"must be among {', '.join(names)}, got '{text}'")
    return text


def provider(text: str) -> str:
    """Read the name of an execution provider that onnxruntime knows, whether or not it is here."""
    from ort_ops.installation import requirements

    requirements.check()
    import onnxruntime

    names = onnxruntime.get_all_providers()
    if text not in names:
        raise argparse.ArgumentTypeError(f"must be among {', '.join(names)}, got '{text}'")
    return text
