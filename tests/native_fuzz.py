"""Feed mutated model files to onnxruntime with the C++ kernels; each must end in an error or a right result.

    python tests/native_fuzz.py                          # 10,000 tries
    python tests/native_fuzz.py --first 4711 --tries 1   # one of them again, in this process

A try is its number: it seeds the model, its mutations and its inputs. Tries run in child processes that say which
one they are at; when a child dies, the parent notes the crash and goes on behind it. Mutations are of the protobuf
(attributes, shapes, types, names, opsets, inputs, data of the wrong size) and of the bytes (truncated, flipped,
inserted, removed). Where a mutated model still runs, its result is compared with the reference.
"""

from __future__ import annotations

import argparse
import collections
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from ort_ops.opdef.operator import ContractError  # noqa: E402
from ort_ops.operators.mylinear.contract import DOMAIN, MYLINEAR, NAME  # noqa: E402
from tests.fuzz_children import fuzz_in_children, limit_child, run_tries  # noqa: E402
from tests.native_support import (  # noqa: E402
    DTYPES,
    Array,
    error_in_bounds,
    one_node_model,
    session,
    session_options,
)

TRIES = 10_000
BATCH = 500


def sample_model(rng: np.random.Generator) -> onnx.ModelProto:
    """Draw a right model of one node."""
    dtype = str(rng.choice(list(DTYPES)))
    rank = int(rng.integers(1, 4))
    out_features, in_features = (int(size) for size in rng.integers(0, 40, 2))
    arrays = {
        "W": rng.standard_normal((out_features, in_features)).astype(DTYPES[dtype]),
        "B": rng.standard_normal(out_features).astype(DTYPES[dtype]),
    }
    has_bias = bool(rng.random() < 0.7)
    kept = {name: array for name, array in arrays.items() if rng.random() < 0.7 and (name == "W" or has_bias)}
    return one_node_model(dtype, rank, kept, has_bias)


