"""Record a training step as one flat graph of ATen operations, each call of a registered operator one node.

The model and its loss are exported by `torch.export`, which keeps the calls of library ops, and then run with the
program's own fake tensors while `make_fx` records: the forward, the backward that autograd makes of it, and the update.
The batch keeps the symbol that the export gave it, whatever other sizes happen to equal it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher
from torch._dynamo.exc import UserError, UserErrorType
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from exporter.errors import ExportError
from exporter.to_onnx.checks.agreement import root_cause
from exporter.to_onnx.checks.node_counts import check_count, count_in_program
from exporter.to_onnx.example_call import DynamicShapes, Example, kind_of
from exporter.to_onnx.surroundings import every_layer
from exporter.torch_ops.counting import count_calls
from exporter.torch_ops.kit import torch_kits
from exporter.training_step.decompositions.scalars import explicit_scalars
from exporter.training_step.decompositions.table import decompositions
from exporter.training_step.network import Network, is_same, kept_buffers

Values = Mapping[str, Tensor]


@dataclass(frozen=True)
class Traced:
    """A recorded function.

    Attributes:
        graph: takes the values of ``inputs``, in order, and returns those of ``outputs``.
        inputs: first or example values, by name.
        outputs: names.
        axes: named dimensions of each input.
    """

    graph: fx.GraphModule
    inputs: dict[str, Tensor]
    outputs: list[str]
    axes: DynamicShapes


class Program:
    """The exported forward of model and loss, to be run and differentiated while something records."""

    def __init__(self, network: Network) -> None:
        """Export the network in the mode that it is in. Raises: ExportError."""
        self.network = network
        dims = {"batch": torch.export.Dim("batch", min=1)}
        names = [*network.inputs, *network.targets]
        shapes = tuple({axis: dims[name] for axis, name in network.axes[n].items()} or None for n in names)
        with torch.enable_grad(), kept_buffers(network.module), count_calls() as calls:
            before = {name: tensor.clone() for name, tensor in network.buffers.items()}
            loss = network.module(*network.tensors)  # its own errors say more than those of an export
            _check_number(loss)
            # Batch norm writes its running statistics without a new version of them.
            self._written = {name for name, old in before.items() if not is_same(network.buffers[name], old)}
            _check_backwards(loss)
            self._reached = _reached(loss, network)  # before the buffers get a new version, which autograd refuses
        try:
            with every_layer(), torch.enable_grad():
                self.program = torch.export.export(network.module, network.tensors, dynamic_shapes=(shapes,))
        except Exception as error:
            if isinstance(error, UserError) and error.error_type is UserErrorType.CONSTRAINT_VIOLATION:
                raise ExportError(
                    "the model or the loss fixes the size of the batch; write it for any size (x.shape[0] in place of "
                    "a number), or export with dynamic_batch=False"
                ) from error
            raise ExportError(f"torch.export cannot take the model with its loss: {root_cause(error)}") from error
        example = Example(network.module, network.module, network.tensors, names, False)
        check_count(count_in_program(self.program), calls, example, has_inner_graphs=False, is_program=False)
        self.module = self.program.module(check_guards=False)
        held = (
            *self.module.named_parameters(remove_duplicate=False),
            *self.module.named_buffers(remove_duplicate=False),
        )
        self._aliases = {full: network.aliases[full] for full, _ in held if full in network.aliases}
        placeholders = {n.name: n.meta["val"] for n in self.program.graph.nodes if n.op == "placeholder"}
        fakes = [placeholders[name] for name in self.program.graph_signature.user_inputs]
        self.fakes: dict[str, Tensor] = dict(zip(names, fakes, strict=True))
        self.mode: FakeTensorMode = fakes[0].fake_mode

    def gradients(self, values: Values, wrt: list[str]) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Return the loss, the gradient of each of ``wrt`` that one reaches, and the buffers that change."""
        leaves = {name: values[name].detach().requires_grad_() for name in wrt}
        buffers = {name: values[name].clone() for name in self.network.buffers}
        versions = {name: tensor._version for name, tensor in buffers.items()}
        state = {**values, **leaves, **buffers}
        held = {full: state[name] for full, name in self._aliases.items()}
        loss = functional_call(self.module, held, tuple(values[name] for name in self.fakes), tie_weights=False)
        _check_number(loss)
        if not loss.requires_grad:
            raise ExportError("the loss depends on no parameter that needs a gradient, so there is nothing to train")
        loss = loss.reshape(())
        found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True) if leaves else ()
        grads = {name: grad for name, grad in zip(leaves, found, strict=True) if grad is not None}
        for name, grad in grads.items():
            if grad.layout is not torch.strided:
                raise ExportError(f"the gradient of '{name}' is sparse; make its module without sparse=True")
        changed = {
            name: tensor
            for name, tensor in buffers.items()
            if tensor._version != versions[name] or name in self._written
        }
        return loss.detach(), grads, changed

    def find_changes(self, wrt: list[str]) -> tuple[list[str], list[str]]:
        """Return which of ``wrt`` a gradient reaches, and which buffers a step changes. Raises: ExportError."""
        with _recording(self.mode), _reported():
            state = {name: self.mode.from_tensor(t.detach()) for name, t in self.network.state.items()}
            _, grads, buffers = self.gradients({**state, **self.fakes}, wrt)
        lost = next((name for name in wrt if (name in grads) is not (name in self._reached)), None)
        if lost is not None:
            raise ExportError(
                f"a gradient reaches '{lost}' in torch or in the exported graph, and not in both; write what leads to "
                "it in operations that torch.export and autograd treat alike"
            )
        return list(grads), list(buffers)


