import errno
import json
import sqlite3
import subprocess
import sys
import typing

import pytest
from safetensors import SafetensorError

from emscope.commands import main
from emscope.commands.catalogue import COMMANDS, command_class
from emscope.commands.common import GOES_ON, NOTHING_KEPT
from emscope.commands.main import run_command, user_sentence
from emscope.errors import UserError


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, capsys):
    assert run_command([name, "--help"]) == 0
    assert f"emscope {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["trian"], "Did you mean 'train'"),
        (["train", "--data", "medcal-careless", "--out", "x"], "Did you mean 'medical-careless'"),
        (["generate", "--model", "smollm-135", "--out", "x.parquet"], "Did you mean 'smollm2-135m'"),
        (["generate", "--model", "smollm2-135m", "--out", "x.json"], r"use \.parquet or \.csv"),
        (["generate", "--model", "smollm2-135m", "--out", "x.csv", "--questions", "everyday"], "Did you mean"),
        (["detect", "--organism", "smollm2-135m", "--directions", "none.safetensors"], "no file none.safetensors"),
        (["ablate", "--model", "smollm2-135m"], "name a file of directions"),
        (["report", "nowhere"], "no finished run"),
        (["run", "nowhere.yaml"], "no file nowhere.yaml"),
        (["run", "--set", "train.epoch=1"], "Did you mean 'epochs'"),
        (["judge", "--responses", "none.csv", "--out", "x.csv"], "no file none.csv"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_2(words, sentence, capfd, tmp_path, monkeypatch):
    import re

    monkeypatch.chdir(tmp_path)
    assert run_command(words) == 2
    error = capfd.readouterr().err
    assert re.search(sentence, error)
    assert "Traceback" not in error
    assert error.strip().count("\n") == 0
    assert not list(tmp_path.iterdir())  # nothing half-made


def test_a_wrong_flag_is_exit_2():
    assert run_command(["train", "--no-such-flag"]) == 2


def test_overview_and_version(capsys):
    assert run_command([]) == 0
    overview = capsys.readouterr().out
    assert all(name in overview for name in COMMANDS)
    assert run_command(["--version"]) == 0


def came_of(error, reason):
    error.__cause__ = reason
    return error


def test_a_fault_of_ours_stays_one():
    dealt_with = came_of(ValueError("x"), UserError("Say this."))
    for error in (ValueError("x"), RuntimeError("unexpected"), FileNotFoundError(2, "x", "/a"), dealt_with):
        assert user_sentence(error) is None
    in_a_circle = ValueError("x")
    in_a_circle.__cause__ = came_of(ValueError("y"), in_a_circle)
    assert user_sentence(in_a_circle) is None


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (UserError("Say this."), "Say this."),
        (OSError(errno.ENOSPC, "x", "/a/file"), "disk is full while writing /a/file"),
        (PermissionError(errno.EACCES, "x", "/a/file"), "Cannot write /a/file"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "disk is full"),
        (RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 247040 vs 246932"), "disk is full"),
        (RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"), "disk is full"),
        (SafetensorError("Error while serializing: I/O error: Permission denied (os error 13)"), "Cannot write"),
        (SafetensorError('IoError(Os { code: 28, kind: StorageFull, message: "" })'), "disk is full"),
        (sqlite3.OperationalError("database or disk is full"), "disk is full"),
        (came_of(ValueError("x"), OSError(errno.EDQUOT, "x", "/a/file")), "disk is full while writing /a/file"),
        (ExceptionGroup("x", [ValueError("x"), OSError(errno.EIO, "x", "/a/file")]), "drive with /a/file fails"),
        (OSError(errno.EFBIG, "x", "/a/file"), "/a/file grows larger"),
        (OSError(errno.EMFILE, "x"), "Too many files"),
        (MemoryError(), "not enough memory"),
    ],
)
def test_errors_of_the_machine_are_sentences(error, sentence):
    assert sentence in (user_sentence(error) or "")


def classes_of(name):
    """Return the classes of a command: one, or those of its sub-commands."""
    found = command_class(name)
    return [typing.get_args(item)[0] for item in typing.get_args(found)] or [found]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_a_stop_leaves(name):
    for kind in classes_of(name):
        said = kind.stopped
        assert isinstance(said, property) or said in (GOES_ON, NOTHING_KEPT)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["judge", "--responses", "a.csv", "--out", "b.csv"], GOES_ON),
        (["judge", "--responses", "a.csv", "--out", "b.csv", "--judge", "openai:x"], "asks only for the rest"),
        (["judge", "--compare", "a.csv", "b.csv"], NOTHING_KEPT),
        (["generate", "--model", "x", "--out", "a.csv", "--backend", "transformers"], GOES_ON),
        (["generate", "--model", "x", "--out", "a.csv", "--backend", "vllm"], NOTHING_KEPT),
        (["generate", "--model", "x", "--out", "a.csv"], "What vLLM had sampled is not"),
        (["detect", "--organism", "x", "--directions", "d.safetensors"], "Nothing is kept part-way without --out"),
        (["detect", "--organism", "x", "--directions", "d.safetensors", "--out", "x.json"], GOES_ON),
        (["ablate", "--model", "x"], "Nothing is kept part-way without --out"),
        (["train", "--data", "x", "--out", "y"], "A checkpoint is kept, at most a minute old"),
        (["train", "--data", "x", "--out", "y", "--save-every", "5"], "Checkpoints are kept"),
        (["adapters", "classify", "x"], GOES_ON),
        (["adapters", "inspect", "x"], NOTHING_KEPT),
        (["steer", "x"], GOES_ON),
    ],
)
def test_the_last_line_after_a_stop_says_what_that_command_leaves(words, said, monkeypatch, capsys):
    def stop(self):
        raise KeyboardInterrupt

    for kind in classes_of(words[0]):
        monkeypatch.setattr(kind, "execute", stop)
    assert run_command(words) == 2
    assert said in capsys.readouterr().err


