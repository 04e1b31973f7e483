"""The Tab key in a real bash."""

import shutil
import subprocess

import pytest

from emscope.commands import completion
from emscope.commands.main import run_command

BASH = shutil.which("bash")

ASK = """
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
_tyro_emscope
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "emscope"
    path.write_text(completion.completion_script("bash"))
    return path


@pytest.mark.skipif(BASH is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["sw"], {"sweep"}),
        (["tr"], {"train", "transfer"}),
        (["train", "--learn"], {"--learning-rate"}),
        (["train", "--preset", ""], {"default", "homework"}),
        (["sweep", "runs/x", "--fol"], {"--folds"}),
        (["adapters", "cl"], {"classify"}),
        (["generate", "--out", "ans"], {"answers.csv"}),
    ],
)
def test_bash_completes_commands_flags_values_and_files(script, words, completed, tmp_path):
    (tmp_path / "answers.csv").touch()
    asked = [BASH, "-c", ASK, "bash", script, "emscope", *words]
    done = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == completed
    assert not done.stderr


@pytest.mark.skipif(BASH is None, reason="needs bash")
def test_bash_takes_the_script_and_completes_files_where_it_says_nothing(script):
    asked = [BASH, "-c", 'source "$1"; complete -p emscope', "bash", script]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    assert "-o default" in done.stdout
    assert done.stdout.strip().endswith("emscope")


def test_the_script_is_printed_as_it_is(capsys):
    assert run_command(["completion", "fish"]) == 0
    printed = capsys.readouterr().out
    assert '--arguments "(_tyro_emscope)"' in printed
    assert "Wrote" not in printed


def test_install_puts_it_where_the_shell_looks(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(completion, "completion_script", lambda shell: f"# {shell}\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("SHELL", "/usr/bin/bash")
    assert run_command(["completion", "install"]) == 0
    written = tmp_path / ".local" / "share" / "bash-completion" / "completions" / "emscope"
    assert written.read_text() == "# bash\n"
    assert str(written) in capsys.readouterr().out


def test_another_shell_is_refused_by_name(monkeypatch, capsys):
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    assert run_command(["completion", "install"]) == 2
    assert "tcsh" in capsys.readouterr().err
