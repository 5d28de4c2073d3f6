"""ADAMSTEP: the same bits by every kernel and instruction set, a bound that finds mistakes, and updates in place."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from exporter.operators.adamstep.kit import compute
from ort_ops import InferenceSession
from ort_ops.analysis.float64_run import Float64Run
from ort_ops.native import library
from ort_ops.numerics.bound import ROUNDED
from ort_ops.numerics.compare import compare
from ort_ops.opdef.call import Call, make_call
from ort_ops.opdef.element_types import ELEMENT_TYPES
from ort_ops.operators.adamstep.contract import ADAMSTEP
from ort_ops.operators.adamstep.kit import KIT
from ort_ops.training.graph.in_place import unsafe_states
from tests.every_operator import feed_of, one_node, run_call, sample_calls

Array = NDArray[Any]
T = "T"
CPP = pytest.param("cpp", marks=pytest.mark.skipif(not library.status().is_usable, reason=str(library.status().reason)))


def calls(name: str) -> list[Call]:
    return sample_calls(KIT, {T: ELEMENT_TYPES[name]})


def usual(name: str = "float32", scalars: tuple[float, ...] = (3, 1e-2, 0.9, 0.999, 1e-8, 0.01)) -> Call:
    rng = np.random.default_rng(1)
    arrays = [rng.uniform(-1, 1, (7, 9)).astype(name) for _ in range(4)]
    arrays[3] = abs(arrays[3])
    step, *others = scalars
    return make_call(ADAMSTEP, [*arrays, np.array(step, np.int64), *map(np.asarray, others)])


@pytest.mark.parametrize("name", ["float64", "float32"])
@pytest.mark.parametrize("kernels", ["body", CPP])
def test_every_kernel_has_the_bits_of_numpy(kernels: str, name: str) -> None:
    for call in calls(name):
        for got, expected in zip(run_call(call, kernels), run_call(call, "python"), strict=True):
            np.testing.assert_array_equal(got, expected, call.label)


@pytest.mark.native
@pytest.mark.skipif(not library.status().is_usable, reason=str(library.status().reason))
def test_every_instruction_set_has_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for isa in library.describe(library.library_path(), "mylinear_describe")["usable"]:
        monkeypatch.setenv("MYLINEAR_ISA", isa)
        found[isa] = [run_call(call, "cpp") for name in ("float64", "float32") for call in calls(name)]
    expected = found.pop("baseline")
    for isa, results in found.items():
        for got, wanted in zip(results, expected, strict=True):
            for a, b in zip(got, wanted, strict=True):
                np.testing.assert_array_equal(a, b, isa)


@pytest.mark.parametrize("name", ["float64", "float32"])
def test_torch_s_own_step_is_within_the_bound(name: str) -> None:
    """Also that of a torch.optim.AdamW that has done two steps before."""
    call = usual(name)
    p, g, m, v = (torch.from_numpy(np.array(array)) for array in call.arrays[:4])
    parameter = torch.nn.Parameter(p.clone())
    optimizer = torch.optim.AdamW([parameter], lr=1e-2, foreach=False)
    parameter.grad = g
    optimizer.state[parameter] = {"step": torch.tensor(2.0), "exp_avg": m.clone(), "exp_avg_sq": v.clone()}
    optimizer.step()
    state = optimizer.state[parameter]
    of_torch = [parameter.detach(), state["exp_avg"], state["exp_avg_sq"]]
    of_op = compute(*(torch.from_numpy(np.array(array)) for array in call.arrays))
    assert_right(call, [tensor.numpy() for tensor in of_torch])
    assert_right(call, [tensor.numpy() for tensor in of_op])


def complaints(call: Call, results: list[Array]) -> list[str]:
    pairs = zip(results, KIT.reference(call), KIT.bound(call, ROUNDED), strict=True)
    found = [compare(got, exact, bound, call.element_type) for got, exact, bound in pairs]
    return [outcome.complaint for outcome in found if outcome.complaint is not None]


def assert_right(call: Call, results: list[Array]) -> None:
    assert complaints(call, results) == []


def wrong(**changed: Callable[[Array], Any]) -> Callable[[Call], list[Array]]:
    """Return a step whose named inputs are changed first."""

    def run(call: Call) -> list[Array]:
        names = [parameter.argument for parameter in ADAMSTEP.inputs]
        arrays = [changed.get(n, lambda a: a)(a) for n, a in zip(names, call.arrays, strict=True)]
        return [tensor.numpy() for tensor in compute(*(torch.from_numpy(np.asarray(array)) for array in arrays))]

    return run


def eps_inside_the_root(call: Call) -> list[Array]:
    p, m, v = wrong()(call)
    old, eps, root = call.arrays[0], call.arrays[8], np.sqrt(1 - 0.999**3)
    kept = old * p.dtype.type(1 - 1e-4)
    moved = m * p.dtype.type(1e-2 / (1 - 0.9**3)) / (np.sqrt(v + p.dtype.type(eps)) / p.dtype.type(root))
    return [np.asarray(kept - moved, p.dtype), m, v]


MUTANTS = {
    "the step before": wrong(step=lambda step: step - 1),
    "no weight decay": wrong(weight_decay=lambda value: value * 0),
    "a beta in float32": wrong(beta2=lambda value: np.float64(np.float32(value))),
    "a learning rate in float32": wrong(lr=lambda value: np.float64(np.float32(value) * (1 + 1e-6))),
    "no eps": wrong(eps=lambda value: value * 0),
    "eps inside the root": eps_inside_the_root,
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_bound_finds_mistakes(mutant: str) -> None:
    call = usual("float64")
    assert_right(call, wrong()(call))
    assert complaints(call, MUTANTS[mutant](call))


BROKEN = [
    (1, np.zeros(3, np.float32), "grad must be [7, 9], the shape of parameter, got [3]"),
    (3, np.zeros((9, 7), np.float32), "exp_avg_sq must be [7, 9], the shape of parameter, got [9, 7]"),
    (4, np.zeros(1, np.int64), "step must be a scalar, got [1]"),
    (9, np.zeros((2, 1)), "weight_decay must be a scalar, got [2, 1]"),
]


@pytest.mark.parametrize(
    ("index", "array", "message"), BROKEN, ids=lambda value: value if isinstance(value, str) else ""
)
@pytest.mark.parametrize("kernels", ["python", CPP])
def test_shapes_are_refused_in_the_words_of_the_contract(kernels: str, index: int, array: Array, message: str) -> None:
    call = usual()
    arrays = list(call.arrays)
    arrays[index] = array
    with pytest.raises(ValueError, match=rf"ADAMSTEP: {message}".replace("[", r"\[")):
        ADAMSTEP.check_arguments([a.shape for a in arrays if a is not None], [str(a.dtype) for a in arrays])
    model = one_node(call)
    for value in model.graph.input:  # nothing is known when the session is made
        value.type.tensor_type.ClearField("shape")
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    feed = dict(zip(feed_of(call, model), arrays, strict=True))
    session = InferenceSession(model.SerializeToString(), kernels=kernels)
    with pytest.raises(Exception, match=rf"ADAMSTEP: {message}".replace("[", r"\[")):
        session.run(None, feed)


@pytest.mark.native
@pytest.mark.skipif(not library.status().is_usable, reason=str(library.status().reason))
def test_outputs_may_be_the_inputs_own_memory() -> None:
    """What `is_elementwise` promises; also where threads share the work."""
    import onnxruntime

    rng = np.random.default_rng(0)
    arrays = [rng.uniform(0, 1, 40_000).astype(np.float32) for _ in range(4)]
    call = make_call(ADAMSTEP, [*arrays, np.array(1, np.int64), *map(np.asarray, (0.1, 0.9, 0.99, 1e-8, 0.1))])
    expected = run_call(call, "cpp")
    model = one_node(call)
    session = InferenceSession(model.SerializeToString(), kernels="cpp")
    binding = session.io_binding()
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in feed_of(call, model).items()}
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    states = ("parameter", "exp_avg", "exp_avg_sq")
    for output, state in zip(model.graph.output, states, strict=True):
        binding.bind_ortvalue_output(output.name, values[state])
    session.run_with_iobinding(binding)
    for state, wanted in zip(states, expected, strict=True):
        np.testing.assert_array_equal(values[state].numpy(), wanted)


def test_a_state_is_overwritten_in_place_only_where_nothing_reads_it_later() -> None:
    names = [p.name for p in ADAMSTEP.inputs]
    step = helper.make_node("ADAMSTEP", names, ["PN", "MN", "VN"], domain=ADAMSTEP.domain)
    late = helper.make_node("Mul", ["M", "PN"], ["late"])
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
    feeds = {"PN": "P", "MN": "M", "VN": "V"}
    operators = {(ADAMSTEP.domain, ADAMSTEP.name): True}

    def unsafe(nodes: list[onnx.NodeProto], known: dict[tuple[str, str], bool] = operators) -> set[str]:
        return set(unsafe_states(helper.make_graph(nodes, "g", inputs, []), feeds, known))

    assert unsafe([step]) == set()
    assert unsafe([step, late]) == {"M"}
    assert unsafe([step], {(ADAMSTEP.domain, ADAMSTEP.name): False}) == {"P", "M", "V"}


@pytest.mark.native
@pytest.mark.skipif(not library.status().is_usable, reason=str(library.status().reason))
def test_threads_may_call_one_session() -> None:
    model = one_node(usual())
    session = InferenceSession(model.SerializeToString(), kernels="cpp")
    feed = feed_of(usual(), model)
    expected = session.run(None, feed)
    wrong_results: list[Array] = []

    def run() -> None:
        for _ in range(50):
            for got, wanted in zip(session.run(None, feed), expected, strict=True):
                if not np.array_equal(got, wanted):
                    wrong_results.append(got)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong_results


def test_a_parameter_without_dimensions_has_its_bound() -> None:
    tensors = [np.array(number, np.float64) for number in (1, 2, 3, 4)]
    call = make_call(ADAMSTEP, [*tensors, *usual("float64").arrays[4:]])
    model = one_node(call)
    exact = Float64Run(model)(feed_of(call, model)).outputs
    for value, got in zip(exact.values(), run_call(call, "python"), strict=True):
        assert value.compare(got).is_within_bound
