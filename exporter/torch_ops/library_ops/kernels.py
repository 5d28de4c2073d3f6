"""Give an overload of a library op all of its kernels, in the one way that is right on every path of torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from exporter.torch_ops.library_ops.autocast import register_autocast
from exporter.torch_ops.torch_private import CAN_GO_BELOW_AUTOGRAD

Kernel = Callable[..., Any]


@dataclass(frozen=True)
class Kernels:
    """The kernels of one overload; each takes all arguments of the op, unless it says otherwise.

    Attributes:
        compute: the numbers, by torch's own operations, on any device.
        fake: outputs without numbers, of inputs whose sizes may be symbolic.
        vmap: ``(info, in_dims, *arguments)`` -> (outputs, where each has the batch).
        autograd: computes, and leaves a node for the backward; in forward mode too.
        backward: ``(ctx, *gradients of the outputs)`` -> a gradient or None for each argument; where this torch lets no
            ``autograd`` go below itself.
        save: ``(ctx, arguments, output)``, what ``backward`` needs; for the same torch.
        num_cast: how many arguments, from the first, autocast casts; 0 for none.
    """

    compute: Kernel
    fake: Kernel
    vmap: Kernel
    autograd: Kernel
    backward: Kernel
    save: Kernel
    num_cast: int = 0


def define_overload(library: torch.library.Library, name: str, schema: str, kernels: Kernels) -> Kernel:
    """Define an overload of a library op, with all its kernels.

    Args:
        library: of the op's namespace; kernels go with it, so that it must be kept.
        name: of the op, with ``.overload`` behind it for another than the default.
        schema: arguments and results, as in ``(Tensor x) -> Tensor``. No argument has a default: with one, the
            dispatcher drops an absent tensor, and the backward sees too few entries.

    Returns: the overload.
    """
    qualified = f"{library.ns}::{name}"
    torch.library.define(qualified, schema, tags=torch.Tag.pt2_compliant_tag)
    base, _, overload = name.partition(".")
    op: Kernel = getattr(getattr(getattr(torch.ops, library.ns), base), overload or "default")
    torch.library.impl(qualified, "default", kernels.compute)
    torch.library.register_fake(qualified, kernels.fake)
    torch.library.register_vmap(qualified, kernels.vmap)
    if CAN_GO_BELOW_AUTOGRAD:  # `torch.library.register_autograd` would lose forward-mode tangents without a word
        library.impl(name, kernels.autograd, "Autograd")
    else:
        torch.library.register_autograd(qualified, kernels.backward, setup_context=kernels.save)
    if kernels.num_cast:
        register_autocast(library, name, op, kernels.num_cast)
    return op
