"""The example operator that a new package has: it is right for any number of inputs, attributes and outputs.

    y_k = k * a_1 * ... * a_m * (x_1 + ... + x_n)        for the outputs k = 1, 2, ...

What follows are its parts as text for the templates, one entry for each language.
"""

from __future__ import annotations

from typing import Any

from ort_ops.scaffold.request import PackageRequest

_CPP_TYPES = {"float64": "double", "float32": "float", "float16": "ort::Float16", "bfloat16": "ort::Bfloat16"}


def example_parts(request: PackageRequest) -> dict[str, Any]:
    """Return what the templates show of the example operator, by the name that they have for it."""
    inputs, outputs, attributes = request.inputs, request.outputs, request.attributes
    weights = range(1, len(outputs) + 1)
    multiples = ["total" if k == 1 else f"{k} * total" for k in weights]
    gradients = [f"grad_{output}" for output in outputs]
    parts: dict[str, Any] = {
        "formulas": _formulas(request),
        "formal_inputs": [
            f'Parameter("{name}", "{name}", T, "{f"shape of {inputs[0]}" if number else "of any shape"}.")'
            for number, name in enumerate(inputs)
        ],
        "formal_outputs": [f'Parameter("{name}", "{name}", T, "shape of {inputs[0]}.")' for name in outputs],
        "formal_attributes": [
            f'Attribute("{a.name}", {a.onnx_kind}, "{a.kind}", default={a.default}, doc="a factor.")'
            for a in attributes
        ],
        "body": _body(request),
        "factors_of_call": ", ".join(f'float(call.attributes["{a.name}"])' for a in attributes),
        "weights": f"({', '.join(f'{k}.0' for k in weights)}{',' if len(outputs) == 1 else ''})",
        "reference_results": ", ".join(multiples),
        "other_attributes": _other_attributes(request),
        "python_parameters": _with_keywords(
            [f"{name}: Real" for name in inputs], [f"{a.name}: {a.kind} = {a.default}" for a in attributes]
        ),
        "python_returns": "Real" if len(outputs) == 1 else f"tuple[{', '.join(['Real'] * len(outputs))}]",
        "python_sum": " + ".join(f"{name}.astype(wide)" for name in inputs),
        "python_results": ", ".join(_rounded(k, inputs[0]) for k in weights),
        "torch_parameters": _with_keywords(
            [f"{name}: Tensor" for name in inputs], [f"{a.name}: {a.kind}" for a in attributes]
        ),
        "torch_returns": "Tensor" if len(outputs) == 1 else "tuple[Tensor, ...]",
        "torch_sum": " + ".join(f"{name}.to(wide)" for name in inputs),
        "torch_results": ", ".join(f"{'total' if k == 1 else f'({k} * total)'}.to({inputs[0]}.dtype)" for k in weights),
        "gradient_parameters": ", ".join(f"{name}: Tensor" for name in gradients),
        "gradient_sum": " + ".join(
            name if k == 1 else f"{k} * {name}" for k, name in zip(weights, gradients, strict=True)
        ),
        "gradient_results": "(gradient,)" if len(inputs) == 1 else ", ".join(["gradient"] * len(inputs)),
        "module_parameters": "".join(f", {a.name}: {a.kind} = {a.default}" for a in attributes),
        "module_arguments": ", ".join(
            [inputs[0]]
            + [f"self.learned_{name}.expand_as({inputs[0]})" for name in inputs[1:]]
            + [f"{a.name}=self.{a.name}_value" for a in attributes]
        ),
        "cpp_inputs": [f"kIn{_camel(name)}" for name in inputs],
        "cpp_outputs": [f"kOut{_camel(name)}" for name in outputs],
        "cpp_sum": " + ".join(f"ort::widen(in_{name}[i])" for name in inputs),
        "cpp_types": _CPP_TYPES,
        "by_hand": _by_hand(request),
    }
    return parts


def _formulas(request: PackageRequest) -> list[str]:
    total = " + ".join(request.inputs)
    factors = [a.name for a in request.attributes]
    found = []
    for k, output in enumerate(request.outputs, 1):
        all_factors = factors if k == 1 else [str(k), *factors]
        grouped = f"({total})" if all_factors and len(request.inputs) > 1 else total
        found.append(f"{output} = {' * '.join([*all_factors, grouped])}")
    return found


def _body(request: PackageRequest) -> list[str]:
    """Return the nodes of the function body, as calls of onnx's helper."""
    first, steps = request.inputs[0], []

    def node(op_type: str, given: list[str], result: str) -> None:
        steps.append(f'helper.make_node("{op_type}", [{_quoted(given)}], ["{result}"])')

    def cast(name: str, wide: str) -> str:
        steps.append(f'cast("{name}", "{wide}")')
        return wide

    total = cast(first, f"_wide_{first}")
    for number, other in enumerate(request.inputs[1:], 1):
        node("Add", [total, cast(other, f"_wide_{other}")], f"_sum_{number}")
        total = f"_sum_{number}"
    for number, a in enumerate(request.attributes, 1):
        steps.append(f'attribute("{a.name}", "value_{a.kind}", AttributeProto.{a.kind.upper()})')
        node("Mul", [total, cast(f"_given_{a.name}", f"_wide_{a.name}")], f"_product_{number}")
        total = f"_product_{number}"
    node("CastLike", [total, first], request.outputs[0])
    for k, output in enumerate(request.outputs[1:], 2):
        steps.append(f'helper.make_node("Constant", [], ["_constant_{k}"], value_float={k}.0)')
        node("Mul", [total, cast(f"_constant_{k}", f"_factor_{k}")], f"_times_{k}")
        node("CastLike", [f"_times_{k}", first], output)
    return steps


def _other_attributes(request: PackageRequest) -> list[str]:
    """Return two other choices of attributes than the defaults: one, and all."""
    pairs = [f'"{a.name}": {a.other}' for a in request.attributes]
    return [f"{{{', '.join(pairs[:1])}}}", f"{{{', '.join(pairs)}}}"]


def _rounded(k: int, first: str) -> str:
    value = "total" if k == 1 else f"wide({k}) * total"
    return f"np.asarray({value}, {first}.dtype)"


def _by_hand(request: PackageRequest) -> str:
    """Return the results for inputs of 1 and -2, with the attributes' defaults."""
    factor = float(len(request.inputs))
    for a in request.attributes:
        factor *= float(a.default)
    rows = [f"[{k * factor!r}, {-2 * k * factor!r}]" for k in range(1, len(request.outputs) + 1)]
    return f"[{', '.join(rows)}]"


def _with_keywords(positional: list[str], keywords: list[str]) -> str:
    return ", ".join([*positional, "*", *keywords] if keywords else positional)


def _quoted(words: list[str]) -> str:
    return ", ".join(f'"{word}"' for word in words)


def _camel(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))
