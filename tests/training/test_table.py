"""Columns of a CSV file in training: what is chosen, what is refused, and that `run` reads rows as training did."""

from __future__ import annotations

import csv as csv_module
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from exporter.training import run as training_run
from exporter.training.checkpoints.checkpoint import CheckpointError, load_checkpoint
from exporter.training.data import table
from exporter.training.data.column_choice import ColumnChoice
from exporter.training.data.column_values import MAX_CATEGORIES
from exporter.training.data.dataset import DataError, Dataset
from exporter.training.data.files import load_csv, load_data
from exporter.training.loop import train
from exporter.training.options import TrainingOptions
from exporter.training.resume import check_resume
from exporter.training.trained import export_checkpoint
from ort_ops.prediction.columns import Column
from ort_ops.prediction.predict import predict
from ort_ops.session import InferenceSession
from tests.training.test_train_command import run as run_command

CHOICE = ColumnChoice(ignore=("name",), categorical=("colour", "zip"), fill="mean")
OPTIONS = TrainingOptions(epochs=2, hidden=(4,), device="cpu", dtype="float64", validation=0.25)


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """60 rows of a text, two categories and a number that is missing now and then."""
    rng = random.Random(0)
    lines = ["name,colour,age,zip,price"]
    for i in range(60):
        age = "" if i % 7 == 3 else str(rng.randint(20, 70))
        lines.append(f"P{i},{rng.choice(['red', 'blue'])}, {age} ,0{rng.randint(1, 3)},{rng.random():.3f}")
    path = tmp_path / "people.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text(text)
    return path


# Choosing


