"""What cannot be right in a model is one line, in every command alike; what onnxruntime takes is let through.

Long because it is one table of faults, each with its message.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import ort_ops
from ort_ops.cli import main as cli
from ort_ops.errors import ModelError, MylinearError
from ort_ops.models.files import load_model, look_at_model
from ort_ops.models.validation.functions import MAX_CALL_DEPTH
from tests.linear_model import make_linear_model

COMMANDS = ("inspect", "run", "verify", "adopt", "lower")
WEIGHT = np.arange(600, dtype=np.float32).reshape(20, 30)


def arguments(command: str, path: Path) -> list[str]:
    """The command line of a command for a model of one input of 30 features."""
    more = {"run": ["--input", ",".join(["1"] * 30)], "adopt": [str(path.with_name("out.onnx"))]}
    return [command, str(path), *more.get("adopt" if command == "lower" else command, [])]


def identity_functions(calls: list[tuple[str, list[str]]]) -> onnx.ModelProto:
    """Make a model that calls the first of some functions; each calls others, one after the other."""
    functions = []
    for name, called in calls:
        names = ["x", *(f"v{i}" for i in range(len(called))), "y"]
        nodes = [helper.make_node(other, [names[i]], [names[i + 1]], domain="f") for i, other in enumerate(called)]
        nodes.append(helper.make_node("Identity", [names[-2]], ["y"]))
        imports = [helper.make_opsetid("", 20), helper.make_opsetid("f", 1)]
        functions.append(helper.make_function("f", name, ["x"], ["y"], nodes, imports))
    model = make_linear_model(["batch", 30], WEIGHT, None)
    model.graph.node[0].output[0] = "inner"
    model.graph.node.append(helper.make_node(calls[0][0], ["inner"], ["y"], domain="f"))
    model.opset_import.append(helper.make_opsetid("f", 1))
    model.functions.extend(functions)
    return model


def damage_tensor(change: Callable[[TensorProto], object]) -> Callable[[onnx.ModelProto], onnx.ModelProto | None]:
    def damage(model: onnx.ModelProto) -> None:
        change(model.graph.initializer[0])

    return damage


def damage_node(node: onnx.NodeProto) -> Callable[[onnx.ModelProto], None]:
    """Put a node between the MYLINEAR node and the output."""

    def damage(model: onnx.ModelProto) -> None:
        model.graph.node[0].output[0] = "inner"
        model.graph.node.append(node)

    return damage


def set_location(model: onnx.ModelProto, location: str, **entries: str) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)


def cycle(model: onnx.ModelProto) -> None:
    model.graph.node[0].output[0] = "inner"
    nodes = [helper.make_node("Add", ["inner", "b"], ["a"], "first"), helper.make_node("Neg", ["a"], ["b"], "second")]
    model.graph.node.extend([*nodes, helper.make_node("Identity", ["a"], ["y"])])


def cycle_through_a_body(model: onnx.ModelProto) -> None:
    """The condition of an If comes from what its own branch computes."""
    model.graph.node[0].output[0] = "inner"
    value = helper.make_tensor_value_info("b", TensorProto.FLOAT, None)
    body = helper.make_graph([helper.make_node("Add", ["inner", "later"], ["b"])], "body", [], [value])
    other = helper.make_graph(
        [helper.make_node("Neg", ["inner"], ["b2"])],
        "other",
        [],
        [helper.make_tensor_value_info("b2", TensorProto.FLOAT, None)],
    )
    condition = numpy_helper.from_array(np.array(True), "c")
    model.graph.initializer.append(condition)
    model.graph.node.append(helper.make_node("If", ["c"], ["y"], "branch", then_branch=body, else_branch=other))
    model.graph.node.append(helper.make_node("Neg", ["y"], ["later"], "after"))


def swap_bytes(old: bytes, new: bytes) -> Callable[[onnx.ModelProto], bytes]:
    def damage(model: onnx.ModelProto) -> bytes:
        data = model.SerializeToString()
        assert old in data
        return data.replace(old, new)

    return damage


def nest(model: onnx.ModelProto) -> bytes:
    """Put 100 bodies into each other, by hand: protobuf writes no more than it reads."""

    def field(tag: int, data: bytes) -> bytes:
        size = len(data)
        return bytes([tag, size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14]) + data

    graph = b""
    for _ in range(100):  # in a body: a node, its attribute, and the graph in that
        graph = field(0x0A, b"\x22\x02If" + field(0x2A, b"\x0a\x01b" + field(0x32, graph) + b"\xa0\x01\x05"))
    return model.SerializeToString() + field(0x3A, graph)


DAMAGES: dict[str, tuple[Callable[[onnx.ModelProto], object], str]] = {
    "raw data too short": (
        damage_tensor(lambda t: t.__setattr__("raw_data", t.raw_data[:-4])),
        "takes 2400 bytes, not",
    ),
    "typed data too long": (
        lambda m: m.graph.initializer.append(TensorProto(name="t", data_type=1, dims=[2], float_data=[1, 2, 3])),
        "tensor 't' of shape [2] takes 2 elements, not 3",
    ),
    "unknown type": (damage_tensor(lambda t: t.__setattr__("data_type", 99)), "has the unknown element type 99"),
    "no type": (damage_tensor(lambda t: t.__setattr__("data_type", 0)), "has the unknown element type 0"),
    "negative shape": (damage_tensor(lambda t: t.dims.__setitem__(0, -20)), "has the impossible shape [-20, 30]"),
    "huge shape": (
        damage_tensor(lambda t: t.dims.extend([2**62, 2**62])),
        "takes 510423550",
    ),
    "value of unknown type": (
        lambda m: m.graph.value_info.append(onnx.ValueInfoProto(name="v", type=helper.make_tensor_type_proto(77, [1]))),
        "value 'v' has the unknown element type 77",
    ),
    "input without type": (
        lambda m: m.graph.input[0].type.tensor_type.ClearField("elem_type"),
        "input 'x' has no element type",
    ),
    "NUL in a path": (lambda m: set_location(m, "w\0.bin"), "whose name has a NUL byte"),
    "overlong path": (lambda m: set_location(m, "w" * 5000), "cannot be read: File name too long"),
    "loop of links": (lambda m: set_location(m, "loop"), "cannot be read: "),
    "folder as data": (lambda m: set_location(m, "folder"), "'folder' is no regular file"),
    "no path": (lambda m: set_location(m, ""), "outside the model's folder"),
    "odd offset": (lambda m: set_location(m, "w.bin", offset="1e3"), "must be numbers, got '1e3'"),
    "odd length": (lambda m: set_location(m, "w.bin", length="9" * 5000), "must be numbers, got '999"),
    "short external data": (lambda m: set_location(m, "w.bin", offset="8"), "ends at byte 2408, the file at 2400"),
    "no inputs": (damage_node(helper.make_node("Add", [], ["y"], "n")), "node 'n' (Add) must have 2 inputs, got 0"),
    "no outputs": (
        damage_node(helper.make_node("Relu", ["inner"], [], "n")),
        "reads 'y', which nothing gives",
    ),
    "nameless input": (damage_node(helper.make_node("Add", ["inner", ""], ["y"], "n")), "must have an input 1"),
    "no operator": (damage_node(helper.make_node("", ["inner"], ["y"], "n")), "node 'n' has no operator"),
    "no linear output": (lambda m: m.graph.node[0].ClearField("output"), "nothing gives"),
    "no linear input": (lambda m: m.graph.node[0].ClearField("input"), "the inputs must be X, W"),
    "unknown value": (
        damage_node(helper.make_node("Neg", ["no"], ["y"], "n")),
        "'n' of the graph reads 'no', which",
    ),
    "attribute of another type": (
        damage_node(helper.make_node("Softmax", ["inner"], ["y"], "n", axis="last")),
        "attribute 'axis' must be of type INT, got STRING",
    ),
    "missing attribute": (damage_node(helper.make_node("Cast", ["inner"], ["y"], "n")), "lacks the attribute 'to'"),
    "attribute twice": (
        lambda m: m.graph.node[0].attribute.extend([helper.make_attribute("a", 1), helper.make_attribute("a", 2)]),
        "has two attributes 'a'",
    ),
    "cycle": (cycle, "wait for each other in a circle (see 'first', 'second', 'y')"),
    "cycle through a body": (cycle_through_a_body, "wait for each other in a circle (see 'branch', 'after')"),
    "recursion": (lambda m: identity_functions([("f", ["g"]), ("g", ["f"])]), "call themselves without an end"),
    "self-call": (lambda m: identity_functions([("f", ["f"])]), "call themselves without an end (see 'f')"),
    "function twice": (lambda m: identity_functions([("f", []), ("f", [])]), "function 'f' is defined twice"),
    "2**n calls": (
        lambda m: identity_functions([(f"f{i}", [f"f{i + 1}"] * 2) for i in range(30)] + [("f30", [])]),
        "expand to 2,147,483,648 nodes at 31 levels",
    ),
    "deep calls": (
        lambda m: identity_functions([(f"f{i}", [f"f{i + 1}"]) for i in range(5000)] + [("f5000", [])]),
        f"call each other 5001 levels deep; onnxruntime takes {MAX_CALL_DEPTH}",
    ),
    "deep nesting": (nest, "is not an ONNX model, or is damaged"),
    "name not in UTF-8": (swap_bytes(b"one_MYLINEAR", b"one_\xff\xfeLINEAR"), "a name is not in UTF-8: b'one_"),
    "value not in UTF-8": (swap_bytes(b"\x06weight", b"\x06w\xff\xffght"), "is no text in UTF-8"),
    "text not in UTF-8": (swap_bytes(b"round once.", b"round \xffonce"), "is damaged: a doc_string is not in UTF-8"),
    "dimension not in UTF-8": (swap_bytes(b"batch", b"b\xfftch"), "has a name that is not in UTF-8"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files that the damages name."""
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    return tmp_path


