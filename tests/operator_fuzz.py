"""Feed mutated models of any operator to a session; each must end in an error or a right result.

    python tests/operator_fuzz.py                                # 2,000 tries over all registered operators
    python tests/operator_fuzz.py --kit package.module:KIT       # with one more
    python tests/operator_fuzz.py --first 4711 --tries 1         # one of them again, in this process

A try is its number: it seeds the operator, its call (one of the kit's samples), what the model stores, the kernel, the
mutations and the inputs. Tries run in child processes, as in ``native_fuzz.py``. Where a mutated model still runs and
still is one node of the operator, its result is compared with the reference, within the bound.
"""

from __future__ import annotations

import argparse
import collections
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

import onnxruntime  # noqa: E402

from ort_ops.models.checks import function_difference  # noqa: E402
from ort_ops.models.nodes import operator_nodes  # noqa: E402
from ort_ops.opdef import registry  # noqa: E402
from ort_ops.opdef.call import Call, make_call  # noqa: E402
from ort_ops.opdef.kit import OperatorKit  # noqa: E402
from ort_ops.opdef.onnx_objects import node_attributes  # noqa: E402
from ort_ops.opdef.operator import ContractError  # noqa: E402
from ort_ops.session import InferenceSession  # noqa: E402
from tests.every_operator import combinations, complaints, kernels_of, one_node, sample_calls  # noqa: E402
from tests.fuzz_children import fuzz_in_children, limit_child, run_tries  # noqa: E402
from tests.native_fuzz import mutate_bytes, mutate_proto  # noqa: E402

Array = NDArray[Any]
BATCH = 250


def sample_model(rng: np.random.Generator, kits: list[OperatorKit]) -> tuple[OperatorKit, Call, onnx.ModelProto, str]:
    """Draw an operator, a call of it, a right model of one node for that, and a kernel."""
    kit = kits[int(rng.integers(len(kits)))]
    types = combinations(kit)
    found = sample_calls(kit, types[int(rng.integers(len(types)))], seed=int(rng.integers(1000)))
    call = found[int(rng.integers(len(found)))]
    stored = [index for index in range(len(kit.operator.inputs)) if rng.random() < 0.5]
    outputs = [not output.is_optional or bool(rng.random() < 0.7) for output in kit.operator.outputs]
    outputs[0] |= not any(outputs)
    kernels = str(rng.choice(kernels_of(kit)))
    model = one_node(call, stored=stored, outputs=outputs, with_function=kernels == "body" or bool(rng.random() < 0.3))
    if rng.random() < 0.5:  # then the kernel itself has to refuse wrong shapes
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.ClearField("shape")
    return kit, call, model, kernels


def mutate_own(model: onnx.ModelProto, kit: OperatorKit, rng: np.random.Generator) -> None:
    """Change something that is this operator's own: an attribute's value or kind, the order of inputs, an input."""
    node = model.graph.node[-1]
    change = int(rng.integers(4))
    if change == 0 and kit.operator.attributes:
        chosen = kit.operator.attributes[int(rng.integers(len(kit.operator.attributes)))]
        values: list[Any] = [0.0, -1.5, 1e30, float("nan"), 3, "text", [0.5], b"\xff"]
        kept = [a for a in node.attribute if a.name != chosen.name]
        del node.attribute[:]
        value = values[int(rng.integers(len(values)))]
        node.attribute.extend([*kept, onnx.helper.make_attribute(chosen.name, value)])
    elif change == 1:
        names = [str(name) for name in rng.permutation(list(node.input))]
        del node.input[:]
        node.input.extend(names)
    elif change == 2 and node.input:
        node.input[int(rng.integers(len(node.input)))] = ""
    elif node.output:
        node.output[int(rng.integers(len(node.output)))] = str(rng.choice(["", "another"]))


def feeds_for(session: InferenceSession, call: Call, rng: np.random.Generator) -> dict[str, Array]:
    """Return the call's arrays by name, and drawn ones for inputs of another name; sometimes of other shapes."""
    named = zip(call.operator.inputs, call.arrays, strict=True)
    arrays = {parameter.argument: array for parameter, array in named if array is not None}
    feeds = {}
    for entry in session.get_inputs():
        shape = [dim if isinstance(dim, int) and 0 <= dim < 100 else int(rng.integers(5)) for dim in entry.shape]
        array = arrays.get(entry.name, rng.standard_normal(shape).astype(np.float32))
        feeds[entry.name] = array[:-1] if array.ndim and rng.random() < 0.1 else array
    return feeds


