"""Try the training of a layer: it is exported, and one step of the file compared with torch, apart from the export.

``python -m tests.training_step.layers.trial`` tries all, and writes the table in docs/training_layers.md.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

import ort_ops
from exporter import export_training
from exporter.errors import ExportError
from exporter.torch_ops.tensors import to_numpy
from ort_ops.analysis.float64_run import Float64Run
from ort_ops.numerics.compare import compare
from ort_ops.training.file_format import find_metadata
from tests.training_step.layers.cases import CASES, Case

PAGE = Path(__file__).parents[3] / "docs" / "training_layers.md"
DTYPES = {"float32": torch.float32, "float64": torch.float64}
RIGHT, REFUSED = "right", "refused: "
_CAUSE = re.compile(r"Could not find an implementation for [\w.]+\(\d+\)|(?<=Status Message: ).*?(?=;|$)")
_BEGIN, _END = "<!-- table -->\n", "<!-- end of table -->\n"
_LR = 0.1
_ROWS, _OTHER_ROWS = 4, 7


class Behind(nn.Module):
    """A layer behind a scale and a shift of its input, both trained."""

    def __init__(self, layer: nn.Module, shape: Sequence[int]) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.rand(shape) + 0.5), nn.Parameter(torch.randn(shape) * 0.1)
        self.layer = layer

    def forward(self, x: Tensor) -> Any:
        return self.layer(x * self.scale + self.shift)


def wave(output: Tensor, target: Tensor) -> Tensor:
    """Return a mean over rows whose gradient differs from number to number."""
    return ((output * torch.cos(output)).flatten(1).mean(1) * target).mean()


def try_layer(case: Case, dtype: str, folder: Path) -> str:
    """Return ``right``, or ``refused: `` and why.

    Raises: AssertionError for a step that is not torch's, and whatever else is no refusal.
    """
    path = folder / "step.onnx"
    example = _batch(case, DTYPES[dtype], _ROWS)
    try:
        _export(case, dtype, example, path)
    except ExportError as error:
        return f"{REFUSED}{_reason(error)}"
    other = _batch(case, DTYPES[dtype], _OTHER_ROWS)
    given = [to_numpy(tensor) for tensor in other]
    if case.is_random:
        _check_draws(path, given)
        _export(case, dtype, example, path, is_random=False)
    _compare(case, dtype, other, path)
    return RIGHT


def _reason(error: ExportError) -> str:
    """Return the first line, or of an error of onnxruntime its cause alone."""
    line = str(error).splitlines()[0]
    found = _CAUSE.search(line)
    return line if found is None else f"onnxruntime: {found[0]}"


def _network(case: Case, dtype: torch.dtype, *, is_random: bool = True) -> tuple[nn.Module, Any]:
    """Return model and loss, always with the same parameters."""
    torch.manual_seed(1)
    if case.target is not None:
        model, loss = nn.Linear(*case.shape, 5), case.make()
    else:
        layer = case.make()
        model, loss = layer if case.indices else Behind(layer, case.shape), wave
    if not is_random:
        for part in model.modules():
            for name in ("p", "dropout"):
                if isinstance(getattr(part, name, None), float):
                    setattr(part, name, 0.0)
    return model.to(dtype), loss.to(dtype) if isinstance(loss, nn.Module) else loss


def _batch(case: Case, dtype: torch.dtype, rows: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(rows)
    x = torch.randint(0, case.indices, (rows, *case.shape)) if case.indices else torch.randn(rows, *case.shape)
    target = torch.rand(rows).to(dtype) + 0.5 if case.target is None else case.target(rows, dtype)
    return (x if case.indices else x.to(dtype)), target


def _export(case: Case, dtype: str, example: tuple[Tensor, Tensor], path: Path, *, is_random: bool = True) -> None:
    model, loss = _network(case, DTYPES[dtype], is_random=is_random)
    export_training(model, loss, torch.optim.SGD(model.parameters(), lr=_LR), example, path, inference=False)


def _compare(case: Case, dtype: str, batch: tuple[Tensor, Tensor], path: Path) -> None:
    """Compare a step with that of torch in float64, from the same numbers; the bound is that of rounding errors."""
    model, loss = _network(case, DTYPES[dtype], is_random=False)
    model, loss = model.double(), loss.double() if isinstance(loss, nn.Module) else loss
    x, target = (tensor.double() if tensor.is_floating_point() else tensor for tensor in batch)
    value = loss(model(x), target)
    value.backward()
    torch.optim.SGD(model.parameters(), lr=_LR).step()
    expected = {name: tensor.detach().numpy() for name, tensor in model.state_dict(keep_vars=True).items()}

    trainer = ort_ops.Trainer(path)
    before = trainer.state()
    got_loss = trainer.step(*map(to_numpy, batch))
    after = trainer.state()
    proto = onnx.load(path)
    metadata = find_metadata(proto)
    assert metadata is not None
    assert {name for name, p in model.named_parameters() if p.grad is not None} == set(metadata.parameters)
    del proto.functions[:]
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    feed = {name: stored[name] for name in metadata.stored} | dict(
        zip(metadata.given, map(to_numpy, batch), strict=True)
    )
    assert all(np.array_equal(before[name], stored[name]) for name in metadata.parameters)
    exact = Float64Run(proto)(feed).outputs
    pairs = {metadata.loss: (np.array(got_loss), value.detach().numpy())}
    pairs |= {output: (after[name], expected[name]) for output, name in metadata.feeds.items() if name != metadata.step}
    for output, (got, torch_s) in pairs.items():
        known = exact[output].relaxed
        if known.element_type is None:
            assert np.array_equal(got, torch_s), output
            continue
        # Both have rounding errors in float64.
        found = compare(got, torch_s, 2 * known.error, known.element_type, known.undecided)
        assert found.is_within_bound, f"{output}: {found.text}"
        assert found.is_proof, f"{output}: {found.text}"


def _check_draws(path: Path, given: Sequence[Any]) -> None:
    """Check that the runs of a file differ, each from the same state."""
    trainer = ort_ops.Trainer(path)
    before = trainer.state()
    losses = set()
    for _ in range(4):
        trainer.load_state(before)
        losses.add(trainer.step(*given))
    assert len(losses) > 1, "each run draws the same numbers"


def rows(text: str) -> dict[str, tuple[str, str]]:
    """Return what a page says of each case, in float32 and float64."""
    lines = text.partition(_BEGIN)[2].partition(_END)[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines if line.startswith("| `")]
    return {name.strip("`"): (first, second) for name, first, second in cells}


def table(results: dict[str, tuple[str, str]]) -> str:
    """Return the table of all cases, by groups."""
    text = []
    for group in dict.fromkeys(case.group for case in CASES):
        text += [f"### {group.capitalize()}", "", "| | float32 | float64 |", "|---|---|---|"]
        text += [f"| `{c.name}` | {' | '.join(results[c.name])} |" for c in CASES if c.group == group]
        text.append("")
    return "\n".join(text)


def _tried(pair: tuple[str, str]) -> str:
    name, dtype = pair
    case = next(case for case in CASES if case.name == name)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        try:
            result = try_layer(case, dtype, Path(folder))
        except Exception as error:
            result = f"WRONG: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    print(f"{name}, {dtype}: {result}", file=sys.stderr, flush=True)
    return result.replace("|", "\\|")


def main(names: Sequence[str]) -> int:
    """Try the named cases, or all, of which the table is made; return 1 if anything is neither right nor refused."""
    chosen = [case for case in CASES if not names or case.name in names]
    pairs = [(case.name, dtype) for case in chosen for dtype in DTYPES]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        found = dict(zip(pairs, pool.map(_tried, pairs), strict=True))
    text = PAGE.read_text()
    known = rows(text) | {case.name: (found[case.name, "float32"], found[case.name, "float64"]) for case in chosen}
    if all(case.name in known for case in CASES):
        head, _, rest = text.partition(_BEGIN)
        PAGE.write_text(f"{head}{_BEGIN}\n{table(known)}\n{_END}{rest.partition(_END)[2]}")
    return int(any(result.startswith("WRONG") for result in found.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
