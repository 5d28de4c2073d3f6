"""Datasets: splits, examples, the linear example, and every way in which a file can be wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from exporter.training.data.dataset import DataError, Dataset, load_diabetes, load_digits
from exporter.training.data.files import load_csv, load_data, load_npz
from exporter.training.data.linear_example import LinearExample


def dataset(rows: int = 20) -> Dataset:
    features = np.arange(rows * 3.0).reshape(rows, 3)
    return Dataset("d", "regression", features, features[:, :1] * 2, ("a", "b", "c"))


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def numbered(rows: int, line: str) -> str:
    return "".join(line.format(i=i) + "\n" for i in range(rows))


# Splitting


def test_a_split_keeps_every_row_once_and_rows_with_their_targets() -> None:
    train, validation = dataset().split(0.25, seed=1)
    assert validation is not None
    assert (train.rows, validation.rows) == (15, 5)
    features = np.concatenate([train.features, validation.features])
    assert sorted(features[:, 0]) == sorted(dataset().features[:, 0])
    for part in (train, validation):
        np.testing.assert_array_equal(part.targets[:, 0], part.features[:, 0] * 2)


def test_a_split_depends_on_the_seed_alone() -> None:
    first, again, other = (dataset().split(0.25, seed)[0].features for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_fraction_of_zero_keeps_no_rows_and_a_tiny_one_keeps_one() -> None:
    assert dataset().split(0.0, seed=0)[1] is None
    smallest = dataset().split(1e-9, seed=0)[1]
    assert smallest is not None
    assert smallest.rows == 1


@pytest.mark.parametrize(("rows", "fraction"), [(2, 0.2), (10, 0.95)])
def test_too_few_rows_to_split_are_refused(rows: int, fraction: float) -> None:
    with pytest.raises(DataError, match=f"{rows} rows are too few"):
        dataset(rows).split(fraction, seed=0)


def test_the_fingerprint_changes_with_a_single_value() -> None:
    changed = dataset()
    changed.features[3, 1] += 1e-9
    assert dataset().describe() == dataset().describe()
    assert dataset().describe().fingerprint != changed.describe().fingerprint


def test_a_dataset_whose_parts_do_not_fit_is_refused() -> None:
    x, y = np.zeros((4, 2)), np.arange(4.0)[:, None]
    labels = np.array([0, 1, 2, 0])
    for arguments, message in [
        (("regression", x[0], y, ("a", "b")), "features must be"),
        (("regression", x, y[:3], ("a", "b")), "targets must be"),
        (("regression", x, y, ("a",)), "1 names for 2 columns"),
        (("regression", x, y * 0, ("a", "b")), "same target"),
        (("regression", x + np.nan, y, ("a", "b")), r"features must be finite, got nan at \[0, 0\]"),
        (("classification", x, labels, ("a", "b")), "class names"),
        (("classification", x, labels, ("a", "b"), ("no", "yes")), "classes 0 to 1"),
        (("ranking", x, y, ("a", "b")), "task must be"),
    ]:
        with pytest.raises(DataError, match=message):
            Dataset("d", *arguments)  # type: ignore[arg-type]


# Examples


def test_digits_and_diabetes_have_their_known_shapes_and_raw_units() -> None:
    digits, diabetes = load_digits(), load_diabetes()
    assert (digits.features.shape, digits.task, digits.num_outputs) == ((1797, 64), "classification", 10)
    assert digits.class_names == tuple("0123456789")
    assert digits.features.max() == 16
    assert (diabetes.features.shape, diabetes.task, diabetes.num_outputs) == ((442, 10), "regression", 1)
    assert 18 < diabetes.features[:, diabetes.feature_names.index("age")].mean() < 80


def test_the_linear_example_gives_a_fresh_sample_of_its_formula_each_time() -> None:
    problem, generator = LinearExample(), torch.Generator().manual_seed(0)
    x, y = problem.sample(5, generator, torch.float64)
    again, _ = problem.sample(5, generator, torch.float64)
    assert x.shape == (5, 2)
    assert 0 <= x.min() <= x.max() < 1
    assert torch.equal(y[:, 0], 2 * x[:, 0] + 3 * x[:, 1] + 4)
    assert not torch.equal(x, again)


# CSV


def test_csv_reads_numbers_names_and_a_target_anywhere(tmp_path: Path) -> None:
    path = write(tmp_path / "d.csv", "a, y ,b\n1,10.5,-2e3\n\n 3 ,0.25,4\n5,1,6\n")
    data = load_csv(path, "y")
    assert (data.task, data.feature_names, data.name) == ("regression", ("a", "b"), "d.csv")
    np.testing.assert_array_equal(data.features, [[1, -2000], [3, 4], [5, 6]])
    np.testing.assert_array_equal(data.targets, [[10.5], [0.25], [1]])


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_csv_takes_semicolons_tabs_quotes_and_a_byte_order_mark(tmp_path: Path, delimiter: str) -> None:
    text = '\ufeff"a"|y\r\n1|2.5\r\n"3"|4.5\r\n'.replace("|", delimiter)
    data = load_csv(write(tmp_path / "d.csv", text), "y")
    assert data.feature_names == ("a",)
    np.testing.assert_array_equal(data.features, [[1], [3]])


def test_a_text_target_makes_classes_in_order(tmp_path: Path) -> None:
    data = load_csv(write(tmp_path / "d.csv", "a,kind\n1,rose\n2,iris\n3,rose\n4,iris\n"), "kind")
    assert (data.task, data.class_names) == ("classification", ("iris", "rose"))
    assert data.targets.tolist() == [1, 0, 1, 0]


def test_integer_targets_are_classes_where_they_are_few_and_numbers_where_they_are_many(tmp_path: Path) -> None:
    few = write(tmp_path / "few.csv", "a,y\n" + numbered(30, "{i},1") + numbered(30, "{i},10") + numbered(30, "{i},2"))
    many = write(tmp_path / "many.csv", "a,y\n" + numbered(90, "{i},{i}"))
    assert load_csv(few, "y").class_names == ("1", "2", "10")
    assert load_csv(many, "y").task == "regression"
    assert load_csv(few, "y", "regression").targets.shape == (90, 1)
    assert load_csv(many, "y", "classification").num_outputs == 90


def test_decimals_are_never_taken_as_classes(tmp_path: Path) -> None:
    path = write(tmp_path / "d.csv", "a,y\n" + numbered(20, "{i},1.0") + numbered(20, "{i},2.0"))
    assert load_csv(path, "y").task == "regression"


BAD_CSV: dict[str, tuple[str | bytes, str]] = {
    "empty file": ("", "is empty; it must have a header"),
    "only empty lines": ("\n\n", "is empty; it must have a header"),
    "header only": ("a,y\n", "has a header and no rows"),
    "no header": ("1,2\n3,4\n", "line 1 must be a header"),
    "unnamed column": (",y\n1,2\n", "line 1: column 1 has no name"),
    "same name twice": ("a,a,y\n1,2,3\n", "line 1: two columns are called 'a'"),
    "no such target": ("a,b\n1,2\n", "has no column 'y'; the columns are a, b"),
    "target only": ("y\n1\n", "no column beside the target 'y'"),
    "text": ("a,y\n1,2\n\nx,3\n", "line 4, column 'a': must be a finite number, got 'x'"),
    "missing value": ("a,b,y\n1,,2\n", "line 2, column 'b': must be a finite number, the value is missing"),
    "missing target": ("a,y\n1,2\n3, \n", "line 3, column 'y': must be a finite number, the value is missing"),
    "not finite": ("a,y\n1,2\ninf,3\n", "line 3, column 'a': must be a finite number, got 'inf'"),
    "NaN target": ("a,y\n1,2.5\n2,nan\n", "line 3, column 'y': must be a finite number, got 'nan'"),
    "Python's own number": ("a,y\n1_000,2\n", "line 2, column 'a': must be a finite number, got '1_000'"),
    "too few columns": ("a,b,y\n1,2,3\n1,2\n", "line 3: 2 columns, and the header has 3"),
    "too many columns": ("a,y\n1,2,3\n", "line 2: 3 columns, and the header has 2"),
    "one number mistyped": ("a,y\n1,2.5\n2,3.5\n3,4.x\n", "line 4, column 'y': .* got '4.x'; name the task class"),
    "texts all different": ("a,y\n" + numbered(9, "{i},id{i}"), "9 different texts in 9 rows are no classes"),
    "one class": ("a,y\n1,rose\n2,rose\n", "every row has the same target"),
    "constant target": ("a,y\n1,0.5\n2,0.5\n", "every row has the same target"),
    "open quote": ('a,y\n1,2\n"3,4\n', "line 3: unexpected end of data"),
    "binary data": (b"\x00\x01\x02\xff\xfe", "is not a CSV file"),
    "zeros": (b"\x00" * 64, "is not a CSV file: it holds binary data"),
    "latin-1": ("a,größe\n1,2\n".encode("latin-1"), "is not UTF-8 text"),
}


@pytest.mark.parametrize("case", BAD_CSV)
def test_a_bad_csv_is_refused_with_file_line_and_column(tmp_path: Path, case: str) -> None:
    content, message = BAD_CSV[case]
    path = write(tmp_path / "rows.csv", content)
    with pytest.raises(DataError, match=message) as caught:
        load_csv(path, "y")
    assert "rows.csv" in str(caught.value)


def test_a_csv_without_a_target_named_lists_the_columns(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the columns are a, b, y"):
        load_data(write(tmp_path / "d.csv", "a,b,y\n1,2,3\n"))


def test_a_text_target_cannot_be_a_regression(tmp_path: Path) -> None:
    path = write(tmp_path / "d.csv", "a,y\n1,rose\n2,iris\n")
    with pytest.raises(DataError, match=r"line 2, column 'y': must be a finite number, got 'rose'$"):
        load_csv(path, "y", "regression")


@pytest.mark.parametrize("suffix", ["csv", "npz"])
def test_missing_files_folders_and_unreadable_files_are_told_apart(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"rows.{suffix}"
    target = "y" if suffix == "csv" else None
    with pytest.raises(DataError, match="there is no data file"):
        load_data(path, target)
    path.mkdir()
    with pytest.raises(DataError, match="is a folder"):
        load_data(path, target)

    path.rmdir()
    path.write_bytes(b"")

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        load_data(path, target)


# NPZ


def save_npz(path: Path, **arrays: object) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def test_npz_reads_regressions_of_one_or_more_outputs_and_classes(tmp_path: Path) -> None:
    x = np.arange(20, dtype=np.float32).reshape(10, 2)
    one = load_npz(save_npz(tmp_path / "one.npz", x=x, y=np.arange(10.0)))
    two = load_npz(save_npz(tmp_path / "two.npz", x=x, y=np.arange(20).reshape(10, 2)))
    labels = load_data(save_npz(tmp_path / "labels.npz", x=x, y=np.arange(10)[:, None] % 3))
    texts = load_npz(save_npz(tmp_path / "texts.npz", x=x, y=np.array(["no", "yes"] * 5)))
    assert (one.targets.shape, one.feature_names) == ((10, 1), ("x0", "x1"))
    assert (two.task, two.num_outputs) == ("regression", 2)
    assert (labels.task, labels.class_names) == ("classification", ("0", "1", "2"))
    assert (texts.task, texts.class_names) == ("classification", ("no", "yes"))


X = np.zeros((4, 2))
BAD_NPZ = {
    "no y": ({"x": X, "z": X}, r"has no array y \(it has: x, z\)"),
    "neither": ({"a": X}, r"has no array x and no array y \(it has: a\)"),
    "x of one dimension": ({"x": X[0], "y": X[0]}, r"array x must be numbers \[rows, columns\]"),
    "x of text": ({"x": np.array([["a"]]), "y": X[:1, 0]}, "array x must be numbers"),
    "another number of rows": ({"x": X, "y": X[:3, 0]}, r"array y must be \[4\]"),
    "x not finite": (
        {"x": np.where(np.eye(4, 2, -1) > 0, np.inf, X), "y": X[:, 0]},
        r"array x must be finite, got inf at \[1, 0\]",
    ),
    "y not finite": ({"x": X, "y": np.array([1, 2, np.nan, 4])}, r"array y must be finite, got nan at \[2\]"),
    "objects": (
        {"x": X, "y": np.array([1, "a", None, 2], dtype=object)},
        "array y must be numbers or text, got dtype object",
    ),
}


@pytest.mark.parametrize("case", BAD_NPZ)
def test_a_bad_npz_is_refused_with_the_array(tmp_path: Path, case: str) -> None:
    arrays, message = BAD_NPZ[case]
    with pytest.raises(DataError, match=message):
        load_npz(save_npz(tmp_path / "d.npz", **arrays))


def test_an_npz_that_is_none_or_cut_short_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not an NPZ file"):
        load_npz(write(tmp_path / "text.npz", "a,y\n1,2\n"))
    whole = save_npz(tmp_path / "whole.npz", x=X, y=X[:, 0]).read_bytes()
    with pytest.raises(DataError, match=r"is not an NPZ file|cannot be read"):
        load_npz(write(tmp_path / "cut.npz", whole[: len(whole) // 2]))
    with pytest.raises(DataError, match="cannot be read"):
        load_npz(write(tmp_path / "flipped.npz", whole.replace(b"NUMPY", b"numpy")))


def test_a_target_column_for_an_npz_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has its target in array y"):
        load_data(save_npz(tmp_path / "d.npz", x=X, y=X[:, 0]), "y")
