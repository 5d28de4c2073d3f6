"""The exported forward of a module, which `torch.export` makes, and which keeps the calls of library ops."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.exc import UserError, UserErrorType
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from exporter.errors import ExportError
from exporter.to_onnx.checks.agreement import root_cause
from exporter.to_onnx.checks.node_counts import check_count, count_in_program
from exporter.to_onnx.example_call import DynamicShapes, Example
from exporter.to_onnx.surroundings import every_layer
from exporter.torch_ops.counting import count_calls
from exporter.torch_ops.kit import torch_kits
from exporter.training_step.network import Network, is_same, kept_buffers

Values = Mapping[str, Tensor]
_INNER_GRADIENT = (
    "; if the model differentiates in its own forward, by torch.autograd.grad, let it return what it differentiates "
    "instead, such as the energy, and let exporter.export_gradients make the gradient"
)


class Forward:
    """The exported forward of a network, to be run while something records.

    Attributes:
        network: what was exported.
        program, module: the export.
        mode: of the fake tensors in it.
        fakes: those of the inputs, by name; dimensions that may change are symbols.
        axes: these dimensions.
        what, fixing, unchanging: for errors: what is exported, what may fix a size, and how to export one size alone.
    """

    what: str
    fixing: str
    unchanging: str

    def __init__(
        self, network: Network, look_at: Callable[[Any], None], tensors: Sequence[Tensor] | None = None
    ) -> None:
        """Call the network, and export it, in the mode that it is in.

        Args:
            look_at: is given what the call returns, as eager torch computes it.
            tensors: for that call; the network's own by default.

        Raises: ExportError.
        """
        self.network = network
        self.axes: DynamicShapes = dict(network.axes)
        names = self._names = [*network.inputs, *network.targets]
        dims = {dim: torch.export.Dim(dim, min=1) for axes in self.axes.values() for dim in axes.values()}
        shapes = tuple({axis: dims[dim] for axis, dim in self.axes[name].items()} or None for name in names)
        with torch.enable_grad(), kept_buffers(network.module), count_calls() as calls:
            before = {name: tensor.clone() for name, tensor in network.buffers.items()}
            result = network.module(*(network.tensors if tensors is None else tensors))  # its errors say the most
            # Batch norm writes its running statistics without a new version of them.
            self._written = {name for name, old in before.items() if not is_same(network.buffers[name], old)}
            look_at(result)
        try:
            with every_layer(), torch.enable_grad():
                self.program = torch.export.export(network.module, network.tensors, dynamic_shapes=(shapes,))
        except Exception as error:
            if isinstance(error, UserError) and error.error_type is UserErrorType.CONSTRAINT_VIOLATION:
                raise ExportError(
                    f"{self.fixing} fixes the size of the batch; write it for any size (x.shape[0] in place of a "
                    f"number), or export with {self.unchanging}"
                ) from error
            cause = root_cause(error)
            hint = _INNER_GRADIENT * ("fake tensor" in cause)
            raise ExportError(f"torch.export cannot take {self.what}: {cause}{hint}") from error
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

    def call(self, values: Values) -> tuple[Any, dict[str, Tensor]]:
        """Return what the module returns for inputs, parameters and buffers, and the buffers that change."""
        buffers = {name: values[name].clone() for name in self.network.buffers}
        versions = {name: tensor._version for name, tensor in buffers.items()}
        state = {**values, **buffers}
        held = {full: state[name] for full, name in self._aliases.items()}
        result = functional_call(self.module, held, tuple(values[name] for name in self._names), tie_weights=False)
        changed = {
            name: tensor
            for name, tensor in buffers.items()
            if tensor._version != versions[name] or name in self._written
        }
        return result, changed


def check_backwards(results: Iterable[Tensor]) -> None:
    """Refuse a `torch.autograd.Function` of the model: an export keeps its forward, and not its backward.

    Raises: ExportError naming it.
    """
    known = {name for kit in torch_kits() for name in kit.autograd_nodes}
    waiting = [result.grad_fn for result in results if result.grad_fn is not None]
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


def check_dense(grads: Values) -> None:
    """Refuse sparse gradients. Raises: ExportError naming one."""
    for name, grad in grads.items():
        if grad.layout is not torch.strided:
            raise ExportError(f"the gradient of '{name}' is sparse; make its module without sparse=True")


def lost_gradient(name: str) -> ExportError:
    """Return the error for a gradient that is there in eager torch or in the recorded graph alone."""
    return ExportError(
        f"a gradient reaches '{name}' in torch or in the exported graph, and not in both; write what leads to it in "
        "operations that torch.export and autograd treat alike"
    )
