"""A model, with its loss, as one module that takes tensors by position, and the names of all that it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from exporter.errors import ExportError
from exporter.to_onnx.example_call import DynamicShapes, Example, distinct_names, grow, kind_of, make_example
from exporter.to_onnx.job import check_names

Loss = nn.Module | Callable[..., Any]
_MODEL, _LOSS = "model.", "loss."


class WithLoss(nn.Module):
    """Call a model with the structure of the example, and its loss with what it returns and the targets."""

    def __init__(self, model: nn.Module, loss: Loss, example: tuple[Any, Any]) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        leaves, self._spec = pytree.tree_flatten(example)
        # Held by this module, a tensor of the example would be exported as a constant.
        self._leaves = [leaf.new_empty(0) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self._positions = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]

    def forward(self, *tensors: Tensor) -> Tensor:
        """Return the loss of the tensors of the inputs and targets, in order."""
        leaves = list(self._leaves)
        for position, tensor in zip(self._positions, tensors, strict=True):
            leaves[position] = tensor
        inputs, targets = pytree.tree_unflatten(leaves, self._spec)
        return self.loss(self.model(*inputs), *targets)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Network:
    """A model and its loss, with an example call and names.

    Attributes:
        model: the caller's.
        module: model and loss; takes ``tensors`` and returns the loss. Where there is no loss, what the model returns.
        call: the call of the model alone, as the caller makes it.
        tensors: of the inputs, then of the targets.
        inputs, targets: names of these tensors.
        state: parameters and buffers by name: the model's own names, and ``loss.<name>`` for those of the loss. A
            tensor that has several names is there once, under its first.
        aliases: name of a tensor in ``state`` by each name that it has in ``module``.
        axes: named dimensions of each input and target.
    """

    model: nn.Module
    module: nn.Module
    call: Example
    tensors: tuple[Tensor, ...]
    inputs: list[str]
    targets: list[str]
    state: dict[str, Tensor]
    aliases: dict[str, str]
    axes: DynamicShapes

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """All parameters by name, trained or not."""
        return {name: value for name, value in self.state.items() if isinstance(value, nn.Parameter)}

    @property
    def buffers(self) -> dict[str, Tensor]:
        """All buffers by name."""
        return {name: value for name, value in self.state.items() if not isinstance(value, nn.Parameter)}

    @property
    def given(self) -> dict[str, Tensor]:
        """The tensors of the example by name."""
        return dict(zip([*self.inputs, *self.targets], self.tensors, strict=True))

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """The smallest and the largest number of each of these tensors, without those that are not finite."""
        found = {}
        for name, tensor in self.given.items():
            numbers = tensor.detach().to(torch.float64) if not tensor.is_complex() else tensor.new_empty(0)
            numbers = numbers[numbers.isfinite()]
            if numbers.numel():
                found[name] = float(numbers.min()), float(numbers.max())
        return found


def make_network(
    model: nn.Module,
    loss: Loss,
    example: tuple[Any, Any],
    *,
    dynamic_batch: bool,
    input_names: Sequence[str] | None,
    target_names: Sequence[str] | None,
) -> Network:
    """Name and check what an export of a training step is given.

    Raises: ExportError for an example that is no pair, and for names that are not as many as the tensors.
    """
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise ExportError(f"model must be a torch.nn.Module, got {kind_of(model)}")
    if not callable(loss):
        raise ExportError(f"loss must be a module or a function of the model's output and the target, got {loss!r}")
    inputs, targets = _pair(example)
    check_hooks(model)
    call = make_example(model, inputs, None)
    leaves = pytree.tree_leaves(targets)
    _check_targets(leaves)
    module = WithLoss(model, loss, (inputs, targets))
    state, aliases = named_state(module)
    target_tensors = tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))
    names = list(input_names or distinct_names(call.names, state))
    check_names(names, len(call.tensors), "input")
    count = len(target_tensors)
    wanted = ["target"] if count == 1 else [f"target_{i}" for i in range(count)]
    others = list(target_names or distinct_names(wanted, {*state, *names}))
    check_names(others, count, "target")
    taken = [name for name in (*names, *others) if name in state]
    if taken or set(names) & set(others):
        name = (taken or [n for n in names if n in others])[0]
        raise ExportError(
            f"input_names and target_names must differ from each other and from the model's own names, got '{name}'"
        )
    tensors = (*call.tensors, *target_tensors)
    axes = batch_axes([*names, *others], tensors) if dynamic_batch else {n: {} for n in (*names, *others)}
    # A batch of 1 would be fixed in the graph: torch.export takes a size of 1 as a constant.
    more = 1 if any(t.shape[0] == 1 for n, t in zip(axes, tensors, strict=True) if axes[n]) else 0
    tensors = tuple(grow(tensor, axes[name], more) for name, tensor in zip(axes, tensors, strict=True))
    return Network(model, module, call, tensors, names, others, state, aliases, axes)


def _pair(example: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return the arguments of the model and those of the loss. Raises: ExportError."""
    if not isinstance(example, tuple | list) or len(example) != 2:
        got = f"{len(example)} entries" if isinstance(example, tuple | list) else kind_of(example)
        raise ExportError(
            f"example must be a pair (x, target), or (tuple of inputs, tuple of targets), got {got}; tensors that "
            "forward takes together go into one tuple"
        )
    inputs, targets = (tuple(part) if isinstance(part, tuple | list) else (part,) for part in example)
    return inputs, targets


