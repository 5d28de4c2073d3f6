"""The example operator that a new package has: it is right for any number of inputs, attributes and outputs.

    y_k = k * a_1 * ... * a_m * (x_1 + ... + x_n)        for the outputs k = 1, 2, ...

What follows are its parts as text for the templates, one entry for each language.
"""

from __future__ import annotations

from typing import Any

from ort_ops.scaffold.attributes import ExampleAttribute
from ort_ops.scaffold.request import PackageRequest

_WIDTH = 120
_CPP_TYPES = {"float64": "double", "float32": "float", "float16": "ort::Float16", "bfloat16": "ort::Bfloat16"}


def example_parts(request: PackageRequest) -> dict[str, Any]:
    """Return what the templates show of the example operator, by the name that they have for it."""
    inputs, outputs, attributes = request.inputs, request.outputs, request.attributes
    first = inputs[0]
    first_shape = "of rank 1 or more" if request.optional else "of any shape"
    weights = range(1, len(outputs) + 1)
    multiples = ["total" if k == 1 else f"{k} * total" for k in weights]
    gradients = [f"grad_{output}" for output in outputs]
    parts: dict[str, Any] = {
        "formulas": _formulas(request),
        "doc": _doc(request),
        "formal_inputs": [
            *(
                f'Parameter("{name}", "{name}", T, "{f"shape of {inputs[0]}" if number else first_shape}.")'
                for number, name in enumerate(request.required)
            ),
            *(
                f'Parameter("{name}", "{name}", T, "[last dimension of {first}].", is_optional=True, absent=NOTHING)'
                for name in request.optional
            ),
        ],
        "formal_outputs": [f'Parameter("{name}", "{name}", T, "shape of {inputs[0]}.")' for name in outputs],
        "formal_attributes": [a.formal for a in attributes],
        "body": _body(request),
        "factors_of_call": _factors_of_call(request),
        "min_opset": "19,  # of Equal of strings" if _has_string(request) else "15,  # of CastLike",
        "lists": any(a.is_list for a in attributes),
        "factors": [(a.name, a.factor(a.name)) for a in attributes],
        "torch_factors": [_in_product(a, a.name) for a in attributes],
        "gradient_factors": [_in_product(a, f'ctx.attributes["{a.name}"]') for a in attributes],
        "weights": f"({', '.join(f'{k}.0' for k in weights)}{',' if len(outputs) == 1 else ''})",
        "reference_results": ", ".join(multiples),
        "other_attributes": _other_attributes(request),
        "python_head": _bracketed(
            f"    def {request.module}(",
            [f"{name}: Real" for name in request.required]
            + [f"{name}: Real | None = None" for name in request.optional],
            [f"{a.name}: {a.python_type} = {a.python_default}" for a in attributes],
            f") -> {'Real' if len(outputs) == 1 else 'tuple[' + ', '.join(['Real'] * len(outputs)) + ']'}:",
        ),
        "python_sum": " + ".join(f"{name}.astype(wide)" for name in request.required),
        "python_results": ", ".join(_rounded(k, inputs[0]) for k in weights),
        "torch_head": _bracketed(
            "def compute(",
            [f"{name}: Tensor" for name in request.required] + [f"{name}: Tensor | None" for name in request.optional],
            [f"{a.name}: {a.python_type}" for a in attributes],
            f") -> {'Tensor' if len(outputs) == 1 else 'tuple[Tensor, ...]'}:",
        ),
        "torch_sum": " + ".join(f"{name}.to(wide)" for name in request.required),
        "torch_results": ", ".join(f"{'total' if k == 1 else f'({k} * total)'}.to({inputs[0]}.dtype)" for k in weights),
        "gradient_parameters": ", ".join(f"{name}: Tensor" for name in gradients),
        "gradient_sum": " + ".join(
            name if k == 1 else f"{k} * {name}" for k, name in zip(weights, gradients, strict=True)
        ),
        "gradient_results": "(gradient,)" if len(inputs) == 1 else ", ".join(_gradients(request)),
        "module_head": _bracketed(
            "    def __init__(",
            ["self", "features: int", *(f"{a.name}: {a.python_type} = {a.python_default}" for a in attributes)],
            [],
            ") -> None:",
        ),
        "module_call": _bracketed(
            "        return KIT.function(",
            [inputs[0]]
            + [f"self.learned_{name}.expand_as({inputs[0]})" for name in request.required[1:]]
            + [f"self.learned_{name}" for name in request.optional]
            + [f"{a.name}=self.{a.name}_value" for a in attributes],
            [],
            ")",
        ),
        "cpp_inputs": [f"kIn{_camel(name)}" for name in inputs],
        "cpp_outputs": [f"kOut{_camel(name)}" for name in outputs],
        "cpp_sum": " + ".join(f"ort::widen(in_{name}[i])" for name in request.required),
        "cuda_sum": " + ".join(f"ort::widen(p.in_{name}[i])" for name in request.required),
        "cpp_types": _CPP_TYPES,
        "cpp_attributes": _cpp_attributes(request),
        "by_hand": _by_hand(request, len(inputs)),
        "by_hand_without": _by_hand(request, len(request.required)),
        "shapes": ", ".join(["[2, 3]"] * len(request.required) + ["[3]"] * len(request.optional)),
    }
    return parts


