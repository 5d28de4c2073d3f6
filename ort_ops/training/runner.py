"""One training file in an onnxruntime session, with its state in memory that the session reads and writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import onnxruntime
from numpy.typing import NDArray
from packaging.version import Version

from ort_ops.files.atomic import temporary_folder
from ort_ops.files.inputs import first_line
from ort_ops.models.files import look_at_model
from ort_ops.models.graphs import declared_shape
from ort_ops.opdef import registry
from ort_ops.session import InferenceSession
from ort_ops.training.errors import TrainingError
from ort_ops.training.given import Given, GivenInputs
from ort_ops.training.in_place import unsafe_states
from ort_ops.training.memory import Memory, Tensor, direct_run
from ort_ops.training.session_model import make_session_model
from ort_ops.training.training_file import TrainingFile, numpy_dtype

Array = NDArray[Any]

_HAS_DOUBLE_FUSED_MATMUL = Version("1.18")  # tried with 1.17.3, which has not, and 1.18.1, which has
_SILENT = 3  # the level of errors: onnxruntime warns of the file that shows what its optimizer made


class Runner:
    """A session of a training file, and the state that it changes.

    Attributes:
        metadata: of the file.
        memory: the state that a run changes.
        fixed: what a run reads alone, such as the learning rate, by name.
        given: the inputs that the user gives.
        loss: the tensor that a run writes the loss to, or None.
        two_buffers: the states that are not overwritten in place, each with the reason.
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
        self.has_python_kernels = any(provider.name == "python" for provider in plan.providers.values())
        if self.has_python_kernels or plan.python_domains:
            reason = reason or "a kernel in Python may fail half-way"
        is_old = Version(onnxruntime.__version__) < _HAS_DOUBLE_FUSED_MATMUL
        more = {"disabled_optimizers": ["MatmulTransposeFusion"]} if is_old else {}
        self.session, final = _open(model.SerializeToString(), options, kernels, not reason, more)
        self.kernels = self.session.kernels
        if final is None:
            self.two_buffers = dict.fromkeys(metadata.fed, reason)
        else:
            self.two_buffers = unsafe_states(final, metadata.feeds, registry.names())
        del model, final
        tensors = dict(shared or {})
        for name in (*metadata.stored, *metadata.gradients, *filter(None, [metadata.count])):
            if name not in tensors:
                shape = [dim for dim in shapes[name] or [] if isinstance(dim, int)]
                tensors[name] = Tensor(dtypes[name], shape)
                if name in metadata.stored:
                    file.read(name, tensors[name].array)
        others = {
            name: Tensor(tensors[name].array.dtype, tensors[name].array.shape)
            if name in self.two_buffers
            else tensors[name]
            for name in metadata.fed
        }
        self.memory = Memory({name: tensors[name] for name in metadata.fed}, others)
        self.fixed = {name: tensor for name, tensor in tensors.items() if name in inputs and name not in metadata.fed}
        self.loss: Tensor | None = None
        if metadata.loss:
            loss_type = numpy_dtype(outputs[metadata.loss].type.tensor_type.elem_type)
            self.loss = Tensor(loss_type, [])
        self.bindings = self.memory.bind(
            self.session, metadata.feeds, self.fixed, {metadata.loss: self.loss} if self.loss else {}
        )
        self.memory.set_runs([self._run_of(binding) for binding in self.bindings])
        self._binders = tuple(binding._iobinding.bind_input for binding in self.bindings)
        self._names = [given.name for given in self.given.inputs]

    def run(self, arrays: Sequence[Array]) -> None:
        """Run with the user's arrays, which were checked. Raises: what onnxruntime or a kernel raises."""
        bind = self._binders[self.memory.turn]
        for name, array in zip(self._names, arrays, strict=True):
            bind(name, array)
        self._held = arrays  # onnxruntime reads their own memory
        self.memory.run()

    def read_loss(self) -> float:
        """Return the loss of the last run."""
        assert self.loss is not None
        return float(self.loss.array)

    def _run_of(self, binding: Any) -> Callable[[], Any]:
        if self.has_python_kernels:
            return partial(self.session.run_with_iobinding, binding)
        return direct_run(self.session, binding)


def _open(
    model: bytes, options: onnxruntime.SessionOptions, kernels: str, with_graph: bool, more: Mapping[str, Any]
) -> tuple[InferenceSession, Any]:
    """Open a session; return it with the graph that its optimizer made of the model, if that is wanted."""
    try:
        if not with_graph:
            return InferenceSession(model, options, kernels=kernels, **more), None
        path, level = options.optimized_model_filepath, options.log_severity_level
        with temporary_folder() as folder:
            options.optimized_model_filepath = str(folder / "optimized.onnx")
            options.log_severity_level = max(level, _SILENT)
            try:
                session = InferenceSession(model, options, kernels=kernels, **more)
            finally:
                options.optimized_model_filepath, options.log_severity_level = path, level
            return session, look_at_model(folder / "optimized.onnx", for_session=True).graph
    except Exception as error:
        if not type(error).__module__.startswith("onnxruntime"):
            raise
        raise TrainingError(
            f"onnxruntime {onnxruntime.__version__} cannot run the step: {first_line(error)}"
        ) from error