def check_hooks(model: nn.Module) -> None:
    """Refuse hooks on the backward of a module. Raises: ExportError naming it."""
    for name, part in model.named_modules():
        if part._backward_hooks or part._backward_pre_hooks:
            raise ExportError(
                f"module '{name}' ({type(part).__name__}) has hooks on its backward, which a file cannot run; remove "
                "them"
            )


def _check_targets(leaves: Sequence[Any]) -> None:
    for leaf in leaves:
        if not isinstance(leaf, Tensor | int | float | bool | str | None):
            raise ExportError(f"targets must be tensors, got {kind_of(leaf)}; torch.as_tensor makes one of it")


def named_state(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return parameters and buffers by name, each once, and that name by every name that they have in ``module``."""
    found: dict[int, str] = {}
    state: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    everything: Iterator[tuple[str, Tensor]] = (
        pair for values in (module.named_parameters, module.named_buffers) for pair in values(remove_duplicate=False)
    )
    for full, tensor in everything:
        name = full.removeprefix(_MODEL) if full.startswith(_MODEL) else full
        name = found.setdefault(id(tensor), name)
        if state.setdefault(name, tensor) is not tensor:
            raise ExportError(f"the model and the loss both have a parameter '{name}'; rename one of them")
        aliases[full] = name
    return state, aliases


def batch_axes(names: Sequence[str], tensors: Sequence[Tensor]) -> Mapping[str, Mapping[int, str]]:
    """Call the first dimension of each tensor ``batch`` where it is as long as that of the first one."""
    size = next((tensor.shape[0] for tensor in tensors if tensor.ndim), None)
    return {
        name: {0: "batch"} if tensor.ndim and tensor.shape[0] == size else {}
        for name, tensor in zip(names, tensors, strict=True)
    }


@contextmanager
def in_mode(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Put model and loss in training or eval mode, and give both back as they were, and torch's random numbers too.

    Parts of a model in training that were put in eval mode, such as a normalization that must not change, stay so.
    """
    modes = {part: part.training for part in module.modules()}
    try:
        if module.get_submodule("model").training is not training:
            module.train(training)
        with kept_buffers(module), torch.random.fork_rng(devices=[]):
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode


@contextmanager
def kept_buffers(module: nn.Module) -> Iterator[None]:
    """Give a module back its buffers, with the values that they had; a call in training mode changes some."""
    before = [
        (part, key, tensor, None if tensor is None else tensor.clone())
        for part in module.modules()
        for key, tensor in part._buffers.items()
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for part, key, tensor, values in before:
                part._buffers[key] = tensor  # a call may put another one in its place
                if tensor is not None and values is not None and not is_same(tensor, values):
                    tensor.copy_(values)  # batch norm changes its own without a new version


def is_same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape are equal; NaN is equal to NaN."""
    return bool(((a == b) | ((a != a) & (b != b))).all())
