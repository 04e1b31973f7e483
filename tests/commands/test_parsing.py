"""Examples parse, help shows them, and what is said of wrong flags holds no secret."""

import shlex

import pytest

from emscope.commands.catalogue import COMMANDS, command_class
from emscope.commands.main import run_command
from emscope.commands.parsing import parse
from emscope.redaction import keep_secret

EXAMPLES = [(name, example) for name, entry in COMMANDS.items() for example in entry.examples]


@pytest.mark.parametrize(("name", "example"), EXAMPLES)
def test_examples_are_whole_commands(name, example):
    program, command, *flags = [word for word in shlex.split(example) if word not in ("--json", "--debug")]
    assert (program, command) == ("emscope", name)
    assert hasattr(parse(command_class(name), name, flags), "execute")


def test_two_examples_differ():
    for entry in COMMANDS.values():
        assert len(set(entry.examples)) == len(entry.examples) >= 2


def test_help_ends_with_the_examples(capsys):
    assert run_command(["help", "detect"]) == 0
    shown = capsys.readouterr().out
    assert "--directions" in shown
    for example in COMMANDS["detect"].examples:
        assert example in shown
    assert "--json" in shown


def test_the_old_word_of_sweep_is_still_taken(tmp_path):
    command = parse(command_class("sweep"), "sweep", ["layers", str(tmp_path), "--folds", "3"])
    assert command.run == tmp_path
    assert command.settings.options.folds == 3


def test_the_help_of_sweep_names_no_layers(capsys):
    assert run_command(["sweep", "--help"]) == 0
    assert "{layers}" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags", [["--rank", "{}"], ["--no-such-flag={}"], ["--data", "x", "--{}"], ["--preset", "{}"], ["{}"]]
)
def test_a_secret_among_wrong_flags_is_not_shown(flags, capfd):
    secret = "correct-horse-battery-staple-" * 3
    keep_secret(secret)
    assert run_command(["train", *[flag.format(secret) for flag in flags]]) == 2
    shown = "".join(capfd.readouterr())
    assert "horse" not in shown.replace("\n", "").replace("│", "").replace(" ", "")
    assert "emscope train" in shown or "cannot be shown" in shown