def wrongness(data: bytes, feeds: dict[str, Array], results: dict[str, Array], kernels: str) -> str | None:
    """Say what is wrong with results, or return None; "unchecked" where the model is not the operator alone."""
    model = onnx.load_from_string(data)
    nodes = operator_nodes(model)
    if len(nodes) != 1 or len(model.graph.node) != 1:
        return "unchecked"
    node, kit = nodes[0].node, nodes[0].kit
    if kernels == "body" and function_difference(model) is not None:
        return "unchecked"
    known: dict[str, Array | None] = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    known = {"": None, **known, **feeds}
    if any(name not in known for name in node.input):
        return "unchecked"
    try:
        inputs = [known[name] for name in node.input]
        inputs += [None] * (len(kit.operator.inputs) - len(inputs))
        call = make_call(kit.operator, inputs, node_attributes(kit.operator, node), "mutated")
        kit.operator.check_arguments(
            [None if a is None else [*a.shape] for a in inputs],
            [None if a is None else a.dtype.name for a in inputs],
            call.attributes,
        )
    except ContractError as complaint:
        if kernels == "body":  # standard operators broadcast where the contract does not
            return "unchecked"
        return f"accepted in spite of: {complaint}"
    names = [*node.output, *[""] * (len(kit.operator.outputs) - len(node.output))]
    return "; ".join(complaints(kit, call, [results.get(name) for name in names])) or None


def attempt(number: int, kits: list[OperatorKit]) -> str:
    """Run one try: ``error`` (refused), ``right``, ``unchecked``, or ``WRONG: ...``."""
    rng = np.random.default_rng([number, 21])
    kit, call, model, kernels = sample_model(rng, kits)
    is_bytes = rng.random() < 0.25
    try:
        for _ in range(0 if is_bytes or rng.random() < 0.3 else int(rng.integers(1, 3))):
            mutate_own(model, kit, rng) if rng.random() < 0.4 else mutate_proto(model, rng)
        data = mutate_bytes(model.SerializeToString(), rng) if is_bytes else model.SerializeToString()
    except Exception:
        return "error"  # protobuf itself refuses to write it
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = InferenceSession(data, options, kernels=kernels)
        feeds = feeds_for(session, call, rng)
        results = dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))
    except Exception:
        return "error"
    try:
        wrong = wrongness(data, feeds, results, kernels)
    except Exception as problem:  # what onnx reads otherwise than onnxruntime cannot be checked here
        return f"unchecked ({type(problem).__name__})"
    return "right" if wrong is None else wrong if wrong == "unchecked" else f"WRONG: {kernels}: {wrong}"


def load_kits(names: list[str]) -> list[OperatorKit]:
    """Register the kits that are named ``module:attribute``; return all that are registered, or these alone."""
    added = []
    for name in names:
        module, _, attribute = name.partition(":")
        added.append(getattr(import_module(module), attribute))
        registry.add(added[-1])
    return added or list(registry.kits())


def run_child(first: int, tries: int, names: list[str]) -> int:
    """Run tries one by one, saying which before each and its outcome behind."""
    limit_child()
    kits = load_kits(names)
    return run_tries(lambda number: attempt(number, kits), first, tries)


def fuzz(tries: int, first: int = 0, kits: tuple[str, ...] = ()) -> tuple[collections.Counter[str], list[str]]:
    """Run tries in children; return the outcomes' counts, and crashes and wrong results with their numbers."""
    return fuzz_in_children(__file__, tries, first, BATCH, [part for kit in kits for part in ("--kit", kit)])


def main() -> int:
    """Parse the command line, run, and print what came of it."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="number of the first try")
    parser.add_argument("--kit", action="append", default=[], help="module:attribute of an OperatorKit; that one alone")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child or arguments.tries == 1:
        return run_child(arguments.first, arguments.tries, arguments.kit)
    outcomes, faults = fuzz(arguments.tries, arguments.first, tuple(arguments.kit))
    print(f"{arguments.tries} tries: {dict(outcomes)}")
    print("\n".join(faults))
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
