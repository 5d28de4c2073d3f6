"""Compare what a graph gives in onnxruntime, and what torch gives, with the graph's exact values in float64.

Each must be within the bound of the whole graph at this input (`ort_ops.analysis.float64_run`), and so they are within
twice that of each other. A bound that is larger than the values proves nothing: such a quantity counts as proved only
if another trial has a better bound. There is one exception. A gradient may be 0 but for rounding, as that of a bias
before a batch norm is; then its exact value is not larger than the errors that float64 itself makes, and the bound,
which comes from the terms that cancel, says how far from 0 it may be.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from exporter.errors import ExportError
from exporter.to_onnx.checks.agreement import root_cause
from exporter.training_step.check.randomness import keep_all
from ort_ops.analysis.evaluation import Value
from ort_ops.analysis.float64_run import Float64Run
from ort_ops.errors import MylinearError
from ort_ops.models.graphs import needed_nodes
from ort_ops.models.nodes import operator_nodes
from ort_ops.numerics.compare import Comparison
from ort_ops.session import InferenceSession

Array = NDArray[Any]


class GraphCheck:
    """A graph that is being compared with torch, trial by trial."""

    def __init__(self, model: onnx.ModelProto, words: Mapping[str, str], shown: onnx.ModelProto | None = None) -> None:
        """Open the graph in onnxruntime and in float64.

        Args:
            model: as it will be written.
            words: what to compare: the name of each output, and what it is called in errors, in the order in which
                they are compared.
            shown: the same graph with more outputs; None for none.

        Raises: ExportError for a graph that onnxruntime does not run.
        """
        self._words = dict(words)
        shown = keep_all(model if shown is None else shown)
        self._exact = Float64Run(shown)
        own = {output.name for output in model.graph.output}
        more = [name for name in words if name not in own]
        self._sessions = [(_open(keep_all(model)), [name for name in words if name in own])]
        if more:
            self._sessions.append((_open(shown), more))
        self._worst: dict[str, Comparison] = {}
        self._proved: set[str] = set()

    @property
    def is_proved(self) -> bool:
        """Whether the trials that prove something did so for every quantity."""
        return self._proved == set(self._words)

    def trial(self, what: str, feed: Mapping[str, Array], expected: Mapping[str, Array], *, proves: bool) -> None:
        """Run the graph, and compare.

        Args:
            what: the trial in words, for errors: ``a batch of 7``.
            feed: by input.
            expected: what torch gives, by output.
            proves: whether a quantity that is right here counts as proved.

        Raises: ExportError naming the first quantity that is wrong.
        """
        got: dict[str, Array] = {}
        for session, names in self._sessions:
            try:
                got |= dict(zip(names, session.run(names, dict(feed)), strict=True))
            except Exception as error:
                raise ExportError(f"onnxruntime does not run the file on {what}: {root_cause(error)}") from error
        try:
            exact = self._exact(feed).outputs
        except MylinearError as error:
            raise ExportError(f"the file cannot be compared with torch on {what}: {error}") from error
        for name, word in self._words.items():
            value = exact[name].relaxed
            for runtime, array in (("torch", expected[name]), ("onnxruntime", got[name])):
                comparison = value.compare(array)
                if not comparison.is_within_bound:
                    raise ExportError(
                        f"{runtime}'s {word} is not what the exported graph gives in float64, on {what}: "
                        f"{comparison.complaint}"
                    )
                if name not in self._worst or comparison.distance >= self._worst[name].distance:
                    self._worst[name] = comparison
            if proves and _can_prove(value):
                self._proved.add(name)

    def finish(self) -> dict[str, Comparison]:
        """Return the worst comparison of each quantity, after the last trial.

        Raises: ExportError naming the first quantity that no trial has a bound for.
        """
        for name, word in self._words.items():
            if name not in self._proved:
                raise ExportError(
                    f"the {word} cannot be compared with torch: rounding errors may be larger than its values, or turn "
                    f"the decisions that it hangs on, or it is not a number ({self._worst[name].text}); export in "
                    "float64, with an example that gives numbers"
                )
        return self._worst


def _can_prove(value: Value) -> bool:
    """Whether any element is a number with a bound, or there is none. What is NaN everywhere proves nothing."""
    is_free = np.isinf(value.error) | (False if value.undecided is None else value.undecided)
    return not value.exact.size or bool((np.isfinite(value.exact) & ~is_free).any())


def _open(model: onnx.ModelProto) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    kernels = "body" if all(found.operator.make_body is not None for found in operator_nodes(model)) else "auto"
    try:
        return InferenceSession(model.SerializeToString(), options, kernels=kernels)
    except Exception as error:
        raise ExportError(
            f"onnxruntime {onnxruntime.__version__} cannot run the exported step: {root_cause(error)}"
        ) from error


def without_outputs(model: onnx.ModelProto, names: set[str]) -> onnx.ModelProto:
    """Return a copy of a model without some outputs, and without the nodes that only they need."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    outputs = [output for output in graph.output if output.name not in names]
    kept = onnx.GraphProto(output=outputs, node=needed_nodes(graph.node, (output.name for output in outputs)))
    del graph.output[:], graph.node[:]
    graph.output.extend(kept.output)
    graph.node.extend(kept.node)
    return copy
