"""A CSV file means the same in training and in serving: the same numbers, or an error at the same line."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from exporter.training.data.column_choice import ColumnChoice
from exporter.training.data.dataset import DataError
from exporter.training.data.files import load_csv
from ort_ops.files.inputs import InputError
from ort_ops.prediction.columns import Column
from ort_ops.prediction.rows import RowReader

GOOD = {
    "plain": b"a,b,y\n1,2,0.5\n3,4,1.5\n",
    "CRLF": b"a,b,y\r\n1,2,0.5\r\n3,4,1.5\r\n",
    "CR": b"a,b,y\r1,2,0.5\r3,4,1.5\r",
    "all ends of line": b"a,b,y\r\n1,2,0.5\r3,4,1.5\n5,6,2.5",
    "byte order mark": b"\xef\xbb\xbfa,b,y\n1,2,0.5\n3,4,1.5\n",
    "no end of line at the end": b"a,b,y\n1,2,0.5\n3,4,1.5",
    "blank lines": b"\n \n\na,b,y\n\n1,2,0.5\n  \n\n3,4,1.5\n\n",
    "a line of an empty text": b'a,b,y\n1,2,0.5\n""\n3,4,1.5\n',
    "quoted numbers": b'a,b,y\n"1","2",0.5\n"3",4,"1.5"\n',
    "spaces": b" a , b ,y\n 1,2\t,0.5\n3 , 4 ,1.5\n",
    "semicolons": b"a;b;y\n1;2;0.5\n3;4;1.5\n",
    "tabs": b"a\tb\ty\n1\t2\t0.5\n3\t4\t1.5\n",
    "another order of columns": b"y,c,b,a\n0.5,x,2,1\n1.5,y,4,3\n",
    "a column of texts with line ends": b'a,c,b,y\n1,"x\r\ny\n",2,0.5\n3,"p;q,\tr",4,1.5\n',
    "doubled and lone quotes": b'a,c,b,y\n1,"x""y",2,0.5\n3,p"q,4,1.5\n',
    "other separators of text": "a,c,b,y\n1,x\u0085\u2028\x0b\x0cy,2,0.5\n3,z,4,1.5\n".encode(),
    "a quoted header with a line end": b'"c\nd",a,b,y\n0,1,2,0.5\n0,3,4,1.5\n',
    "numbers in other ways": b"a,b,y\n+1.0,2e0,0.5\n3.,0.4E1,1.5\n",
    "missing numbers": b"a,b,y\nNA,2,0.5\n3,,1.5\n null ,5,2.5\n",
}
BAD = {
    "text after a quote": b'a,b,y\n1,2,0.5\n"1"0,2,1.5\n',
    "a space after a quote": b'a,b,y\n1,2,0.5\n"1" ,2,1.5\n',
    "an open quote": b'a,b,y\n1,2,0.5\n"3,4,1.5\n',
    "a comma in a text after a space": b'a,b,y\n1,2,0.5\n "1,0",2,1.5\n',
    "a short line": b"a,b,y\n1,2,0.5\n1,2\n",
    "a short line after line ends in a text": b'a,b,y\n"1\n\n",2,0.5\n1,2\n',
    "a long line": b"a,b,y\n1,2,0.5\n1,2,1.5,4\n",
    "a comma at the end of a line": b"a,b,y\n1,2,0.5\n1,2,1.5,\n",
    "a text": b'a,b,y\n\n1,2,0.5\n"x\ny",2,1.5\n',
    "a number of Python's own": b"a,b,y\n1,2,0.5\n1_0,2,1.5\n",
    "an infinity": b"a,b,y\n1,2,0.5\ninf,2,1.5\n",
    "two columns of one name": b"a,a,b,y\n1,1,2,0.5\n",
    "NUL": b"a,b,y\n1,2,0.5\n1,\x002,1.5\n",
    "no UTF-8": b"a,b,y\n1,2,0.5\n\xff,2,1.5\n",
}
COLUMNS = (Column("a", fill=-1.0), Column("b", fill=-2.0))


def in_training(path: Path) -> np.ndarray:
    data = load_csv(path, "y", "regression", ColumnChoice(features=("a", "b"), fill="mean"))
    return np.where(np.isnan(data.features), [column.fill for column in COLUMNS], data.features)


def in_serving(path: Path) -> np.ndarray:
    reader = RowReader((None, 2), np.dtype(np.float64), COLUMNS, 2)
    return np.concatenate([*reader.open(str(path)).batches])


@pytest.mark.parametrize("case", GOOD)
def test_both_read_the_same_numbers(case: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(GOOD[case])
    trained, served = in_training(path), in_serving(path)
    np.testing.assert_array_equal(trained, served)
    if case != "missing numbers":
        np.testing.assert_array_equal(served[:2], [[1, 2], [3, 4]])
        assert len(served) == (3 if case == "all ends of line" else 2)


@pytest.mark.parametrize("case", BAD)
def test_both_refuse_the_same_line(case: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(BAD[case])
    with pytest.raises(DataError) as trained:
        in_training(path)
    with pytest.raises(InputError) as served:
        in_serving(path)
    lines = [re.search(r"line (\d+)", str(caught.value)) for caught in (trained, served)]
    assert all(lines), (str(trained.value), str(served.value))
    assert lines[0][1] == lines[1][1]  # type: ignore[index]
