"""What the metadata of a training file says, and its JSON; no onnx.

A training file is one ONNX model. Its entry ``mylinear.training`` of ``metadata_props`` says what each input and output
is, so that any language can run the loop: after a run, each output ``n/next`` becomes the input ``n``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ort_ops.errors import ModelError

if TYPE_CHECKING:
    import onnx

KEY = "mylinear.training"
"""The key in ``metadata_props``."""
FORMAT = 1
"""The version of this format; a reader refuses any other."""
NEXT = "/next"
"""What an output is called that is the next value of an input: the input's name and this."""
GRADIENT = "/grad"
"""What a gradient, or the sum of a parameter's gradients, is called: the name of what it belongs to and this."""
FUNCTION_DOMAIN = "mylinear.training"
"""Domain of the model-local function that is the model in eval mode."""

STEP, GRAD, APPLY, GRADIENTS = "step", "grad", "apply", "gradients"
KINDS = (STEP, GRAD, APPLY, GRADIENTS)
"""A whole step; the two halves of a step that accumulates gradients; gradients alone, without an optimizer."""

_LISTS = ("inputs", "targets", "outputs", "of", "parameters", "buffers", "optimizer_state")
_NAMES = ("loss", "step", "lr", "count", "inference", "apply")
_MAPS = ("feeds", "gradients", "cotangents")


