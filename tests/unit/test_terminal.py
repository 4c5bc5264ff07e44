"""Content of untrusted files is escaped before it is shown in a terminal."""

from __future__ import annotations

import io
import os
import unicodedata

import pytest

from crysatom.config.terminal import Terminal, one_line, printable

SENT = {
    "\x1b[2J": "\\x1b[2J",  # clears the screen
    "\x1b]0;title\x07": "\\x1b]0;title\\x07",
    "\rover": "\\rover",
    "\x08": "\\x08",
    "\x00": "\\x00",
    "\x7f": "\\x7f",
    "\x9b31m": "\\x9b31m",  # a C1 control: the same as ESC [
    "\u202egpj.cif": "\\u202egpj.cif",  # shown from right to left
    "\u2066": "\\u2066",
    "\u200b": "\\u200b",
    "\u2028": "\\u2028",
    "\udcff": "\\udcff",  # a byte of a file name that is not UTF-8
}


@pytest.mark.parametrize("text", SENT)
def test_what_would_steer_a_terminal_is_shown_instead(text: str) -> None:
    for show in (one_line, printable):
        assert show(f"a{text}b") == f"a{SENT[text]}b"
        assert show(show(text)) == show(text)


def test_every_control_character_is_caught() -> None:
    ranges = (range(0x3100), range(0xD7F0, 0x10000), range(0xE0000, 0xE0200))
    everything = "".join(chr(number) for some in ranges for number in some)
    categories = {unicodedata.category(c) for c in set(printable(everything)) - {"\n", "\t"}}
    assert not categories & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    printable(everything).encode()


def test_plain_text_stays_as_it_is() -> None:
    text = "Übung 5 Å³, 'x y' $z \\ 日本\n\tLiFePO₄\n"
    assert printable(text) == text
    assert one_line("a\nb\tc") == "a\\nb\\tc"


def test_a_stream_shows_colors_until_it_is_plain() -> None:
    below = io.StringIO()
    stream = Terminal(below, lambda: None)
    assert stream.write("\x1b[1;31mhelp\x1b[0m\x1b[2J\n") == 20
    stream.plain = True
    assert stream.write("\x1b[1mid\n") == 7
    assert below.getvalue() == "\x1b[1;31mhelp\x1b[0m\\x1b[2J\n\\x1b[1mid\n"
    assert stream.encoding is below.encoding


def test_a_reader_that_goes_away_is_told_of_once_and_nothing_more_fails() -> None:
    reader, writer = os.pipe()
    told: list[str] = []
    with os.fdopen(writer, "w") as below:
        stream = Terminal(below, lambda: told.append("gone"))
        stream.write("one\n")
        stream.flush()
        assert os.read(reader, 100) == b"one\n"
        os.close(reader)
        stream.write("two\n")
        stream.flush()
        stream.write("three\n")
        stream.flush()
    assert told == ["gone"]
