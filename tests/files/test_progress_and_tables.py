"""Progress and tables: drawn on a terminal of any width, plain text everywhere else, and no text is ever lost."""

from __future__ import annotations

import io
import re

import pytest

from ort_ops.console.progress import Progress
from ort_ops.console.table import format_table, print_table
from ort_ops.console.terminal import GuardedStream
from ort_ops.console.tone import Tone, Toned
from tests.files.test_terminal import ATTACK, SHOWN

HEADER = ["name", "verdict", "detail"]
ROWS = [
    ["[red]markup[/red] :smile:", Toned("ok", Tone.GOOD), "long words " * 30],
    [ATTACK, Toned("wrong", Tone.BAD), "x" * 300],
    ["重み", Toned("-", Tone.QUIET), ""],
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 80 columns with colors; what the tests' own terminal is does not matter."""
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")


def words_of(text: str) -> str:
    """The text without styles, spaces and lines: what a reader can piece together."""
    return "".join(re.sub(r"\x1b\[[\d;]*m", "", text).split())


def test_progress_shows_how_many_of_how_many_then_the_time_then_the_note() -> None:
    stream = Terminal()
    line = Progress("demo", None, stream=stream)
    line.update(3, f"verifying {ATTACK}", total=7)
    line.finish()
    *_, last = stream.getvalue().split("\r\x1b[2K")
    plain = re.sub(r"\x1b\[[\d;]*m", "", last)
    assert re.fullmatch(r"demo [━╸╺]{24} 3/7 \d\.\d s verifying n\\x1b\]0;owned.*\n", plain)
    assert last.count("\x1b[") > 1, "the bar has colors"


def test_progress_steers_a_guarded_terminal() -> None:
    stream = Terminal()
    Progress("run", 2, stream=GuardedStream(stream, lambda error: None)).finish()  # type: ignore[arg-type]
    assert stream.getvalue().startswith("\r\x1b[2Krun ")
    assert "\\x1b" not in stream.getvalue()


@pytest.mark.parametrize("columns", ["1", "10", "30", "80"])
def test_progress_stays_on_one_line_however_narrow_the_terminal_is(
    columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    stream = Terminal()
    Progress("training", 9, stream=stream).update(3, "a note that is longer than a terminal is wide " * 3)
    assert "\n" not in stream.getvalue()
    shown = re.sub(r"\x1b\[[\d;]*[mK]", "", stream.getvalue()).lstrip("\r")
    assert len(shown) < max(2, int(columns))


@pytest.mark.parametrize("setting", [{"TERM": "dumb"}, {"TERM": "unknown"}, {"FORCE_COLOR": "1"}], ids=str)
def test_only_a_terminal_that_understands_them_gets_control_codes(
    setting: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in setting.items():
        monkeypatch.setenv(name, value)
    stream = Terminal() if "TERM" in setting else io.StringIO()
    monkeypatch.setenv("COLUMNS", "20")
    line = Progress("run", 2, stream=stream)
    line.update(2, "rows")
    line.finish()
    assert re.fullmatch(r"run 2/2 \d\.\d s  rows\n", stream.getvalue().splitlines(keepends=True)[-1])
    print_table(HEADER, ROWS, stream)
    assert stream.getvalue().replace("\n", "").isprintable()
    assert format_table(HEADER, ROWS) in stream.getvalue()


def test_no_color_keeps_the_terminal_without_colors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    print_table(HEADER, ROWS, stream)
    assert not re.search(r"\x1b\[[\d;]*3\d", stream.getvalue())
    assert words_of(stream.getvalue()).startswith("nameverdictdetail")


def test_a_table_keeps_its_lines_whatever_the_cells_say() -> None:
    lines = format_table(["a"], [["x\nparity holds"], [ATTACK]]).splitlines()
    assert lines == ["a", "-" * len(SHOWN), "x\\nparity holds", SHOWN]


def test_wide_characters_keep_the_columns_aligned() -> None:
    assert format_table(["名", "b"], [["重み", "1"], ["w", "2"]]).splitlines()[2:] == ["重み  1", "w     2"]


@pytest.mark.parametrize("columns", ["1", "20", "40", "80", "400"])
def test_a_terminal_gets_every_text_in_the_color_of_its_tone(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    stream = Terminal()
    print_table(HEADER, ROWS, GuardedStream(stream, lambda error: None))  # type: ignore[arg-type]
    drawn = stream.getvalue()
    assert "\x1b[32mok" in drawn
    assert "\x1b[1;31mwrong" in drawn
    assert "\x1b[2m-" in drawn
    assert "\x1b]" not in drawn, "a name steers nothing"
    letters = sorted(words_of(drawn).replace("-", ""))
    assert letters == sorted("".join(words_of("".join(row)) for row in (HEADER, *_shown())).replace("-", ""))
    if columns in ("40", "80"):
        lines = re.sub(r"\x1b\[[\d;]*m", "", drawn).splitlines()
        assert max(map(len, lines)) <= int(columns), "folded, not cut"


def test_a_table_too_long_to_draw_is_plain_text_on_a_terminal_too() -> None:
    stream = Terminal()
    print_table(["a"], [["x"]] * 501, stream)
    assert stream.getvalue() == "a\n-\n" + "x\n" * 501


def _shown() -> list[list[str]]:
    return [[ROWS[0][0], "ok", ROWS[0][2]], [SHOWN, "wrong", ROWS[1][2]], ["重み", "-", ""]]
