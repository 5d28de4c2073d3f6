"""Ways to damage the files that commands read: bytes, and the structure of models, checkpoints, tables and arrays.

Long because each function is one damage, and the fuzz draws from all of them.
"""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

NUMBERS = [0, 1, -1, 2, 3, 17, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63)]
TEXTS = [
    "",
    "x",
    "y",
    "weight",
    "no such",
    "a\nb",
    "a\0b",
    "../up",
    "\x1b[31m",
    "\u202e",
    "ü" * 300,
    "é",
    "'",
    '"',
    "%s{}",
]


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip, cut, insert, remove or repeat some bytes."""
    at = rng.randrange(len(data) + 1)
    some = rng.randrange(1, 9)
    change = rng.randrange(6)
    if change == 0:
        return data[:at]
    if change == 1:
        return data[:at] + rng.randbytes(some) + data[at:]
    if change == 2:
        return data[:at] + data[at + some :]
    if change == 3:
        return data[:at] + data[max(0, at - 40) : at] + data[at:]
    changed = bytearray(data)
    for _ in range(some):
        if changed:
            changed[rng.randrange(len(changed))] = rng.randrange(256) if change == 4 else rng.choice((0, 255))
    return bytes(changed)


def mutate_model(data: bytes, rng: random.Random) -> bytes:
    """Change a part of a model, chosen anywhere in it."""
    model = onnx.load_model_from_string(data)
    for _ in range(rng.randrange(1, 3)):
        if rng.random() < 0.6:
            mutate_message(model, rng)
        else:
            rng.choice(MODEL_CHANGES)(model, rng)
    changed: bytes = model.SerializeToString()
    return changed


def mutate_message(message: Any, rng: random.Random) -> None:
    """Change one field of a protobuf message: of it, or of one inside it."""
    fields = message.ListFields()
    if not fields:
        return
    descriptor, value = rng.choice(fields)
    if descriptor.message_type is None:
        _mutate_scalar(message, descriptor, value, rng)
    elif not descriptor.is_repeated:
        if rng.random() < 0.1:
            message.ClearField(descriptor.name)
        else:
            mutate_message(value, rng)
    else:
        chosen = rng.randrange(len(value))
        change = rng.random()
        if change < 0.08:
            del value[chosen]
        elif change < 0.16:
            value.add().CopyFrom(value[chosen])
        elif change < 0.2:
            value.add()
        else:
            mutate_message(value[chosen], rng)


def _mutate_scalar(message: Any, descriptor: Any, value: Any, rng: random.Random) -> None:
    repeated = descriptor.is_repeated
    old = rng.choice(list(value)) if repeated else value
    if isinstance(old, str):
        new: Any = rng.choice([*TEXTS, old + "2", old[:-1]])
    elif isinstance(old, bytes):
        new = mutate_bytes(old, rng)
    elif isinstance(old, float):
        new = rng.choice([0.0, -1.0, float("nan"), float("inf"), 1e-40])
    else:
        new = rng.choice([*NUMBERS, old + 1, old - 1, rng.randrange(30)])
    try:
        if not repeated:
            if rng.random() < 0.15:
                message.ClearField(descriptor.name)
            else:
                setattr(message, descriptor.name, new)
        elif rng.random() < 0.2:
            del value[rng.randrange(len(value))]
        elif rng.random() < 0.3:
            value.append(new)
        else:
            value[rng.randrange(len(value))] = new
    except ValueError:  # out of the field's range
        message.ClearField(descriptor.name)


def _cycle(model: onnx.ModelProto, rng: random.Random) -> None:
    nodes = [node for node in model.graph.node if node.input]
    if nodes:
        rng.choice(nodes).input[0] = rng.choice([node.output[0] for node in nodes if node.output] or [""])


def _functions(model: onnx.ModelProto, rng: random.Random) -> None:
    depth, fan = rng.choice([(1, 1), (3, 2), (40, 2), (150, 1), (6, 3)])
    end = rng.choice(["Identity", "f0", "nothing"])
    for i in range(depth):
        called = f"f{i + 1}" if i + 1 < depth else end
        domain = "" if called == "Identity" else "f"
        names = ["x", *(f"v{k}" for k in range(fan - 1)), "y"]
        nodes = [helper.make_node(called, [names[k]], [names[k + 1]], domain=domain) for k in range(fan)]
        imports = [helper.make_opsetid("", 20), helper.make_opsetid("f", 1)]
        model.functions.append(helper.make_function("f", f"f{i}", ["x"], ["y"], nodes, imports))
    model.opset_import.append(helper.make_opsetid("f", 1))
    if model.graph.node and model.graph.node[-1].output:
        last = model.graph.node[-1].output[0]
        model.graph.node[-1].output[0] = "before"
        model.graph.node.append(helper.make_node("f0", ["before"], [last], domain="f"))


def _external(model: onnx.ModelProto, rng: random.Random) -> None:
    locations = ["w.bin", "missing", "loop", "folder", "", "/etc/passwd", "../w.bin", "w\0", "w" * 5000, "linked.bin"]
    if not model.graph.initializer:
        return
    tensor = rng.choice(list(model.graph.initializer))
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    entries = {"location": rng.choice(locations)}
    for key in ("offset", "length"):
        if rng.random() < 0.4:
            entries[key] = rng.choice(["0", "4", "-1", "x", "", "1e3", "9" * 30, str(len(tensor.raw_data))])
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    if rng.random() < 0.8:
        tensor.ClearField("raw_data")


def _metadata(model: onnx.ModelProto, rng: random.Random) -> None:
    values: list[Any] = [[], {}, None, 1, "text", ["a", 1], [["x0"]], ["x0", "x0"], {"x0": 1}, [None], ["\x1b[2J"]]
    texts = [*(json.dumps(value) for value in values), "{", "[1,", "\\ud800", "NaN", "[" * 2000]
    if not model.metadata_props or rng.random() < 0.2:
        keys = ("features", "classes", "task", "columns", "x_mean")
        model.metadata_props.add(key=f"mylinear.{rng.choice(keys)}", value=rng.choice(texts))
    else:
        rng.choice(list(model.metadata_props)).value = rng.choice(texts)


def _tensor(model: onnx.ModelProto, rng: random.Random) -> None:
    if not model.graph.initializer:
        return
    tensor = rng.choice(list(model.graph.initializer))
    shape = [rng.randrange(6) for _ in range(rng.randrange(4))]
    dtype = rng.choice(["float32", "float64", "float16", "int64", "int8", "bool"])
    tensor.CopyFrom(numpy_helper.from_array(np.ones(shape, dtype), tensor.name))


def _node(model: onnx.ModelProto, rng: random.Random) -> None:
    operators = [
        "Relu",
        "Gemm",
        "MatMul",
        "If",
        "Loop",
        "Scan",
        "Cast",
        "Gather",
        "Constant",
        "Reshape",
        "MYLINEAR",
        "?",
    ]
    known = [name for node in model.graph.node for name in (*node.input, *node.output)] or ["x"]
    inputs = [rng.choice([*known, "", "no"]) for _ in range(rng.randrange(4))]
    domain = rng.choice(["", "", "mylinear", "ai.onnx", "com.microsoft", "none"])
    node = helper.make_node(rng.choice(operators), inputs, ["extra"], domain=domain)
    if rng.random() < 0.4:
        values: list[Any] = [1, -1, 0.5, "text", [1, 2], ["a"], numpy_helper.from_array(np.ones(2)), onnx.GraphProto()]
        node.attribute.append(helper.make_attribute(rng.choice(["axis", "to", "value", "body"]), rng.choice(values)))
    model.graph.node.insert(rng.randrange(len(model.graph.node) + 1), node)


MODEL_CHANGES: list[Callable[[onnx.ModelProto, random.Random], None]] = [
    _cycle, _functions, _external, _external, _metadata, _metadata, _tensor, _node, _node,
]  # fmt: skip


def mutate_text(data: bytes, rng: random.Random) -> bytes:
    """Change the cells, lines or ends of a CSV file."""
    rows = [line.split(",") for line in data.decode().splitlines()]
    cells = ["", "one", "nan", "inf", "1e999", "--1", '"', '"a,b"', "1_000", "0x1", "ü", "\0", "9" * 400, "1;2", " 1 "]
    row = rng.choice(rows)
    change = rng.randrange(6)
    if change == 0:
        row[rng.randrange(len(row))] = rng.choice(cells)
    elif change == 1:
        row.append(rng.choice(cells))
    elif change == 2:
        row.pop()
    elif change == 3:
        rows.insert(rng.randrange(len(rows)), [rng.choice(cells)] * rng.choice([0, 1, len(row), 3000]))
    elif change == 4:
        rows[0][rng.randrange(len(rows[0]))] = rng.choice([*rows[0], *cells])
    else:
        del rows[rng.randrange(len(rows)) :]
    ends = rng.choice(["\n", "\n", "\r\n", "\r", "\n\n"])
    encoding = rng.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16"])
    return ends.join(",".join(row) for row in rows).encode(encoding)


def mutate_npy(data: bytes, rng: random.Random) -> bytes:
    """Change the header, or the type and shape, of an array."""
    if rng.random() < 0.5:
        odd = [(b"False", b"True"), (b"<f8", b"|O8"), (b"<f8", b"<U9"), (b"<f8", b">f4"), (b"shape", b"shap2")]
        odd += [(b"<f8", b"<f9"), (b"(", b"(-"), (b"(", b"(99999999999999, "), (b"{", b"["), (b"descr", b"de\xffcr")]
        old, new = rng.choice(odd)
        return data.replace(old, new, 1)
    file = io.BytesIO()
    np.save(file, _odd_array(rng), allow_pickle=True)
    return file.getvalue()


def _odd_array(rng: random.Random) -> np.ndarray[Any, Any]:
    shape = [rng.choice([0, 1, 2, 3, 7]) for _ in range(rng.randrange(5))]
    dtype = rng.choice(["float64", "float32", "float16", "int64", "bool", "complex128", "U3", "S3", "O", "M8[s]"])
    array = np.zeros(shape, dtype)
    if array.dtype.kind == "f" and array.size:
        array.reshape(-1)[rng.randrange(array.size)] = rng.choice([float("nan"), float("inf"), 1e4])
    return array


def mutate_npz(data: bytes, rng: random.Random) -> bytes:
    """Change, drop or add an array of an archive."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice([*members, rng.choice(["z.npy", "../x.npy", "x", "y.txt"])])
    change = rng.randrange(4)
    if change == 0:
        members.pop(name, None)
    elif change == 1:
        members[name] = mutate_bytes(members.get(name, b"text"), rng)
    else:
        members[name] = mutate_npy(members.get(name, b"text"), rng)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return file.getvalue()


def mutate_checkpoint(data: bytes, rng: random.Random) -> bytes:
    """Change an entry of a checkpoint, at any depth."""
    import torch

    content = torch.load(io.BytesIO(data), weights_only=True)
    _mutate_entry(content, rng)
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def _mutate_entry(entries: Any, rng: random.Random) -> None:
    import torch

    keys = list(entries) if isinstance(entries, dict) else list(range(len(entries)))
    if not keys:
        return
    key = rng.choice(keys)
    if isinstance(entries[key], dict | list) and entries[key] and rng.random() < 0.85:
        return _mutate_entry(entries[key], rng)
    odd: list[Any] = [None, 0, -1, 1.5, float("nan"), "text", "", [], {}, [1, "a"], True, 2**70, b"bytes"]
    odd += [torch.zeros(rng.randrange(4), rng.randrange(4)), torch.zeros(2, dtype=torch.int8), torch.tensor(1.0)]
    change = rng.randrange(6)
    if change == 0:
        del entries[key]
    elif change == 1 and isinstance(entries, dict):
        entries[rng.choice(["another", 1, ""])] = entries[key]
    else:
        entries[key] = rng.choice(odd)
