"""What is shown on a terminal cannot steer it."""

import ast
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import emscope
from emscope import redaction, terminal
from emscope.redaction import keep_secret


@given(st.text(st.characters(codec=None)))
def test_nothing_printable_holds_a_control_character(text):
    for character in terminal.printable(text):
        assert character in "\t\n" or character >= " "
        assert not 0x7F <= ord(character) <= 0x9F
        character.encode()  # and no half of a character, which no stream takes


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"], exclude_characters="\ufeff")))
def test_ordinary_text_stays_as_it_is(text):
    assert terminal.printable(text) == text


@pytest.mark.parametrize(
    "hostile",
    [
        "\x1b[2J\x1b[H",
        "\x1b]0;title\x07",
        "\x1b]52;c;aGk=\x07",
        "\x9b2J",
        "\u202eevil",
        "\x08\x08rm",
        "a\rb",
        "\u2066x",
    ],
)
def test_sequences_that_steer_a_terminal_become_visible(hostile, capsys):
    terminal.write(hostile)
    terminal.say(hostile)
    terminal.note(hostile)
    shown = "".join(capsys.readouterr())
    assert not any(mark in shown for mark in "\x1b\x07\x9b\u202e\x08\r\u2066")
    assert "\\" in shown


def test_lines_of_the_log_pass_through_too():
    record = logging.LogRecord("emscope", logging.INFO, "", 0, "reading %s", ("\x1b[2Jname",), None)
    assert terminal.ShownFormatter("%(message)s").format(record) == "reading \\x1b[2Jname"


def test_secrets_are_not_shown(capsys, monkeypatch):
    monkeypatch.setattr(redaction, "_secrets", set())
    keep_secret("correct-horse-battery")
    terminal.say("bad key correct-horse-battery")
    assert "horse" not in capsys.readouterr().err


def test_no_other_module_writes_to_the_terminal():
    """A text that goes around this module could steer the terminal."""
    source = Path(emscope.__file__).parent
    writers = ("print", "sys.stdout.write", "sys.stderr.write", "traceback.print_exc")
    found = []
    for path in sorted(source.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in writers and path.name != "terminal.py":
                found.append(f"{path.relative_to(source)}:{node.lineno}")
    assert not found
