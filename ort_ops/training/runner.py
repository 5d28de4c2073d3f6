"""One training file in an onnxruntime session, with its state in memory that the session reads and writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from ort_ops.files.inputs import first_line
from ort_ops.kernels.providers import PYTHON
from ort_ops.models.graphs import declared_shape, nodes_in
from ort_ops.opdef import registry
from ort_ops.training.errors import TrainingError, UnusableError
from ort_ops.training.given import Given, GivenInputs
from ort_ops.training.graph.in_place import unsafe_states
from ort_ops.training.graph.session_model import make_session_model
from ort_ops.training.memory import Memory, Tensor, direct_run
from ort_ops.training.sessions import is_of_onnxruntime, open_session
from ort_ops.training.storage.training_file import TrainingFile, numpy_dtype

Array = NDArray[Any]

_HALF = (
    "the state may be half updated: load_state() one that is whole, or open the last file; in_place=False keeps the "
    "state of the step before"
)


class Runner:
    """A session of a training file, and the state that it changes.

    Attributes:
        metadata: of the file.
        memory: the state that a run changes.
        fixed: what a run reads alone, such as the learning rate, by name.
        given: the inputs that the user gives.
        loss: the tensor that a run writes the loss to, or None.
        two_buffers: the states that are not overwritten in place, each with the reason.
        has_python_kernels: whether any node runs by one.
    """

    def __init__(
        self,
        file: TrainingFile,
        options: onnxruntime.SessionOptions,
        kernels: str,
        in_place: bool,
        shared: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Open the session, and read the state into its memory.

        Args:
            in_place: whether to overwrite the states for which that is proven safe.
            shared: tensors of another runner that serve for states here.
        """
        metadata = self.metadata = file.metadata
        inputs = {value.name: value for value in file.model.graph.input}
        outputs = {value.name: value for value in file.model.graph.output}
        dtypes = {name: numpy_dtype(value.type.tensor_type.elem_type) for name, value in inputs.items()}
        shapes = {name: declared_shape(value) for name, value in inputs.items()}
        self.given = GivenInputs([Given(name, dtypes[name], shapes[name] or []) for name in metadata.given])
        reason = "" if in_place else "in_place=False asks for it"
        if options.execution_mode == onnxruntime.ExecutionMode.ORT_PARALLEL:
            reason = reason or "nodes run in parallel"
        model, plan = make_session_model(file.model, options, kernels)
        self.has_python_kernels = any(provider.name == PYTHON.name for provider in plan.providers.values()) or any(
            node.domain in plan.python_domains for node in nodes_in(model.graph)
        )
        if self.has_python_kernels:
            reason = reason or "a kernel in Python may fail half-way"
        self.session, final = open_session(model.SerializeToString(), options, kernels, with_graph=not reason)
        self.kernels = self.session.kernels
        if final is None:
            self.two_buffers = dict.fromkeys(metadata.fed, reason)
        else:
            self.two_buffers = unsafe_states(final, metadata.feeds, _elementwise())
        del model, final
        tensors = dict(shared or {})
        for name in (*metadata.stored, *metadata.gradients, *filter(None, [metadata.count])):
            if name not in tensors:
                shape = [dim for dim in shapes[name] or [] if isinstance(dim, int)]
                tensors[name] = Tensor(dtypes[name], shape)
                if name in metadata.stored:
                    file.read(name, tensors[name].array)
        self.fixed = {name: tensor for name, tensor in tensors.items() if name in inputs and name not in metadata.fed}
        self.loss: Tensor | None = None
        if metadata.loss:
            self.loss = Tensor(numpy_dtype(outputs[metadata.loss].type.tensor_type.elem_type), [])
        self._names = [given.name for given in self.given.inputs]
        self.memory = self.make_memory({name: tensors[name] for name in metadata.fed})

    def make_memory(self, current: Mapping[str, Tensor]) -> Memory:
        """Return memory that starts with these tensors, bound to the session."""
        others = {
            name: Tensor(tensor.array.dtype, tensor.array.shape) if name in self.two_buffers else tensor
            for name, tensor in current.items()
        }
        memory = Memory(current, others)
        outputs = {self.metadata.loss: self.loss} if self.loss else {}
        memory.bind(self.session, self.metadata.feeds, self.fixed, outputs)
        memory.set_runs([self._run_of(binding) for binding in memory.bindings])
        return memory

    def run(self, arrays: Sequence[Array]) -> None:
        """Run with the user's arrays, which were checked. Raises: what onnxruntime or a kernel raises."""
        memory = self.memory
        give = memory.give[memory.turn]
        for name, array in zip(self._names, arrays, strict=True):
            give(name, array)
        self._held = arrays  # onnxruntime reads their own memory
        memory.run()

    def check_usable(self) -> None:
        """Raise UnusableError if a run failed and may have left a half of a step; otherwise forget that it failed."""
        if self.memory.has_failed:
            if self.memory.has_in_place:
                raise UnusableError(f"a step failed in onnxruntime; {_HALF}")
            self.memory.forget_failure()

    def failure(self, error: Exception) -> Exception:
        """Return the error to raise for one of a run, after deciding whether the state is whole."""
        if not self.memory.has_in_place:
            self.memory.forget_failure()
        if not is_of_onnxruntime(error, self.has_python_kernels):
            return error
        what = f"the step failed in onnxruntime: {first_line(error)}"
        if self.memory.has_failed:
            return UnusableError(f"{what}; {_HALF}")
        return TrainingError(f"{what}; the state is that of the step before")

    def read_loss(self) -> float:
        """Return the loss of the last run."""
        assert self.loss is not None
        return float(self.loss.array)

    def _run_of(self, binding: Any) -> Callable[[], Any]:
        if self.has_python_kernels:
            return partial(self.session.run_with_iobinding, binding)
        return direct_run(self.session, binding)


def _elementwise() -> dict[tuple[str, str], bool]:
    """Return every operator's domain and name, and whether its kernels compute element by element."""
    found: dict[tuple[str, str], bool] = {}
    for kit in registry.kits():
        key = kit.operator.domain, kit.operator.name
        found[key] = found.get(key, True) and kit.is_elementwise
    return found