def damaged(name: str, folder: Path) -> Path:
    """Write the damaged model."""
    model = make_linear_model(["batch", 30], WEIGHT, None)
    changed = DAMAGES[name][0](model)
    path = folder / "m.onnx"
    data = changed if isinstance(changed, bytes) else (changed if isinstance(changed, onnx.ModelProto) else model)
    path.write_bytes(data if isinstance(data, bytes) else data.SerializeToString())
    return path


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_model_is_one_line_in_every_command(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = damaged(name, folder)
    before = sorted(folder.iterdir())
    for command in COMMANDS:
        status = cli.main(arguments(command, path))
        printed = capsys.readouterr()
        lines = [line for line in (printed.out + printed.err).splitlines() if line.startswith(("mylinear:", "fault"))]
        assert status in (1, 2)
        assert len(lines) == 1
        assert DAMAGES[name][1] in lines[0]
    assert sorted(folder.iterdir()) == before
    try:
        ort_ops.InferenceSession(path)
    except MylinearError:
        pass
    else:  # a session takes what onnxruntime takes
        options = onnxruntime.SessionOptions()
        ort_ops.register(options)
        onnxruntime.InferenceSession(path, options)


def test_models_that_are_unusual_but_right_are_taken(tmp_path: Path) -> None:
    model = make_linear_model(["batch", 30], WEIGHT, None)
    model.graph.node[0].output[0] = "inner"
    model.graph.node.insert(0, helper.make_node("Add", ["inner", "negated"], ["y"]))  # not in order
    model.graph.node.append(helper.make_node("Neg", ["inner"], ["negated"]))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1  # unknown
    half = TensorProto(name="half", data_type=TensorProto.FLOAT16, dims=[2], int32_data=[0, 0])
    model.graph.initializer.extend([half, helper.make_tensor("small", TensorProto.INT4, [3], [1, 2, 3])])
    model.graph.initializer.append(helper.make_tensor("words", TensorProto.STRING, [2], [b"a", b"\xff"]))
    model.graph.initializer.append(TensorProto(name="none", data_type=1, dims=[0]))
    model.graph.input.append(helper.make_tensor_value_info("half", TensorProto.FLOAT16, [2]))  # with a default
    onnx.save(model, tmp_path / "m.onnx")
    session = ort_ops.InferenceSession(tmp_path / "m.onnx")
    assert not session.run(None, {"x": np.ones((2, 30), np.float32)})[0].any()


@pytest.mark.parametrize("command", COMMANDS)
def test_nodes_need_not_be_in_order(command: str, tmp_path: Path) -> None:
    model = make_linear_model(["batch", 30], WEIGHT, None)
    model.graph.node[0].output[0] = "inner"
    model.graph.node.insert(0, helper.make_node("Add", ["inner", "negated"], ["y"]))
    model.graph.node.append(helper.make_node("Neg", ["inner"], ["negated"]))
    onnx.save(model, tmp_path / "m.onnx")
    assert cli.main(arguments(command, tmp_path / "m.onnx")) == 0


def test_calls_up_to_the_bound_run(tmp_path: Path) -> None:
    calls = [(f"f{i}", [f"f{i + 1}"] * 2) for i in range(6)] + [("f6", [])]
    onnx.save(identity_functions(calls), tmp_path / "m.onnx")
    result = ort_ops.InferenceSession(tmp_path / "m.onnx").run(None, {"x": np.ones((1, 30), np.float32)})[0]
    np.testing.assert_allclose(result[0], WEIGHT.sum(1), rtol=1e-6)


def test_hard_linked_data_runs_and_is_refused_where_it_is_copied(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(make_linear_model(["batch", 30], WEIGHT, None), path, save_as_external_data=True, location="w.bin")
    os.link(tmp_path / "w.bin", tmp_path / "another.bin")
    for command in COMMANDS:
        status = cli.main(arguments(command, path))
        error = capsys.readouterr().err
        if command in ("inspect", "run"):  # onnxruntime alone reads the weights
            assert status == 0
        else:
            assert status == 2
            assert "Traceback" not in error
            assert "'w.bin' has 2 hard links" in error


@pytest.mark.parametrize("kind", ["fifo", "device", "checkpoint", "ort"])
def test_what_is_no_model_file_is_told_apart(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path = Path(os.devnull)
    else:
        path.write_bytes({"checkpoint": b"PK\3\4rest", "ort": b"\0\0\0\0ORTM rest"}[kind])
    words = {"checkpoint": "export it first", "ort": r"own format \(.ort\)"}.get(kind, "is no regular file")
    for load in (load_model, look_at_model):
        with pytest.raises(ModelError, match=words):
            load(path)


def test_data_without_a_stated_length_ends_where_the_tensor_does(tmp_path: Path) -> None:
    model = make_linear_model(["batch", 3], np.ones((2, 3), np.float32), np.zeros(2, np.float32))
    (weight, *_) = model.graph.initializer
    (tmp_path / "weights.bin").write_bytes(weight.raw_data + b"what lies behind it")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="weights.bin")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    read = load_model(tmp_path / "m.onnx").graph.initializer[0]
    np.testing.assert_array_equal(numpy_helper.to_array(read), np.ones((2, 3), np.float32))
    for arguments in (["inspect"], ["run", "--input", "1,2,3"], ["verify", "--batch-size", "2"]):
        assert cli.main([arguments[0], str(tmp_path / "m.onnx"), *arguments[1:]]) == 0
    session = ort_ops.InferenceSession(str(tmp_path / "m.onnx"))
    np.testing.assert_array_equal(session.run(None, {"x": np.ones((1, 3), np.float32)})[0], [[3.0, 3.0]])