def _formulas(request: PackageRequest) -> list[str]:
    total = " + ".join(request.inputs)
    factors = [a.in_formula for a in request.attributes]
    found = []
    for k, output in enumerate(request.outputs, 1):
        all_factors = factors if k == 1 else [str(k), *factors]
        grouped = f"({total})" if all_factors and len(request.inputs) > 1 else total
        found.append(f"{output} = {' * '.join([*all_factors, grouped])}")
    return found


def _doc(request: PackageRequest) -> str:
    text = "; ".join(_formulas(request))
    return text if len(text) <= _WIDTH - 12 else "Multiples of the sum of the inputs, scaled by the attributes."


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
        factor = f"_given_{a.name}"
        if a.kind == "string":
            steps += [
                f'helper.make_node("Constant", [], ["_text_{a.name}"], value_string="{a.other_text}")',
                f'helper.make_node("Constant", [], ["_minus_{a.name}"], value_float=-1.0)',
                f'helper.make_node("Constant", [], ["_plus_{a.name}"], value_float=1.0)',
            ]
            node("Equal", [factor, f"_text_{a.name}"], f"_is_{a.name}")
            node("Where", [f"_is_{a.name}", f"_minus_{a.name}", f"_plus_{a.name}"], f"_sign_{a.name}")
            factor = f"_sign_{a.name}"
        factor = cast(factor, f"_wide_{a.name}")
        if a.is_list:
            steps.append(f'helper.make_node("Constant", [], ["_one_{a.name}"], value_floats=[1.0])')
            one = cast(f"_one_{a.name}", f"_least_{a.name}")
            steps.append(f'helper.make_node("Concat", ["{one}", "{factor}"], ["_all_{a.name}"], axis=0)')
            steps.append(f'helper.make_node("ReduceMax", ["_all_{a.name}"], ["_largest_{a.name}"], keepdims=0)')
            factor = f"_largest_{a.name}"
        node("Mul", [total, factor], f"_product_{number}")
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


def _cpp_attributes(request: PackageRequest) -> str:
    head, parts = "  static constexpr ort::Attribute kAttributes[] = {", [a.cpp_formal for a in request.attributes]
    line = f"{head}{', '.join(parts)}}};"
    return line if len(line) <= _WIDTH else "\n".join([head, *(f"      {part}," for part in parts), "  };"])


def _has_string(request: PackageRequest) -> bool:
    return any(a.kind == "string" for a in request.attributes)


def _factors_of_call(request: PackageRequest) -> list[str]:
    found = []
    for a in request.attributes:
        value = a.factor(f'call.attributes["{a.name}"]')
        found.append(value if a.kind == "string" else f"float({value})")
    return found


def _in_product(attribute: ExampleAttribute, value: str) -> str:
    factor = attribute.factor(value)
    return f"({factor})" if attribute.kind == "string" else factor


def _gradients(request: PackageRequest) -> list[str]:
    found = ["gradient"] * len(request.required)
    return found + [f"None if {x} is None else gradient.sum_to_size({x}.shape)" for x in request.optional]


def _by_hand(request: PackageRequest, num_inputs: int) -> str:
    """Return the results for inputs of 1 and -2, with the attributes' defaults."""
    factor = float(num_inputs)
    for a in request.attributes:
        factor *= a.default_factor
    rows = [f"[{k * factor!r}, {-2 * k * factor!r}]" for k in range(1, len(request.outputs) + 1)]
    return f"[{', '.join(rows)}]"


def _bracketed(head: str, positional: list[str], keywords: list[str], tail: str) -> str:
    """Return a call or a signature as ruff formats it: in one line, in three, or with a line for each part."""
    parts = [*positional, "*", *keywords] if keywords else positional
    indent = " " * (len(head) - len(head.lstrip()))
    inner = ", ".join(parts)
    if len(f"{head}{inner}{tail}") <= _WIDTH:
        return f"{head}{inner}{tail}"
    if len(inner) + len(indent) + 4 <= _WIDTH:
        return f"{head}\n{indent}    {inner}\n{indent}{tail}"
    return "\n".join([head, *(f"{indent}    {part}," for part in parts), f"{indent}{tail}"])


def _quoted(words: list[str]) -> str:
    return ", ".join(f'"{word}"' for word in words)


def _camel(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))
