"""Which combinations of element types an operator takes, where not every one that its type variables could have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ort_ops.opdef.parameters import DefinitionError, TypeVariable, one_of

if TYPE_CHECKING:
    from ort_ops.opdef.operator import Operator

Combination = tuple[str, ...]
"""Names of element types, in the order of the operator's variables."""


def check_allowed(variables: Sequence[TypeVariable], allowed: Sequence[Combination]) -> None:
    """Check a definition's combinations: each is whole, within the variables' types, and no type is without one.

    Raises: DefinitionError.
    """
    for combination in allowed:
        named = list(zip(variables, combination, strict=False))
        if len(combination) != len(variables) or any(name not in variable.dtypes for variable, name in named):
            rule = f"one type for each of {', '.join(variable.name for variable in variables)}"
            raise DefinitionError(f"an allowed combination must be {rule}, got {combination}")
    if len(set(allowed)) != len(allowed):
        raise DefinitionError("the allowed combinations must differ, got one twice")
    for place, variable in enumerate(variables):
        unused = sorted(set(variable.dtypes) - {combination[place] for combination in allowed})
        if unused:
            raise DefinitionError(f"each type of {variable.name} must be in an allowed combination, got no {unused[0]}")


def check_known(operator: Operator, names: Sequence[str | None]) -> None:
    """Check the element types of a call's inputs, as far as they are known; None for those that are not.

    Raises: ContractError.
    """
    bound: dict[TypeVariable, str] = {}
    for parameter, name in zip(operator.inputs, names, strict=False):
        if name is None:
            continue
        if name not in parameter.type.dtypes:
            raise operator.error(parameter.argument, parameter.type.rule, name)
        if bound.setdefault(parameter.type, name) != name:
            raise operator.error(parameter.argument, bound[parameter.type], name)
    check_combination(operator, bound)


def check_combination(operator: Operator, bound: Mapping[TypeVariable, str]) -> None:
    """Check that the known element types of a call may stand together.

    Args:
        bound: the names of the types, by variable; those of some variables may be missing.

    Raises: ContractError naming the first argument whose type fits none of those before it.
    """
    fitting = operator.allowed
    before: list[str] = []
    for place, variable in enumerate(operator.variables if fitting else ()):
        if variable not in bound:
            continue
        argument = next(p.argument for p in (*operator.inputs, *operator.outputs) if p.type == variable)
        choices = [name for name in variable.dtypes if name in {combination[place] for combination in fitting}]
        if bound[variable] not in choices:
            rule = one_of(choices) + (f" ({', '.join(before)})" if before else "")
            raise operator.error(argument, rule, bound[variable])
        fitting = tuple(combination for combination in fitting if combination[place] == bound[variable])
        before.append(f"{argument} is {bound[variable]}")