def mutate_proto(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """Change one thing in a model."""
    graph = model.graph
    node = graph.node[int(rng.integers(len(graph.node)))]
    odd_type = int(rng.choice([0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 14, 16, 17, 20, 23, 99]))
    odd_size = int(rng.choice([-1, 0, 1, 2, 3, 17, 2**31, 2**40, 2**62, 2**63 - 1]))

    def attribute() -> None:
        name = str(rng.choice(["alpha", "beta", "transA", "transB", "axis", "to", "", "bias", "alpha"]))
        values: list[Any] = [1, -(2**63), 0.5, float("nan"), "text", b"\xff", [1, 2], [0.5], ["a"]]
        values.append(numpy_helper.from_array(np.zeros((2, 2))))
        node.attribute.append(helper.make_attribute(name, values[int(rng.integers(len(values)))]))

    def drop_attribute() -> None:
        del node.attribute[:]

    def inputs() -> None:
        change = int(rng.integers(6))
        if change == 0 and node.input:
            del node.input[int(rng.integers(len(node.input))) :]
        elif change == 1:
            node.input.append(str(rng.choice(["", "X", "W", "B", "nowhere"])))
        elif node.input:
            name = str(rng.choice(["", "X", "W", "B", "Y", "nowhere"]))
            node.input[int(rng.integers(len(node.input)))] = name

    def outputs() -> None:
        node.output.append(str(rng.choice(["", "Y", "Z"]))) if rng.random() < 0.5 else node.output.pop()

    def operator() -> None:
        choices = [(NAME, ""), (NAME, DOMAIN + "2"), ("MyLinear", DOMAIN), ("Gemm", ""), (NAME, "ai.onnx"), ("", "")]
        node.op_type, node.domain = choices[int(rng.integers(len(choices)))]

    def opset() -> None:
        entry = model.opset_import[int(rng.integers(len(model.opset_import)))]
        entry.version = int(rng.choice([-1, 0, 1, 2, 7, 13, 99, 2**62]))

    def initializer() -> None:
        if not graph.initializer:
            return
        tensor = graph.initializer[int(rng.integers(len(graph.initializer)))]
        change = int(rng.integers(6))
        if change == 0:
            tensor.data_type = odd_type
        elif change == 1 and tensor.dims:
            tensor.dims[int(rng.integers(len(tensor.dims)))] = odd_size
        elif change == 2:
            tensor.dims.append(odd_size)
        elif change == 3 and tensor.dims:
            del tensor.dims[-1]
        elif change == 4:
            tensor.raw_data = tensor.raw_data[: int(rng.integers(len(tensor.raw_data) + 1))]
        else:  # another shape with data to fit, so that the shape rule is what refuses it
            array = rng.standard_normal(tuple(rng.integers(0, 6, int(rng.integers(4)))))
            fitting = array.astype(DTYPES[str(rng.choice(list(DTYPES)))])
            tensor.CopyFrom(numpy_helper.from_array(fitting, tensor.name))

    def declaration() -> None:
        values = [*graph.input, *graph.output]
        entry = values[int(rng.integers(len(values)))].type.tensor_type
        change = int(rng.integers(4))
        if change == 0:
            entry.elem_type = odd_type
        elif change == 1:
            entry.ClearField("shape")
        elif change == 2:
            entry.shape.dim.add().dim_value = odd_size
        elif entry.shape.dim:
            entry.shape.dim[int(rng.integers(len(entry.shape.dim)))].dim_value = odd_size

    def duplicate() -> None:
        copy = graph.node.add()
        copy.CopyFrom(node)
        if rng.random() < 0.5:
            copy.output[0] += "_copy"

    def version() -> None:
        model.ir_version = int(rng.choice([0, 3, 4, 8, 10, 13, 99]))

    def external() -> None:
        if graph.initializer:
            tensor = graph.initializer[0]
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=str(rng.choice(["missing.bin", "", "/dev/null", "../x"])))

    changes = [attribute, drop_attribute, inputs, outputs, operator, opset, initializer, initializer, declaration]
    changes += [declaration, duplicate, version, external]
    changes[int(rng.integers(len(changes)))]()


def mutate_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """Change some bytes of a model file."""
    change = int(rng.integers(4))
    position = int(rng.integers(len(data) + 1)) if data else 0
    if change == 0:
        return data[:position]
    if change == 1:
        return data[:position] + rng.bytes(int(rng.integers(1, 9))) + data[position:]
    if change == 2:
        return data[:position] + data[position + int(rng.integers(1, 9)) :]
    flipped = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        if flipped:
            flipped[int(rng.integers(len(flipped)))] ^= 1 << int(rng.integers(8))
    return bytes(flipped)


def sample_feeds(opened: Any, rng: np.random.Generator) -> dict[str, Array]:
    """Draw inputs that fit what a session declares, mostly."""
    types = {"tensor(double)": np.float64, "tensor(float)": np.float32, "tensor(float16)": np.float16}
    sizes = rng.integers(0, 7, 8)
    feeds = {}
    for entry in opened.get_inputs():
        shape = [dim if isinstance(dim, int) and 0 <= dim < 1000 else int(rng.choice(sizes)) for dim in entry.shape]
        weights = [i for i in opened.get_inputs() if i.name.startswith("W")]
        if entry.name.startswith("X") and not weights and rng.random() < 0.9:
            shape[-1:] = [WIDTH.get() or shape[-1]] if shape else []
        feeds[entry.name] = rng.standard_normal(shape).astype(types.get(entry.type, np.float32))
    return feeds


class Width:
    """The number of columns of the model's constant weight, so that most inputs fit it."""

    def __init__(self) -> None:
        self._value = 0

    def set(self, model: onnx.ModelProto) -> None:
        """Remember that of a model."""
        shapes = [list(tensor.dims) for tensor in model.graph.initializer if tensor.name == "W"]
        self._value = shapes[0][1] if shapes and len(shapes[0]) == 2 and 0 <= shapes[0][1] < 1000 else 0

    def get(self) -> int:
        """Return it; 0 for none."""
        return self._value