def test_categories_become_inputs_in_the_place_of_their_column(people: Path) -> None:
    data = load_csv(people, "price", None, CHOICE)
    assert data.feature_names == ("colour=blue", "colour=red", "age", "zip=01", "zip=02", "zip=03")
    assert data.columns[0] == Column("colour", categories=("blue", "red"))
    rows = [*csv_module.DictReader(people.read_text().splitlines())]
    assert data.features[:, 1].tolist() == [float(row["colour"] == "red") for row in rows]
    assert data.features[:, 4].tolist() == [float(row["zip"] == "02") for row in rows]
    assert np.isnan(data.features[:, 2]).tolist() == [not row["age"].strip() for row in rows]
    assert data.count_missing() == 9


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        (ColumnChoice(features=("b,a",)), ("b", "a")),
        (ColumnChoice(features=("b", "a")), ("b", "a")),
        (ColumnChoice(ignore=("a",)), ("b", "a,b")),
        (ColumnChoice(ignore=("a,b",)), ("a", "b")),
    ],
)
def test_columns_are_named_one_by_one_or_with_commas(
    tmp_path: Path, choice: ColumnChoice, names: tuple[str, ...]
) -> None:
    header = 'a,b,"a,b",y\n' if choice.features is None else "a,b,c,y\n"
    data = load_csv(write(tmp_path, header + "1,2,3,4.5\n5,6,7,8.5\n"), "y", None, choice)
    assert data.feature_names == names


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (ColumnChoice(features=("a,x,z",)), "has no column 'x', 'z', which features names; the columns are a, b, y"),
        (ColumnChoice(ignore=("x",)), "has no column 'x', which ignore names"),
        (ColumnChoice(categorical=("x",)), "has no column 'x', which categorical names"),
        (ColumnChoice(features=("a", "y")), "column 'y' is the target, so it cannot be in features too"),
        (ColumnChoice(features=("a", "b"), ignore=("b",)), "in features and in ignore: b"),
        (
            ColumnChoice(ignore=("b",), categorical=("b",)),
            "these columns are categorical and not among the features: b",
        ),
        (ColumnChoice(ignore=("a,b",)), "no column beside the target 'y'"),
    ],
)
def test_a_choice_that_makes_no_sense_is_refused(tmp_path: Path, choice: ColumnChoice, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_csv(write(tmp_path, "a,b,y\n1,2,3.5\n4,5,6.5\n"), "y", None, choice)


def test_an_npz_has_no_columns_to_choose_from_and_may_have_gaps(tmp_path: Path) -> None:
    path = tmp_path / "rows.npz"
    np.savez(path, x=np.array([[1.0, 2.0], [np.nan, 3.0], [5.0, 4.0], [3.0, 1.0]]), y=np.arange(4.0))
    with pytest.raises(DataError, match="has no names; choose columns of x before it is saved"):
        load_data(path, None, None, ColumnChoice(ignore=("x0",)))
    with pytest.raises(DataError, match=r"array x must be finite, got nan at \[1, 0\]"):
        load_data(path)
    filled, none = load_data(path, None, None, ColumnChoice(fill="mean")).split(0.0, 0)
    assert none is None
    assert sorted(filled.features[:, 0].tolist()) == [1.0, 3.0, 3.0, 5.0]
    assert filled.table_columns == (Column("x0", 3.0), Column("x1", 2.5))


# All troubles at once


def test_all_columns_that_cannot_be_used_are_listed_with_what_to_do(tmp_path: Path) -> None:
    lines = ["id,born,colour,age,typo,ok,y"]
    for i in range(120):
        age = "NA" if i == 5 else str(i)
        lines.append(
            f"u{i},2001-02-{i % 28 + 1:02},{'red' if i % 2 else 'blue'},{age},{'1O' if i == 7 else i},{i},{i}.5"
        )
    path = write(tmp_path, "\n".join(lines))
    with pytest.raises(DataError) as caught:
        load_csv(path, "y")
    message = str(caught.value)
    assert "\n" not in message
    assert "5 columns cannot be used" in message
    for part in (
        "line 2, column 'id': must be a finite number, got 'u0' (many different texts in 120 of 120 rows",
        "line 2, column 'born': must be a finite number, got '2001-02-01' (dates in 120 of 120 rows: write",
        "line 2, column 'colour': must be a finite number, got 'blue' (2 different texts in 120 of 120 rows: make each",
        "line 7, column 'age': must be a finite number, the value is missing (1 of 120 rows: fill the gaps",
        "line 9, column 'typo': must be a finite number, got '1O' (other text in 1 of 120 rows: mend these cells",
        "try --categorical colour --ignore id --ignore born --ignore typo --fill mean",
    ):
        assert part in message
    assert "'ok'" not in message
    advised = ColumnChoice(ignore=("id", "born", "typo"), categorical=("colour",), fill="mean")
    assert load_csv(path, "y", None, advised).feature_names == ("colour=blue", "colour=red", "age", "ok")


def test_categories_that_are_missing_or_too_many_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "a,y\nred,1.5\n ,2.5\n")
    with pytest.raises(DataError, match=r"line 3, column 'a': the category is missing \(1 row: write a word for it"):
        load_csv(path, "y", None, ColumnChoice(categorical=("a",)))
    path = write(tmp_path, "a,y\n" + "".join(f"t{i},{i}.5\n" for i in range(MAX_CATEGORIES + 1)))
    with pytest.raises(DataError, match="column 'a' has more than 1000 different texts"):
        load_csv(path, "y", None, ColumnChoice(categorical=("a",)))


def test_a_column_without_any_number_cannot_be_filled(tmp_path: Path) -> None:
    path = write(tmp_path, "a,b,y\n,1,1.5\nNA,2,2.5\n")
    with pytest.raises(DataError, match=r"column 'a': .* missing \(2 of 2 rows: leave it out\); try --ignore a"):
        load_csv(path, "y", None, ColumnChoice(fill="mean"))
    data = Dataset(
        "d", "regression", np.array([[np.nan], [np.nan], [1.0]]), np.arange(3.0)[:, None], ("a",), fill="mean"
    )
    with pytest.raises(DataError, match="column 'a' has no number in the rows to train on"):
        [data.split(0.3, seed) for seed in range(10)]


