"""Examples from a file are checked before a model sees them; drawn integers are such that its graph can take them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from ort_ops.errors import ModelError
from ort_ops.models.inputs import integer_limits
from ort_ops.models.inputs.draw import ExampleError, InputDrawer, NoExampleError, read_examples
from ort_ops.models.inputs.limits import Limits
from ort_ops.models.inputs.skeleton import infer_dims, skeleton
from ort_ops.models.validation.node_order import sort_nodes

INT64, FLOAT, BOOL = TensorProto.INT64, TensorProto.FLOAT, TensorProto.BOOL


def constant(name: str, value: Any, dtype: Any = np.int64) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value, dtype), name)


def model_of(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, list[Any]]],
    tensors: list[onnx.TensorProto] = [],  # noqa: B006
    outputs: dict[str, tuple[int, list[Any]]] | None = None,
    functions: list[onnx.FunctionProto] = [],  # noqa: B006
) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()]
    results = [helper.make_tensor_value_info(n, *k) for n, k in (outputs or {"y": (FLOAT, [None])}).items()]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("local", 1)]
    graph = helper.make_graph(nodes, "g", values, results, tensors)
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=functions)


TABLE = constant("table", np.zeros((30, 4)), np.float32)


@pytest.mark.parametrize(
    ("nodes", "limits"),
    [
        ([("Gather", ["ids", "table"], {})], None),  # data, not an index
        ([("Gather", ["table", "ids"], {})], Limits(0, 29)),
        ([("Gather", ["table", "ids"], {"axis": 1})], Limits(0, 3)),
        ([("Cast", ["ids"], {"to": TensorProto.INT32}), ("Gather", ["table", 0], {})], Limits(0, 29)),
        ([("Reshape", ["ids", "flat"], {}), ("Unsqueeze", [0, "zero"], {}), ("Gather", ["table", 1], {})],
         Limits(0, 29)),
        ([("Add", ["ids", "two"], {}), ("Gather", ["table", 0], {})], Limits(-2, 27)),
        ([("Sub", ["ids", "two"], {}), ("Gather", ["table", 0], {})], Limits(2, 31)),
        ([("Sub", ["two", "ids"], {}), ("Gather", ["table", 0], {})], Limits(-27, 2)),
        ([("Mul", ["ids", "two"], {}), ("Gather", ["table", 0], {})], Limits(0, 14)),
        ([("Add", ["ids", "ids"], {}), ("Gather", ["table", 0], {})], Limits(0, 14)),
        ([("CumSum", ["ids", "zero"], {}), ("Gather", ["table", 0], {})], Limits(0, 4)),
        ([("Mod", ["ids", "two"], {}), ("Gather", ["table", 0], {})], None),
        ([("Clip", ["ids", "zero", "two"], {}), ("Gather", ["table", 0], {})], None),
        ([("OneHot", ["ids", "two", "pair"], {})], Limits(0, 1)),
        ([("Gather", ["table", "ids"], {}), ("Gather", ["small", "ids"], {})], Limits(0, 6)),
        ([("Equal", ["ids", "two"], {})], None),
    ],
)  # fmt: skip
def test_integers_stay_within_what_the_graph_allows(nodes: list[Any], limits: Limits | None) -> None:
    made = []
    for number, (op_type, inputs, attributes) in enumerate(nodes):
        names = [f"v{name}" if isinstance(name, int) else name for name in inputs]
        made.append(helper.make_node(op_type, names, [f"v{number}"], **attributes))
    tensors = [
        TABLE, constant("small", np.zeros((7, 2)), np.float32), constant("zero", [0]), constant("two", [2]),
        constant("flat", [-1]), constant("pair", [0, 1]),
    ]  # fmt: skip
    model = model_of(made, {"ids": (INT64, ["batch", 6])}, tensors, {f"v{len(nodes) - 1}": (FLOAT, None)})
    drawer = InputDrawer(model)
    assert drawer.limits(3)["ids"] == (limits or Limits())
    drawn = drawer.draw(6, np.random.default_rng(0))["ids"]
    expected = limits or Limits(0, 1)
    assert drawn.dtype == np.int64
    assert expected.low <= drawn.min() <= drawn.max() <= expected.high
    assert len(np.unique(drawn)) > (expected.high - expected.low) / 2, "all of the range is drawn from"


def test_limits_pass_through_bodies_and_functions() -> None:
    """An If whose branches look up what is captured, behind a function of a function."""

    def branch(name: str, table: str) -> onnx.GraphProto:
        node = helper.make_node("Gather", [table, "same"], [name])
        return helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, FLOAT, None)])

    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("local", 1)]
    functions = [
        helper.make_function(
            "local", "Look", ["t", "i"], ["r"], [helper.make_node("Gather", ["t", "i"], ["r"])], opsets
        ),
        helper.make_function("local", "Outer", ["t", "i"], ["r", "i2"], [
            helper.make_node("Look", ["t", "i"], ["r"], domain="local"), helper.make_node("Identity", ["i"], ["i2"]),
        ], opsets),
    ]  # fmt: skip
    nodes = [
        helper.make_node("Outer", ["table", "ids"], ["r", "same"], domain="local"),
        helper.make_node("If", ["c"], ["y"], then_branch=branch("a", "small"), else_branch=branch("b", "table")),
    ]
    inputs = {"ids": (INT64, ["batch"]), "c": (BOOL, [])}
    tensors = [TABLE, constant("small", np.zeros((7, 2)), np.float32)]
    model = model_of(nodes, inputs, tensors, functions=functions)
    assert InputDrawer(model).limits(2)["ids"] == Limits(0, 6)
    del model.graph.node[1:]
    model.graph.output[0].name = "r"
    assert InputDrawer(model).limits(2)["ids"] == Limits(0, 29)


def test_a_loop_limits_its_trip_count_and_what_it_carries() -> None:
    body = helper.make_graph(
        [helper.make_node("Gather", ["table", "carried"], ["row"]), helper.make_node("Identity", ["c"], ["c2"]),
         helper.make_node("Identity", ["carried"], ["next"])],
        "body",
        [helper.make_tensor_value_info("i", INT64, []), helper.make_tensor_value_info("c", BOOL, []),
         helper.make_tensor_value_info("carried", INT64, [])],
        [helper.make_tensor_value_info("c2", BOOL, []), helper.make_tensor_value_info("next", INT64, []),
         helper.make_tensor_value_info("row", FLOAT, [4])],
    )  # fmt: skip
    model = model_of(
        [helper.make_node("Loop", ["n", "", "start"], ["end", "y"], body=body)],
        {"n": (INT64, []), "start": (INT64, [])}, [TABLE],
    )  # fmt: skip
    assert InputDrawer(model).limits(2) == {"n": Limits(1, 3), "start": Limits(0, 29)}


def test_a_function_is_visited_once_for_equal_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("local", 1)]
    functions = [helper.make_function("local", "F0", ["t", "i"], ["r"], [helper.make_node("Gather", ["t", "i"], ["r"])],
                                      opsets)]  # fmt: skip
    for level in range(1, 9):
        calls = [helper.make_node(f"F{level - 1}", ["t", "i"], [name], domain="local") for name in ("p", "r")]
        functions.append(helper.make_function("local", f"F{level}", ["t", "i"], ["r"], calls, opsets))
    call = helper.make_node("F8", ["table", "ids"], ["y"], domain="local")
    model = model_of([call], {"ids": (INT64, ["n"])}, [TABLE], functions=functions)
    visited: list[int] = []
    visit = integer_limits._visit
    monkeypatch.setattr(integer_limits, "_visit", lambda nodes, scope: visited.append(1) or visit(nodes, scope))
    assert integer_limits.IntegerLimits(model).of_inputs({"n": 2})["ids"] == Limits(0, 29)
    assert len(visited) == 1 + 9, "not the 511 calls"


def test_numbers_that_become_indices_are_whole() -> None:
    nodes = [helper.make_node("Cast", ["x"], ["i"], to=INT64), helper.make_node("Gather", ["table", "i"], ["y"])]
    drawn = InputDrawer(model_of(nodes, {"x": (FLOAT, [50])}, [TABLE])).draw(1, np.random.default_rng(0))["x"]
    assert drawn.dtype == np.float32
    assert np.array_equal(drawn, np.round(drawn))
    assert 10 < drawn.max() <= 29


@pytest.mark.parametrize("op_type", ["Reshape", "Expand"])
def test_an_input_that_gives_a_shape_is_named(op_type: str) -> None:
    model = model_of(
        [helper.make_node("Identity", ["shape"], ["s"]), helper.make_node(op_type, ["x", "s"], ["y"], "n")],
        {"x": (FLOAT, ["a", 2]), "shape": (INT64, [2])},
    )
    with pytest.raises(NoExampleError, match=f"for input 'shape': it gives the shape to {op_type} 'n'"):
        InputDrawer(model).draw(2, np.random.default_rng(0))


def test_text_is_drawn_as_python_s_own() -> None:
    text = InputDrawer(model_of([], {"t": (TensorProto.STRING, ["n", 2])})).draw(3, np.random.default_rng(0))["t"]
    assert text.shape == (3, 2)
    assert {type(value) for value in text.flat} == {str}


def test_other_inputs_that_cannot_be_drawn() -> None:
    small = model_of([], {"t": (TensorProto.FLOAT8E4M3FN, [2])})
    with pytest.raises(NoExampleError, match="'t', which is a tensor of float8_e4m3fn, of which onnxruntime takes no"):
        InputDrawer(small).draw(2, np.random.default_rng(0))
    empty = constant("table", np.zeros((0, 4)), np.float32)
    nodes = [helper.make_node("Gather", ["table", "i"], ["y"])]
    with pytest.raises(NoExampleError, match="'i': it indexes an axis without elements"):
        InputDrawer(model_of(nodes, {"i": (INT64, [2])}, [empty])).draw(2, np.random.default_rng(0))


def test_sizes_of_dimensions() -> None:
    model = model_of([], {"x": (FLOAT, ["batch", "length", 3, None]), "m": (FLOAT, ["batch", "length"])})
    drawer = InputDrawer(model)
    shapes = {name: array.shape for name, array in drawer.draw(2, np.random.default_rng(0), others=7).items()}
    assert shapes == {"x": (2, 7, 3, 7), "m": (2, 7)}
    assert {a.shape for a in drawer.draw(4, np.random.default_rng(0)).values()} == {(4, 4, 3, 4), (4, 4)}
    assert drawer.num_dynamic == 3


def fed_model() -> onnx.ModelProto:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    inputs = {"x": (FLOAT, ["batch", 3]), "ids": (INT64, ["batch"]), "given": (FLOAT, [1])}
    return model_of(nodes, inputs, [constant("given", [1], np.float32)])


def test_numbers_stay_within_the_ranges_that_the_caller_knows() -> None:
    nodes = [helper.make_node("Gather", ["table", "rows"], ["picked"]), helper.make_node("Identity", ["p"], ["q"])]
    inputs = {"rows": (INT64, ["n"]), "counts": (INT64, ["n"]), "p": (FLOAT, ["n"]), "free": (FLOAT, ["n"])}
    model = model_of(nodes, inputs, [constant("table", [0, 0, 0], np.float32)])
    ranges = {"rows": (0.0, 9.0), "counts": (5.0, 7.0), "p": (0.25, 0.75), "free": (1.0, 1.0)}
    drawn = InputDrawer(model, ranges).draw(200, np.random.default_rng(0))
    assert {*drawn["rows"].tolist()} == {0, 1, 2}  # the graph's own limits come first
    assert {*drawn["counts"].tolist()} == {5, 6, 7}
    assert 0.25 <= drawn["p"].min() < 0.3 < 0.7 < drawn["p"].max() <= 0.75
    assert drawn["free"].min() < 0  # one number says nothing of a range


def test_examples_are_read_by_name(tmp_path: Path) -> None:
    arrays = {"ids": np.arange(2), "x": np.ones((2, 3), np.float32)}
    np.savez(tmp_path / "i.npz", **arrays)
    feed = read_examples(tmp_path / "i.npz", fed_model())
    assert {name: array.tolist() for name, array in feed.items()} == {n: a.tolist() for n, a in arrays.items()}
    np.savez(tmp_path / "i.npz", **arrays, given=np.zeros(1, np.float32))
    assert set(read_examples(tmp_path / "i.npz", fed_model())) == {"x", "ids", "given"}


def test_every_mistake_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "i.npz"
    np.savez(path, x=np.ones((2, 4), np.float32), given=np.ones(1), idz=np.arange(2))
    with pytest.raises(ExampleError) as raised:
        read_examples(path, fed_model())
    assert str(raised.value).removeprefix(f"'{path}': ").split("; ") == [
        "it has no 'ids'",
        "the model has no input 'idz' (its inputs are 'x', 'ids', 'given')",
        "'x' must be [batch, 3], got [2, 4]",
        "'given' must be float32, got float64",
    ]


def test_files_that_hold_no_examples(tmp_path: Path) -> None:
    with pytest.raises(ExampleError, match=r"there is no file '.*none.npz'"):
        read_examples(tmp_path / "none.npz", fed_model())
    with pytest.raises(ExampleError, match="is a folder"):
        read_examples(tmp_path, fed_model())
    np.save(tmp_path / "a.npy", np.ones(3))
    with pytest.raises(ExampleError, match="is one array; write all by name"):
        read_examples(tmp_path / "a.npy", fed_model())
    np.savez(tmp_path / "o.npz", x=np.array([{}]))
    np.savez_compressed(tmp_path / "d.npz", x=np.ones(99), ids=np.ones(99))
    data = bytearray((tmp_path / "d.npz").read_bytes())
    damaged = "cannot be read as an NPZ file of plain arrays|array x must be numbers or text, got dtype object"
    for name, content in {"o.npz": None, "e.npz": b"", "t.npz": b"x,y\n1,2\n", "c.npz": data[: len(data) // 2]}.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ExampleError, match=f"is not an NPZ file; write all|{damaged}") as raised:
            read_examples(tmp_path / name, fed_model())
        assert "\n" not in str(raised.value)
    rng = np.random.default_rng(0)
    for _ in range(300):
        spoiled = bytearray(data)
        spoiled[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        (tmp_path / "c.npz").write_bytes(spoiled)
        with pytest.raises(ExampleError):
            read_examples(tmp_path / "c.npz", fed_model())


def test_bfloat16_from_a_file(tmp_path: Path) -> None:
    model = model_of([], {"x": (TensorProto.BFLOAT16, [2])})
    for array in (np.ones(2, ml_dtypes.bfloat16), np.ones(2, np.float32)):
        np.savez(tmp_path / "i.npz", x=array)
        assert read_examples(tmp_path / "i.npz", model)["x"].dtype == ml_dtypes.bfloat16
    np.savez(tmp_path / "i.npz", x=np.ones(2, np.float16))
    with pytest.raises(ExampleError, match="'x' must be bfloat16, got float16"):
        read_examples(tmp_path / "i.npz", model)


def test_a_skeleton_has_shapes_without_weights() -> None:
    big = constant("big", np.zeros((64, 64)), np.float32)
    nodes = [helper.make_node("MatMul", ["x", "big"], ["h"]), helper.make_node("Reshape", ["h", "shape"], ["y"])]
    model = model_of(nodes, {"x": (FLOAT, ["batch", 64])}, [big, constant("shape", [-1, 32])], {"y": (FLOAT, None)})
    bare = skeleton(model)
    assert bare.ByteSize() < 1000 < model.ByteSize()
    assert [node.op_type for node in bare.graph.node] == ["MatMul", "Reshape"]
    assert bare.opset_import == model.opset_import
    assert infer_dims(model)["y"][1] == 32
    assert infer_dims(model)["h"] == ["batch", 64]
    assert len(model.graph.initializer[0].raw_data) == 4 * 64 * 64, "the model itself keeps its weights"


def test_nodes_are_put_in_order() -> None:
    """As converters leave them that append their casts; onnxruntime takes such a file."""
    branch = helper.make_graph([helper.make_node("Identity", ["b"], ["z"])], "t", [],
                               [helper.make_tensor_value_info("z", FLOAT, None)])  # fmt: skip
    nodes = [
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Cast", ["x"], ["a"], to=FLOAT),
    ]
    model = model_of(nodes, {"x": (TensorProto.DOUBLE, [2]), "c": (BOOL, [])})
    onnxruntime.InferenceSession(model.SerializeToString())
    sort_nodes(model.graph)
    assert [node.op_type for node in model.graph.node] == ["Cast", "Relu", "If"]
    onnx.checker.check_model(model)
    model.graph.node[1].input[0] = "y"
    with pytest.raises(ModelError, match=r"wait for each other in a circle \(see 'b'"):
        sort_nodes(model.graph)