WIDTH = Width()


def wrongness(data: bytes, feeds: dict[str, Array], outputs: list[str], results: list[Array]) -> str | None:
    """Say what is wrong with results, or return None; "unchecked" where the model does other things too."""
    graph = onnx.load_from_string(data).graph
    values: dict[str, Array] = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer} | feeds
    known = {"": None, **values}
    for node in graph.node:
        if any(name not in known for name in node.input) or not node.output:
            return "unchecked"
        arguments = [known[name] for name in node.input]
        if node.op_type == "Cast" and node.domain == "" and len(node.attribute) == 1:
            onnx_type = node.attribute[0].i
            dtype: Any = helper.tensor_dtype_to_np_dtype(onnx_type)
            if arguments[0] is None:
                return "unchecked"
            known[node.output[0]] = arguments[0].astype(dtype)
        elif node.op_type == NAME and node.domain == DOMAIN:
            refused = {a.name for a in node.attribute if a.type in (a.INT, a.FLOAT)}
            if refused & {"alpha", "beta", "transA", "transB"}:
                return f"attributes {sorted(refused)} were accepted"
            x, weight, bias = (*arguments, None, None)[:3]
            if node.output[0] not in outputs:
                cast = [n for n in graph.node if node.output[0] in n.input]
                if len(cast) != 1 or cast[0].output[0] not in outputs or x is None:
                    return "unchecked"
                y = results[outputs.index(cast[0].output[0])].astype(x.dtype)
            else:
                y = results[outputs.index(node.output[0])]
            try:
                error = error_in_bounds(y, x, weight, bias)  # type: ignore[arg-type]
            except ContractError as complaint:
                return f"accepted in spite of: {complaint}"
            if not error <= 1:
                return f"{error} bounds"
            known[node.output[0]] = y
        else:
            return "unchecked"
    return None


def attempt(number: int) -> str:
    """Run one try: ``error`` (refused), ``right``, ``unchecked``, or ``WRONG: ...``."""
    rng = np.random.default_rng([number, 20])
    model = sample_model(rng)
    WIDTH.set(model)
    is_bytes = rng.random() < 0.4
    try:
        for _ in range(0 if is_bytes or rng.random() < 0.03 else int(rng.integers(1, 3))):
            mutate_proto(model, rng)
        data = model.SerializeToString()
    except Exception:
        return "error"  # protobuf itself refuses to write it
    if is_bytes:
        data = mutate_bytes(data, rng)
    options = session_options()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        opened = session(data, options)
        feeds = sample_feeds(opened, rng)
        results = opened.run(None, feeds)
    except Exception:
        return "error"
    outputs = [output.name for output in opened.get_outputs()]
    try:
        wrong = wrongness(data, feeds, outputs, results)
    except Exception as problem:  # what onnx reads otherwise than onnxruntime cannot be checked here
        return f"unchecked ({type(problem).__name__})"
    return "right" if wrong is None else wrong if wrong == "unchecked" else f"WRONG: {wrong}"


def run_child(first: int, tries: int) -> int:
    """Run tries one by one, saying which before each and its outcome behind."""
    limit_child()
    return run_tries(attempt, first, tries)


def fuzz(tries: int, first: int = 0) -> tuple[collections.Counter[str], list[str]]:
    """Run tries in children; return the outcomes' counts, and crashes and wrong results with their numbers."""
    return fuzz_in_children(__file__, tries, first, BATCH)


def main() -> int:
    """Parse the command line, run, and print what came of it."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=TRIES)
    parser.add_argument("--first", type=int, default=0, help="number of the first try")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child or arguments.tries == 1:
        return run_child(arguments.first, arguments.tries)
    outcomes, faults = fuzz(arguments.tries, arguments.first)
    print(f"{arguments.tries} tries of {MYLINEAR.name}: {dict(outcomes)}")
    print("\n".join(faults))
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