def _reached(loss: Tensor, network: Network) -> set[str]:
    """Return the names of the parameters that torch has a gradient for."""
    wanted = {name: tensor for name, tensor in network.parameters.items() if tensor.requires_grad}
    if not loss.requires_grad or not wanted:
        return set()
    grads = torch.autograd.grad(loss.reshape(()), list(wanted.values()), allow_unused=True)
    return {name for name, grad in zip(wanted, grads, strict=True) if grad is not None}


def _check_backwards(loss: Tensor) -> None:
    """Refuse a `torch.autograd.Function` of the model: an export keeps its forward, and not its backward.

    Raises: ExportError naming it.
    """
    known = {name for kit in torch_kits() for name in kit.autograd_nodes}
    waiting = [] if loss.grad_fn is None else [loss.grad_fn]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        function = getattr(node, "_forward_cls", None)
        if function is not None and node.name() not in known and not function.__module__.startswith("torch."):
            raise ExportError(
                f"the model has a backward of its own, {function.__qualname__}, of which torch.export keeps only the "
                "forward; write it in operations that torch differentiates, or as an operator (docs/operators.md)"
            )
        following = [before for before, _ in node.next_functions if before is not None and before not in seen]
        seen.update(following)
        waiting += following


def _check_number(loss: Any) -> None:
    """Check that a loss is one number. Raises: ExportError."""
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.is_floating_point():
        got = f"{loss.dtype} of {list(loss.shape)}" if isinstance(loss, Tensor) else kind_of(loss)
        raise ExportError(f"loss must return one floating-point number in a tensor, got {got}; reduce it, by .mean()")


def trace(
    function: Callable[[Values], Mapping[str, Tensor]],
    inputs: Mapping[str, Tensor],
    program: Program | None = None,
) -> Traced:
    """Record a function of named tensors.

    Args:
        inputs: first or example values; those of the network's inputs and targets are taken by their symbols.
        program: whose ``gradients`` the function calls, if it does.

    Raises: ExportError.
    """
    mode = FakeTensorMode() if program is None else program.mode
    known = {} if program is None else program.fakes
    outputs: list[str] = []

    def flat(*tensors: Tensor) -> list[Tensor]:
        results = function(dict(zip(inputs, tensors, strict=True)))
        outputs.extend(results)
        return list(results.values())

    static = {name: mode.from_tensor(tensor.detach(), static_shapes=True) for name, tensor in inputs.items()}
    fakes = [known.get(name, tensor) for name, tensor in static.items()]
    with _recording(mode), _reported():
        graph = make_fx(flat, decomposition_table=decompositions(), _allow_non_fake_inputs=True)(*fakes)
    if program is not None:
        _check_batch(program)
    explicit_scalars(graph)
    axes = {name: program.network.axes[name] if name in known and program is not None else {} for name in inputs}
    return Traced(graph, dict(inputs), outputs, axes)


def _check_batch(program: Program) -> None:
    """Check that no operation fixed a dimension that may change. Raises: ExportError."""
    for name, axes in program.network.axes.items():
        for axis in axes:
            size = program.fakes[name].shape[axis]
            fixed = size if isinstance(size, int) else size.node.maybe_as_int()
            if fixed is not None:
                raise ExportError(
                    f"the backward works for a batch of {fixed} alone: dimension {axis} of '{name}' was fixed while it "
                    "was recorded; export with dynamic_batch=False, or write the operation that does it in others"
                )


@contextmanager
def _reported() -> Iterator[None]:
    """Turn errors of torch into one line."""
    try:
        yield
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(f"the training step cannot be recorded: {root_cause(error)}") from error


@contextmanager
def _recording(mode: FakeTensorMode) -> Iterator[None]:
    with ExitStack() as stack:
        # oneDNN's fused operations have no translation, and only the plain attention has one.
        stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
        stack.enter_context(torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(mode)
        # Without it, some kernels in C++ (constant_pad_nd) fix the batch, and say nothing.
        stack.enter_context(enable_python_dispatcher())
        yield
