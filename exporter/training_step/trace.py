"""Record a training step as one flat graph of ATen operations, each call of a registered operator one node.

The exported forward is run with its own fake tensors while `make_fx` records: the forward, the backward that autograd
makes of it, and the update. The batch keeps the symbol that the export gave it, whatever other sizes equal it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from exporter.errors import ExportError
from exporter.to_onnx.checks.agreement import root_cause
from exporter.to_onnx.example_call import DynamicShapes, kind_of
from exporter.training_step.decompositions.scalars import explicit_scalars
from exporter.training_step.decompositions.table import decompositions
from exporter.training_step.forward import Forward, Values, check_backwards, check_dense, lost_gradient
from exporter.training_step.network import Network


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


class Program(Forward):
    """The exported forward of model and loss, to be run and differentiated while something records."""

    what = "the model with its loss"
    fixing = "the model or the loss"
    unchanging = "dynamic_batch=False"

    def __init__(self, network: Network) -> None:
        """Export the network in the mode that it is in. Raises: ExportError."""
        self._reached: set[str] = set()
        super().__init__(network, self._look_at)

    def _look_at(self, loss: Any) -> None:
        _check_number(loss)
        check_backwards([loss])
        self._reached = _reached(loss, self.network)  # before the buffers get a new version, which autograd refuses

    def gradients(self, values: Values, wrt: list[str]) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Return the loss, the gradient of each of ``wrt`` that one reaches, and the buffers that change."""
        leaves = {name: values[name].detach().requires_grad_() for name in wrt}
        loss, changed = self.call({**values, **leaves})
        _check_number(loss)
        if not loss.requires_grad:
            raise ExportError("the loss depends on no parameter that needs a gradient, so there is nothing to train")
        loss = loss.reshape(())
        found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True) if leaves else ()
        grads = {name: grad for name, grad in zip(leaves, found, strict=True) if grad is not None}
        check_dense(grads)
        return loss.detach(), grads, changed

    def find_changes(self, wrt: list[str]) -> tuple[list[str], list[str]]:
        """Return which of ``wrt`` a gradient reaches, and which buffers a step changes. Raises: ExportError."""
        with _recording(self.mode), _reported():
            state = {name: self.mode.from_tensor(t.detach()) for name, t in self.network.state.items()}
            _, grads, buffers = self.gradients({**state, **self.fakes}, wrt)
        lost = next((name for name in wrt if (name in grads) is not (name in self._reached)), None)
        if lost is not None:
            raise lost_gradient(lost)
        return list(grads), list(buffers)


def _reached(loss: Tensor, network: Network) -> set[str]:
    """Return the names of the parameters that torch has a gradient for."""
    wanted = {name: tensor for name, tensor in network.parameters.items() if tensor.requires_grad}
    if not loss.requires_grad or not wanted:
        return set()
    grads = torch.autograd.grad(loss.reshape(()), list(wanted.values()), allow_unused=True)
    return {name for name, grad in zip(wanted, grads, strict=True) if grad is not None}


def _check_number(loss: Any) -> None:
    """Check that a loss is one number. Raises: ExportError."""
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.is_floating_point():
        got = f"{loss.dtype} of {list(loss.shape)}" if isinstance(loss, Tensor) else kind_of(loss)
        raise ExportError(f"loss must return one floating-point number in a tensor, got {got}; reduce it, by .mean()")


def trace(
    function: Callable[[Values], Mapping[str, Tensor]],
    inputs: Mapping[str, Tensor],
    program: Forward | None = None,
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
    _part_results(graph)
    explicit_scalars(graph)
    axes = {name: program.axes[name] if name in known and program is not None else {} for name in inputs}
    return Traced(graph, dict(inputs), outputs, axes)


def _part_results(graph: fx.GraphModule) -> None:
    """Give each result a value of its own: one value has one name in ONNX.

    Two biases may have one gradient, and a result may be an input. torch.export merges equal nodes, so that results
    count as one where their nodes are equal.
    """
    numbers: dict[fx.Node, int] = {}
    known: dict[str, int] = {}
    for node in graph.graph.nodes:
        is_call = node.op == "call_function"
        key = repr((node.target, fx.map_arg((node.args, node.kwargs), lambda n: f"value {numbers[n]}")))
        numbers[node] = known.setdefault(key if is_call else node.name, len(known))
    (output,) = graph.graph.find_nodes(op="output")
    last = {numbers[node]: node for node in graph.graph.find_nodes(op="placeholder")}
    results = []
    for node in output.args[0]:
        number, result = numbers[node], node
        if number in last:
            with graph.graph.inserting_before(output):  # exact; equal clones would be merged
                result = graph.graph.call_function(torch.ops.aten.mul.Scalar, (last[number], 1))
            result.meta["val"] = node.meta["val"]
        last[number] = result
        results.append(result)
    output.args = (results,)


def _check_batch(program: Forward) -> None:
    """Check that no operation fixed a dimension that may change. Raises: ExportError."""
    for name, axes in program.axes.items():
        for axis in axes:
            size = program.fakes[name].shape[axis]
            fixed = size if isinstance(size, int) else size.node.maybe_as_int()
            if fixed is not None:
                raise ExportError(
                    f"the backward works for a {axes[axis]} of {fixed} alone: dimension {axis} of '{name}' was fixed "
                    f"while it was recorded; export with {program.unchanging}, or write the operation that does it in "
                    "others"
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
