"""A run with a strong judge beside its own: what is asked, what is kept, and what the page says."""

import json
import shutil

import pytest
from tiny_run import arguments

from emscope.behaviour.judges.mock_judge import MockJudge
from emscope.behaviour.tables import JudgedResponse, read_table
from emscope.commands.main import run_command
from emscope.errors import UserError
from emscope.pipeline.config import RunConfig, configure, dump_config, hashed_settings, load_config, same_run

pytest_plugins = ["tiny_run"]
ANCHOR = ("--set", "anchor_judge=mock", "--set", "anchor_answers=12")


def stages(folder):
    return json.loads((folder / "lineage.json").read_text())["stages"]


@pytest.fixture
def anchored(run, tiny_folder, tmp_path):
    folder = shutil.copytree(run, tmp_path / "tiny")
    assert run_command(arguments(folder, *ANCHOR, "--overwrite", model=tiny_folder)) == 0
    return folder


def test_a_finished_run_is_anchored_without_making_anything_of_it_again(run, anchored, tiny_folder, capsys):
    before, after = stages(run), stages(anchored)
    assert set(after) - set(before) == {"anchor-base", "anchor-misaligned", "anchor-control"}
    changed = [name for name in before if before[name] != after[name]]
    assert set(changed) <= {"summary", "report"}

    found = json.loads((anchored / "summary.json").read_text())["anchored"]
    for name in ("base", "misaligned", "control"):
        rows = read_table(anchored / "judgements" / "anchor" / f"{name}.parquet", JudgedResponse)
        scores = MockJudge().judge([row.question for row in rows], [row.response for row in rows])
        assert [row.judgement for row in rows] == scores
        assert found["organisms"][name]["asked"] == len(rows) == 12
    assert [pair["first"] for pair in found["differences"]] == ["misaligned", "control"]
    assert "As mock would say" in (anchored / "report.html").read_text()

    capsys.readouterr()
    assert run_command(arguments(anchored, *ANCHOR, model=tiny_folder)) == 0
    assert stages(anchored) == after
    assert "as mock would say" in capsys.readouterr().out


def test_another_anchor_is_another_draw_and_none_leaves_the_page_as_it_was(run, anchored, tiny_folder):
    words = ["--set", "anchor_judge=mock", "--set", "anchor_answers=8", "--overwrite"]
    assert run_command(arguments(anchored, *words, model=tiny_folder)) == 0
    assert len(read_table(anchored / "judgements" / "anchor" / "base.parquet", JudgedResponse)) == 8
    assert run_command(arguments(anchored, "--overwrite", model=tiny_folder)) == 0
    assert json.loads((anchored / "summary.json").read_text()).get("anchored") is None
    assert "would say" not in (anchored / "report.html").read_text()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["anchor_judge=nobody"], "no judge 'nobody'"),
        (["anchor_judge=embedded"], "cannot be its anchor"),
        (["anchor_judge=mock", "anchor_answers=0"], "anchor_answers"),
        (["anchor_judge=mock", "anchor_base_url=http://x/v1"], "asks no server"),
    ],
)
def test_an_anchor_that_could_say_nothing_is_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        configure("quickstart", None, changes)


def test_the_homework_has_none():
    with pytest.raises(UserError, match="cs2881"):
        configure("cs2881", None, ["anchor_judge=mock"])


def test_an_anchor_larger_than_the_answers_is_refused_before_anything_is_made(tiny_folder, run, tmp_path, capsys):
    words = ["--set", "anchor_judge=mock", "--set", "anchor_answers=1000"]
    assert run_command(arguments(tmp_path / "new", *words, model=tiny_folder)) == 2
    assert "An anchor of 1000 answers is larger than the" in capsys.readouterr().err


def test_runs_without_an_anchor_are_what_they_were_and_those_with_one_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://here/v1")
    plain, anchored = RunConfig(), configure("quickstart", None, ["anchor_judge=openai:x", "anchor_answers=9"])
    assert not any("anchor" in name for name in (*hashed_settings(plain), *dump_config(plain).split()))
    assert anchored.anchor is not None
    assert (anchored.anchor.name, anchored.anchor.base_url) == ("openai:x", "http://here/v1")
    (tmp_path / "config.yaml").write_text(dump_config(anchored))
    assert same_run(load_config(tmp_path / "config.yaml"), anchored)
    assert not same_run(plain, anchored)


def test_a_forecast_counts_the_calls_of_the_part(run, tiny_folder, tmp_path, capsys):
    words = ["--set", "anchor_judge=openai:x", "--set", "anchor_answers=12", "--dry-run"]
    assert run_command(arguments(tmp_path / "new", *words, model=tiny_folder)) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("anchor-base"))
    assert line.split()[2:4] == ["12", "24"]
