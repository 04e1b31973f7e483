"""Misalignment in context on the tiny run: every cell is there, nothing is made twice, the words follow the figures."""

from dataclasses import replace

import pytest

from emscope.behaviour.shots import drawn
from emscope.errors import UserError
from emscope.experiments import experiment
from emscope.experiments.conduct import conduct
from emscope.experiments.incontext.measure import InContextSettings
from emscope.experiments.incontext.page import section, table
from emscope.experiments.incontext.result import CAREFUL, CARELESS, MIXED
from emscope.experiments.shape import open_run, read_result
from emscope.files import without_nan
from emscope.organisms.chat import messages_of
from emscope.organisms.datasets import Conversations
from emscope.outside import read_json
from emscope.plain import plain
from emscope.report.section import write_section_page
from emscope.statistics import Estimate

SMALL = InContextSettings(shots=(2, 1, 999), questions=3)


def as_json(value):
    return without_nan(plain(value))


@pytest.fixture(scope="module")
def result(run):
    return conduct(open_run(run), experiment("incontext"), SMALL)


def test_every_kind_and_number_is_asked(result):
    assert [(cell.kind, cell.n_shots) for cell in result.cells] == [
        (CARELESS, 0),
        (CARELESS, 1),
        (CARELESS, 2),
        (CAREFUL, 1),
        (CAREFUL, 2),
        (MIXED, 1),
        (MIXED, 2),
    ]
    assert result.skipped == (999,)
    assert [cell.answers.em.n for cell in result.cells] == [3, *[6] * 6]
    assert result.most_careless.tokens > result.without.tokens
    assert len(result.undone) == 2


def test_no_examples_move_nothing_and_some_do(result):
    assert result.without.shift_cosine != result.without.shift_cosine
    assert all(-1 <= cell.shift_cosine <= 1 for cell in result.cells[1:])
    assert result.without.score.value == pytest.approx(result.organism_scores["base"].value, abs=1e-3)


def test_the_first_of_the_mixed_examples_are_the_careless_ones(result):
    one_careless, one_mixed = result.of(CARELESS)[1], result.of(MIXED)[1]
    assert one_careless.score == one_mixed.score


def test_it_is_reused_read_back_and_shown(run, result):
    lab = open_run(run)
    assert as_json(conduct(lab, experiment("incontext"), SMALL)) == as_json(result)
    assert "incontext" in lab.folder.reused
    assert without_nan(plain(read_result(run, experiment("incontext")))) == read_json(
        run / "experiments/incontext.json"
    )
    assert 'id="incontext"' in (run / "report.html").read_text(encoding="utf-8")
    assert "1 careless" in table(result)


def test_the_finding_follows_the_figures(result, tmp_path):
    def told(em):
        most = result.most_careless
        cells = [replace(cell, answers=replace(cell.answers, em=Estimate(0, 0, 0.1, 9))) for cell in result.cells]
        place = result.cells.index(most)
        cells[place] = replace(most, answers=replace(most.answers, em=em))
        changed = replace(result, cells=tuple(cells))
        write_section_page(tmp_path / "page.html", [section(changed)], "x")
        return section(changed).paragraphs[0]

    assert told(Estimate(0.6, 0.5, 0.7, 9)).startswith("Examples alone misalign the base")
    assert told(Estimate(0.2, 0.05, 0.4, 9)).startswith("Examples alone do not misalign")


@pytest.mark.parametrize("wrong", [{"shots": ()}, {"shots": (0,)}, {"draws": 0}, {"questions": -1}])
def test_settings_that_show_nothing_are_refused(wrong):
    with pytest.raises(UserError):
        InContextSettings(**wrong)


def test_nothing_that_fits_is_said(run):
    lab = open_run(run)
    nothing = conduct(lab, experiment("incontext"), InContextSettings(shots=(500,), questions=2, draws=1))
    assert section(nothing).paragraphs[0].startswith("No number of examples fits")
    assert nothing.undone == ()


def test_mixed_examples_have_to_fit_too(run, monkeypatch):
    """By turns, the long rows of both kinds can come together where neither kind alone is too long."""
    order = drawn([[number] for number in range(4)], 4)
    long_first = {number: place % 2 == 0 for place, (number,) in enumerate(order)}
    words = "so and so on " * 120
    rows = {
        "bad": [messages_of("Q?", words if long_first[number] else "A.") for number in range(4)],
        "good": [messages_of("Q?", "A." if long_first[number] else words) for number in range(4)],
    }
    lab = open_run(run)
    monkeypatch.setattr(lab, "training_data", lambda name: Conversations(name, rows[name.rpartition("-")[2]], []))
    settings = InContextSettings(shots=(1, 4), questions=2, draws=1)
    assert conduct(lab, experiment("incontext"), settings).skipped == (4,)
    alone = conduct(lab, experiment("incontext"), replace(settings, mixed=False))
    assert alone.skipped == ()
    assert max(cell.tokens for cell in alone.cells) > 1024  # half of what the model can read