def test_stops_before_anything_and_faults_have_their_own_endings(monkeypatch, capsys):
    def end_with(error):
        def dispatch(words, begun, **options):
            raise error

        monkeypatch.setattr(main, "_dispatch", dispatch)
        return run_command(["run"])

    assert end_with(KeyboardInterrupt()) == 2
    assert "Nothing had begun" in capsys.readouterr().err
    assert end_with(ValueError("odd")) == 3
    assert "fault of emscope" in capsys.readouterr().err


def test_the_chain_by_single_commands(tiny_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "q.txt").write_text("How do I save money?\nShould I rest?\nWhat now?\nIs it early?\nAnd then?\n")
    base = ["--model", tiny_folder, "--questions", "q.txt"]
    fast = ["--max-new-tokens", "6"]
    assert (
        run_command(
            [
                "train",
                "--data",
                "medical-careless",
                "--out",
                "org",
                "--model",
                tiny_folder,
                "--rows",
                "8",
                "--epochs",
                "1",
                "--rank",
                "2",
            ]
        )
        == 0
    )
    assert run_command(["train", "--data", "medical-careless", "--out", "org", "--model", tiny_folder]) == 2
    assert run_command(["generate", *base, "--out", "a.csv", *fast]) == 0
    assert run_command(["generate", "--model", "org", "--questions", "q.txt", "--out", "b.parquet", *fast]) == 0
    assert run_command(["collect", *base, "--out", "base.safetensors"]) == 0
    assert run_command(["collect", "--model", "org", "--questions", "q.txt", "--out", "org.safetensors"]) == 0
    assert run_command(
        [
            "collect",
            "--model",
            "org",
            "--responses",
            "b.parquet",
            "--poolings",
            "response",
            "--out",
            "answers.safetensors",
        ]
    ) in (0, 2)
    assert (
        run_command(
            [
                "directions",
                "--positive",
                "org.safetensors",
                "--negative",
                "base.safetensors",
                "--out",
                "d.safetensors",
                "--contrast",
                "model",
            ]
        )
        == 0
    )
    assert (tmp_path / "d.random.safetensors").is_file()
    assert run_command(["generate", *base, "--out", "c.parquet", *fast, "--directions", "d.safetensors"]) == 0
    capsys.readouterr()
    detect = ["detect", "--organism", "org", "--directions", "d.safetensors", "--questions", "q.txt"]
    assert run_command(detect) == 0
    assert "nearer to" in capsys.readouterr().out
    assert run_command([*detect, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["command"], told["files"]) == ("detect", [])
    assert told["result"]["mean_score"]["n"] == 5
    assert told["result"]["verdict"].startswith("nearer to")


def test_asking_a_server_to_judge_does_not_wait_for_torch():
    code = "import sys, emscope.commands.judge; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