@dataclass(frozen=True)
class Group:
    """One group of an optimizer's parameters.

    Attributes:
        parameters: names.
        options: as torch names them, such as ``lr`` and ``betas``; numbers, truths, texts, lists of numbers or None.
    """

    parameters: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OptimizerDescription:
    """The optimizer that is inside a training file.

    Attributes:
        name: torch's class, such as ``AdamW``.
        groups: every trained parameter is in exactly one.
    """

    name: str
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class TrainingMetadata:
    """Who is who among the inputs and outputs of a training file.

    Attributes:
        kind: ``step`` does all; ``grad`` adds to sums of gradients, and ``apply`` updates by them; ``gradients``
            returns outputs and gradients, and has no state.
        loss: name of the output; empty in ``apply`` and where ``gradients`` has none.
        inputs: the user's, in order.
        targets: the user's, in order, after the inputs.
        outputs: those of the model itself; in ``gradients`` only.
        of: in ``gradients``, the outputs that are differentiated: the sum of all their numbers, or their products with
            cotangents.
        cotangents: in ``gradients``, output by the name of the input that is its cotangent; none where seeds are 1.
        feeds: name of the output that becomes the input, by the output: ``{"weight/next": "weight"}``.
        parameters: those that are trained. The others are initializers.
        buffers: such as running statistics.
        optimizer_state: ``<parameter>/<slot>``, with torch's names of the slots.
        step: the input that counts the steps done, int64 and a scalar; empty in ``grad`` and ``gradients``.
        lr: the input of the learning rate, float64: a scalar, or one number for each group of several.
        optimizer: None in ``gradients``.
        gradients: parameter (or input) by the name of its gradient. In ``grad`` and ``apply`` these are sums, inputs
            of both; in ``gradients`` they are outputs.
        inference: name of the model-local function that is the model in eval mode; empty if there is none.
        accumulate: how many runs of ``grad`` one of ``apply`` follows; None in other kinds.
        apply: in ``grad``, name of the ``apply`` file beside it.
        count: in ``apply``, the input, float64 and a scalar, that the sums are divided by.
        accumulated: in ``grad``, how many runs the stored sums hold.
        ranges: smallest and largest number of inputs and targets in the example that was exported, by name. What is
            drawn to try the file stays within them, such as the probabilities that a loss takes.
    """

    kind: str
    loss: str = ""
    inputs: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    of: tuple[str, ...] = ()
    cotangents: Mapping[str, str] = field(default_factory=dict)
    feeds: Mapping[str, str] = field(default_factory=dict)
    parameters: tuple[str, ...] = ()
    buffers: tuple[str, ...] = ()
    optimizer_state: tuple[str, ...] = ()
    step: str = ""
    lr: str = ""
    optimizer: OptimizerDescription | None = None
    gradients: Mapping[str, str] = field(default_factory=dict)
    inference: str = ""
    accumulate: int | None = None
    apply: str = ""
    count: str = ""
    accumulated: int = 0
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def fed(self) -> tuple[str, ...]:
        """The inputs that outputs feed: the state that a run changes."""
        return tuple(self.feeds.values())

    @property
    def stored(self) -> tuple[str, ...]:
        """The inputs whose first values are in the file."""
        names = [*self.parameters, *self.buffers, *self.optimizer_state]
        if self.kind == GRAD:
            names += self.gradients
        return (*names, *(name for name in (self.step, self.lr) if name))

    @property
    def given(self) -> tuple[str, ...]:
        """The inputs that the user gives in each run."""
        return (*self.inputs, *self.targets, *self.cotangents)

    def to_json(self) -> str:
        """Return the text for ``metadata_props``."""
        found: dict[str, Any] = {"format": FORMAT, "kind": self.kind}
        found |= {key: list(getattr(self, key)) for key in _LISTS}
        found |= {key: getattr(self, key) for key in _NAMES}
        found |= {key: dict(getattr(self, key)) for key in _MAPS}
        found["optimizer"] = self.optimizer and {
            "class": self.optimizer.name,
            "groups": [{**group.options, "parameters": list(group.parameters)} for group in self.optimizer.groups],
        }
        found |= {"accumulate": self.accumulate, "accumulated": self.accumulated}
        found["ranges"] = {name: list(ends) for name, ends in self.ranges.items()}
        return json.dumps(found, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> TrainingMetadata:
        """Read the text; what is optional may be absent, and nothing may be there that is not known.

        Raises: ModelError; its message lacks the name of the model.
        """
        try:
            found = json.loads(text, object_pairs_hook=_without_duplicates)
        except (ValueError, RecursionError) as error:
            raise _damaged(f"it is no JSON: {error}") from None
        if not isinstance(found, dict):
            raise _damaged(f"it must be an object, got {_shown(found)}")
        number = found.pop("format", None)
        if number != FORMAT or isinstance(number, bool):
            raise ModelError(
                f": this version reads format {FORMAT} of training files, and the file has {_shown(number)}; "
                "export it again, or update ort-mylinear"
            )
        kind = found.pop("kind", None)
        if kind not in KINDS:
            raise _damaged(f"'kind' must be one of {', '.join(KINDS)}, got {_shown(kind)}")
        values: dict[str, Any] = {"kind": kind}
        values |= {key: _names(key, found.pop(key, [])) for key in _LISTS}
        values |= {key: _name(key, found.pop(key, "")) for key in _NAMES}
        values |= {key: _map(key, found.pop(key, {})) for key in _MAPS}
        values["optimizer"] = _optimizer(found.pop("optimizer", None))
        accumulate = found.pop("accumulate", None)
        values["accumulate"] = None if accumulate is None else _count("accumulate", accumulate, 1)
        values["accumulated"] = _count("accumulated", found.pop("accumulated", 0), 0)
        values["ranges"] = _ranges(found.pop("ranges", {}))
        if found:
            raise _damaged(f"it has the unknown entry {_shown(min(found))}")
        return cls(**values)


def find_metadata(model: onnx.ModelProto) -> TrainingMetadata | None:
    """Return what the model says of itself; None if it is no training file. The graph is not looked at.

    Raises: ModelError; its message lacks the name of the model.
    """
    found = [entry.value for entry in model.metadata_props if entry.key == KEY]
    if len(found) > 1:
        raise _damaged(f"it is there {len(found)} times")
    return TrainingMetadata.from_json(found[0]) if found else None


def put_metadata(model: onnx.ModelProto, metadata: TrainingMetadata) -> None:
    """State the metadata in the model, in place of what it states."""
    kept = [(entry.key, entry.value) for entry in model.metadata_props if entry.key != KEY]
    del model.metadata_props[:]
    for key, value in (*kept, (KEY, metadata.to_json())):
        model.metadata_props.add(key=key, value=value)


def _damaged(reason: str) -> ModelError:
    return ModelError(f" is damaged: metadata '{KEY}': {reason}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _without_duplicates(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an entry is there twice")
    return found


def _name(key: str, value: object) -> str:
    if not isinstance(value, str):
        raise _damaged(f"'{key}' must be a name, got {_shown(value)}")
    return value


def _names(key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise _damaged(f"'{key}' must be a list of names, got {_shown(value)}")
    return tuple(value)


def _map(key: str, value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(name, str) and name for name in (*value, *value.values())):
        raise _damaged(f"'{key}' must map names to names, got {_shown(value)}")
    return value


def _ranges(value: object) -> dict[str, tuple[float, float]]:
    if not isinstance(value, dict) or not all(map(_is_range, value.values())):
        raise _damaged(f"'ranges' must map names to two finite numbers in order, got {_shown(value)}")
    return {name: (float(low), float(high)) for name, (low, high) in value.items()}


def _is_range(value: object) -> bool:
    if not isinstance(value, list) or len(value) != 2:
        return False
    are_numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in value)
    return are_numbers and -math.inf < value[0] <= value[1] < math.inf


def _count(key: str, value: object, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise _damaged(f"'{key}' must be a whole number from {least}, got {_shown(value)}")
    return value


def _optimizer(value: object) -> OptimizerDescription | None:
    if value is None:
        return None
    if not isinstance(value, dict) or set(value) != {"class", "groups"} or not isinstance(value["groups"], list):
        raise _damaged(f"'optimizer' must have 'class' and 'groups', got {_shown(value)}")
    groups = []
    for group in value["groups"]:
        if not isinstance(group, dict) or "parameters" not in group:
            raise _damaged(f"a group of the optimizer must have 'parameters', got {_shown(group)}")
        options = {key: option for key, option in group.items() if key != "parameters"}
        groups.append(Group(_names("parameters", group["parameters"]), options))
    return OptimizerDescription(_name("class", value["class"]), tuple(groups))
