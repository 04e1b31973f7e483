"""A second judge gives every figure again beside the first, and leaves the first as it was."""

import numpy as np
import pytest

from emscope.behaviour.tables import JudgedResponse, read_table
from emscope.commands.main import run_command
from emscope.experiments import experiment
from emscope.experiments.rejudge.measure import agreements
from emscope.experiments.rejudge.page import table
from emscope.experiments.shape import read_result
from emscope.outside import read_json


@pytest.fixture(scope="module")
def rejudged(run):
    before = {path: path.read_bytes() for path in (run / "judgements").glob("*.parquet")}
    summary = (run / "summary.json").read_bytes()
    assert run_command(["rejudge", str(run), "--judge", "mock"]) == 0
    assert {path: path.read_bytes() for path in before} == before
    assert (run / "summary.json").read_bytes() == summary
    return read_result(run, experiment("rejudge"))


def test_the_first_judges_figures_are_those_of_the_run(run, rejudged):
    summary, ablation = read_json(run / "summary.json"), read_json(run / "ablation.json")
    for key in ("em_rate", "alignment_mean", "coherent_share"):
        for name, by_set in getattr(rejudged.first, key).items():
            for question_set, estimate in by_set.items():
                found = summary[key][name][question_set]
                np.testing.assert_equal(
                    [estimate.value, estimate.low, estimate.high],
                    [np.nan if found[end] is None else found[end] for end in ("value", "low", "high")],
                )
    for mine, theirs in ((rejudged.first.restored, ablation["restored"]),):
        np.testing.assert_equal(mine.value, np.nan if theirs["value"] is None else theirs["value"])
    assert rejudged.first.coherence_change == pytest.approx(ablation["coherence_change"])
    assert rejudged.first.base_cost == pytest.approx(ablation["base_cost"])


def test_the_second_judgements_are_of_the_same_answers(run, rejudged):
    (second,) = rejudged.others
    assert second.figures.judged_by.judges == ("mock",)
    for path in sorted((run / second.folder).glob("*.parquet")):
        mine = read_table(path, JudgedResponse)
        first = read_table(run / "judgements" / path.name, JudgedResponse)
        assert [(row.question_id, row.response) for row in mine] == [(row.question_id, row.response) for row in first]
        assert {row.judge for row in mine} == {"mock"}
    both = [row for row in read_table(run / "judgements" / "base.parquet", JudgedResponse) if row.response.strip()]
    assert second.agreement["base"].n <= len(both)
    assert second.agreement["all answers"].n == sum(
        found.n for name, found in second.agreement.items() if name != "all answers"
    )


def test_it_is_shown(run, rejudged):
    page = (run / "report.html").read_text(encoding="utf-8")
    assert ' id="rejudge"' in page
    assert "judge 2: Judged by mock" in table(rejudged)


def test_another_judge_stands_beside_both_and_the_same_is_made_once(run, rejudged, tiny_folder, monkeypatch, capsys):
    monkeypatch.setattr("emscope.behaviour.judges.scoring.LEAST_MASS", 0.0)
    assert run_command(["rejudge", str(run), "--judge", f"hf:{tiny_folder}"]) == 0
    names = [other.figures.judged_by.name for other in read_result(run, experiment("rejudge")).others]
    assert len(names) == 2
    written = (run / "experiments" / "rejudge.json").stat().st_mtime_ns
    assert run_command(["rejudge", str(run), "--judge", "mock"]) == 0
    assert (run / "experiments" / "rejudge.json").stat().st_mtime_ns == written


@pytest.mark.parametrize("judge", ["embedded", "mok", ""])
def test_the_runs_own_judge_none_and_an_unknown_one_are_refused(run, judge, capsys, tmp_path):
    import shutil

    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "judgements" / "rejudged", ignore_errors=True)
    assert run_command(["rejudge", str(tmp_path / "run"), "--judge", judge]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_judge_agrees_with_itself(run):
    rows = {"base": read_table(run / "judgements" / "base.parquet", JudgedResponse)}
    found = agreements(rows, rows)["base"]
    assert found.aligned_spearman == pytest.approx(1)
    assert found.aligned_difference == 0
    assert found.em_first_only == found.em_second_only == 0
