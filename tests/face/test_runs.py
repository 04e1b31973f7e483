"""Runs in Python: what is on disk by name, every experiment as a method, and the same run as the command does."""

import subprocess
import sys

import pytest

import emscope as em
from emscope.errors import UserError
from emscope.experiments import EXPERIMENTS, experiment
from emscope.experiments.result import Result
from emscope.outside import read_json
from emscope.plain import plain

SMALL_SWEEP = {"options": {"penalties": [10.0], "folds": 2, "halves": 2, "permutations": 2}, "answers": 1}


@pytest.fixture(scope="module")
def opened(run):
    return em.open_run(run)


def test_tables_directions_and_organisms_are_there_by_name(opened, run):
    assert plain(opened.summary).keys() <= read_json(run / "summary.json").keys()
    assert plain(opened.summary.em_rate) == read_json(run / "summary.json")["em_rate"]
    assert opened.organisms == ("base", "misaligned", "control")
    judged = opened.judgements("misaligned")
    assert len(judged) == len(opened.answers("misaligned")) == len(opened.questions)
    assert judged.column("response") == opened.answers("misaligned").column("response")
    assert opened.direction().construction.pooling == "response"
    assert opened.direction(opened.directions[0]).vectors.shape == (4, 32)
    assert opened.direction("last").construction.pooling == "last"
    assert opened.direction("last-probe").construction.method == "probe"
    assert set(opened.test_questions) < set(opened.questions)
    assert opened.activations("base").question_ids == tuple(opened.questions.column("id"))


def test_figures_in_the_summary_are_those_of_the_tables(opened):
    judged = opened.judgements("misaligned").where(question_set="open-ended")
    assert opened.summary.em_rate["misaligned"]["open-ended"] == judged.em_rate
    assert "em_rate" in repr(opened.summary)


@pytest.mark.parametrize(
    "ask",
    [
        lambda run: run.judgements("misalgined"),
        lambda run: run.answers("misalgined"),
        lambda run: run.organism("misalgined"),
        lambda run: run.direction("control-response-diff-in-mean"),
        lambda run: run.activations("misalgined"),
    ],
)
def test_a_name_that_is_not_there_names_the_near_one(opened, ask):
    with pytest.raises(UserError, match=r"Did you mean .*(misaligned|diff-in-means)"):
        ask(opened)


def test_every_experiment_is_a_method_and_hides_no_other(opened):
    assert set(EXPERIMENTS) <= set(dir(opened))
    assert not set(EXPERIMENTS) & set(vars(em.Run))
    for name in EXPERIMENTS:
        assert callable(getattr(opened, name))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_result_shows_itself_and_its_plots(name):
    assert issubclass(experiment(name).result, Result)


def test_an_experiment_that_there_is_not_names_the_near_one(opened):
    with pytest.raises(AttributeError, match="Did you mean 'sweep'"):
        opened.sweeps()
    with pytest.raises(UserError, match="Did you mean 'sweep'"):
        opened.experiment("sweeps")


def test_a_setting_that_there_is_not_names_the_near_one(opened):
    with pytest.raises(UserError, match=r"sweep: there is no setting 'answer'\. Did you mean 'answers'"):
        opened.sweep(answer=1)
    with pytest.raises(UserError, match="sweep: options: there is no setting 'fold'"):
        opened.sweep(options={"fold": 2})
    with pytest.raises(UserError, match="answers"):
        opened.sweep(answers="many")


def test_an_experiment_is_done_once_and_then_read(opened, monkeypatch):
    assert "sweep" not in opened.results()
    made = opened.sweep(**SMALL_SWEEP)
    n_made = len(opened.lab.folder.made)
    read = opened.sweep()
    assert read == made
    assert opened.results() == {"sweep": made}
    opened.sweep(**SMALL_SWEEP)  # up to date
    assert len(opened.lab.folder.made) == n_made
    assert "sweep" in repr(opened)
    figures = opened.figures("sweep")
    assert figures
    assert figures.keys() == made.figures().keys()


def test_no_finished_run_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="holds no finished run"):
        em.open_run(tmp_path)


def test_a_run_is_replayed_from_its_folder_and_nothing_is_made_again(run):
    again = em.run(run)
    assert again.folder == run
    assert again.lab.folder.made == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"config": "quickstrat"}, "Did you mean 'quickstart'"),
        ({"rowz": 3}, "there is no setting 'rowz'. Did you mean 'rows'"),
        ({"train": {"epoch": 1}}, "train: there is no setting 'epoch'"),
        ({"config": "cs2881"}, "emscope run"),
    ],
)
def test_a_run_that_cannot_be_is_refused_before_it_begins(tmp_path, arguments, words):
    with pytest.raises(UserError, match=words):
        em.run(out=tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_settings_of_the_training_that_are_not_named_stay(run, monkeypatch):
    from emscope.face import runs

    wanted = runs._settings(em.open_run(run).config, {"train": {"epochs": 5}})
    assert wanted["train"]["epochs"] == 5
    assert wanted["train"]["learning_rate"] == em.open_run(run).config.train.learning_rate


def test_the_library_says_nothing_on_its_own(run, tmp_path):
    code = (
        f"import emscope as em; run = em.open_run({str(run)!r}); run.judgements(); run.direction(); "
        "em.probe(run.activations('misaligned'), run.activations('control')); "
        "em.generate(run.organism('base'), ['Why?'], max_new_tokens=2)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert done.stderr == ""