def test_wide_tables_are_read_in_one_pass_over_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 3000

    class Counted(str):
        __slots__ = ()
        compared = 0

        def __eq__(self, other: object) -> bool:
            Counted.compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    class Cell(str):
        __slots__ = ()

        def strip(self, chars: str | None = None) -> str:
            return Counted(str.strip(self, chars))

    records = iter([(1, [Cell(f"c{i}") for i in range(count)]), (2, ["1"] * count), (3, ["2"] * count)])
    data = table.read_table(tmp_path, records, f"c{count - 1}", "regression", ColumnChoice())
    assert data.features.shape == (2, count - 1)
    assert Counted.compared < 20 * count


# From training to serving


@pytest.mark.parametrize("source", ["by name", "by position"])
def test_run_reads_rows_as_training_did(people: Path, tmp_path: Path, source: str) -> None:
    data = load_csv(people, "price", None, CHOICE)
    result = train(data, OPTIONS, folder=tmp_path)
    checkpoint = load_checkpoint(tmp_path / "checkpoint.pt")
    model = export_checkpoint(tmp_path / "checkpoint.pt", tmp_path / "model.onnx", engine="torchscript").path

    rows = [*csv_module.DictReader(people.read_text().splitlines())]
    order = np.random.default_rng(OPTIONS.seed).permutation(60)[15:]
    mean = np.mean([float(rows[i]["age"]) for i in order if rows[i]["age"].strip()])
    assert checkpoint.data.columns[1].fill == pytest.approx(mean, rel=1e-14)
    encoded = [
        [
            *(float(row["colour"] == colour) for colour in ("blue", "red")),
            float(row["age"]) if row["age"].strip() else checkpoint.data.columns[1].fill,
            *(float(row["zip"] == code) for code in ("01", "02", "03")),
        ]
        for row in rows
    ]
    expected = result.network(torch.tensor(encoded, dtype=torch.float64)).detach().numpy()

    if source == "by position":
        people = write(tmp_path, "".join(f"{row['colour']},{row['age']},{row['zip']}\n" for row in rows))
    assert predict(InferenceSession(model, kernels="body"), str(people), tmp_path / "out.npy", batch_size=7) == 60
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, rtol=1e-12)


def test_a_resume_with_another_choice_is_refused(people: Path, tmp_path: Path) -> None:
    train(load_csv(people, "price", None, CHOICE), OPTIONS, folder=tmp_path)
    checkpoint = load_checkpoint(tmp_path / "checkpoint.pt")
    choice = ColumnChoice(ignore=("name", "age"), categorical=("colour", "zip"))
    with pytest.raises(CheckpointError, match=r"the columns .*; the filling of missing values .* was mean and is none"):
        check_resume(checkpoint, load_csv(people, "price", None, choice).describe(), OPTIONS)


def test_a_file_is_taken_without_data_and_its_options_come_back_in_the_message(
    people: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(people.parent)
    table_options = "--ignore name --categorical colour,zip --fill mean"
    assert run_command(f"people.csv --target price {table_options} --epochs 2 --hidden none") == 0
    out = capsys.readouterr().out
    assert "column    zip: 3 categories, an input each" in out
    assert "missing   9 numbers, in their place the mean of the column" in out
    line = f"people.csv --target price {table_options} --epochs 3 --resume"
    assert run_command(line) == 0
    with monkeypatch.context() as patch:

        def interrupt(self: training_run.Run) -> tuple[float | None, float | None]:
            raise KeyboardInterrupt

        patch.setattr(training_run.Run, "_validate", interrupt)
        assert run_command(f"people.csv --target price {table_options} --epochs 4 --resume") == 130
    err = capsys.readouterr().err
    assert "--data people.csv --target price --ignore name --categorical colour,zip --fill mean --epochs 4" in err


@pytest.mark.parametrize("text", ["1,5", "$12", "1 200.50", "12%", "1'000"])
def test_numbers_that_are_formatted_are_told_from_texts(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, "a;y\n" + f"{text};1.5\n{text};2.5\n")
    with pytest.raises(DataError, match=r"formatted numbers in 2 of 2 rows: write them with a decimal point .*\)$"):
        load_csv(path, "y")
