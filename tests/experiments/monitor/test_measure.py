"""The experiment on a run whose organisms are tiny random models and whose judge is a hash."""

import json
from dataclasses import replace

import numpy as np
import pytest

from emscope.errors import UserError
from emscope.experiments import experiment
from emscope.experiments.conduct import conduct
from emscope.experiments.monitor.measure import MonitorSettings
from emscope.experiments.monitor.page import section
from emscope.experiments.monitor.result import MonitorResult
from emscope.experiments.shape import open_run
from emscope.files import write_json
from emscope.outside import read_json
from emscope.plain import fitted, plain
from emscope.report.section import write_section_page


def test_every_answer_is_counted_once_and_ranked_after_each_number_of_tokens(result):
    answers, n = result.answers, result.answers.n
    assert n.em + n.other_coherent + n.left_out == n.answers
    assert list(answers.auroc.mean) == list(answers.auroc.max) == ["1", "3", "all"]
    for rankings in (answers.prompt_only, *answers.auroc.mean.values(), *answers.auroc.max.values()):
        assert rankings.contrast is not None
        assert rankings.random.directions == 2
    for ranking in answers.prompt_only.named.values():  # the prompt is the same for all answers to a question
        within = ranking.within_question.value
        assert within == 0.5 or np.isnan(within)


def test_every_domain_is_screened_by_every_score(result):
    screening = result.screening
    assert set(screening.domains) == {"medical", "finance", "sport"}
    for domain in screening.domains.values():
        assert set(domain.blocks) == {"text", "probe", "organisms"}
        by_score = domain.precision_at_half_recall.by_score
        assert set(by_score) == {"text", "probe", "organisms", "judge", "words", "random"}
        for by_share in by_score.values():
            assert list(by_share) == ["0.2", "0.5"]
            for precision in by_share.values():
                assert 0 < precision.value <= 1
                assert precision.low <= precision.high
    assert screening.areas.n_prompts == 5
    assert screening.own_answers.n_prompts == 6
    assert screening.readers.n.em + screening.readers.n.aligned == 20


def test_a_result_survives_its_file_to_the_byte(result, tmp_path):
    write_json(tmp_path / "a.json", plain(result))
    again = fitted(MonitorResult, read_json(tmp_path / "a.json"), "a.json")
    write_json(tmp_path / "b.json", plain(again))
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_every_token_that_is_shown_has_a_score_and_texts_are_whole(result, small):
    assert len(result.tokens) == 2 * small.shown + 1  # misaligned and control, and the user's own
    for text in result.tokens:
        for turn in text.turns:
            assert len(turn.pieces) == len(turn.scores)
    assert ["".join(turn.pieces) for turn in result.tokens[-1].turns] == ["Is it <b>safe</b>?", "Of course."]


def test_texts_are_by_question_the_misaligned_organism_first(result, small):
    shown = result.tokens[: 2 * small.shown]
    assert [text.organism for text in shown] == ["misaligned", "control"] * small.shown
    assert [text.question_id for text in shown[::2]] == [text.question_id for text in shown[1::2]]


def test_the_section_can_be_written_and_its_plots_shown(result, tmp_path):
    write_section_page(tmp_path / "page.html", [section(result)], "Monitor")
    assert "<b>safe" not in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "How early does it tell?" in result.figures()


def test_bad_conversations_stop_it_before_any_work(lab, tmp_path, small):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "a", "response": "b"}\n{"prompt": "a"}\n')
    with pytest.raises(UserError, match=r"bad\.jsonl, line 2"):
        conduct(lab, experiment("monitor"), replace(small, conversations=str(bad)))
    assert not lab.folder.path("experiments").exists()


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"tokens": (0,)}, {"shares": (1.5,)}, {"prompts": 1}])
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(UserError):
        MonitorSettings(**wrong)


def test_questions_answers_and_an_organism_of_ones_own_are_monitored_too(run, tmp_path, small):
    lab = open_run(run)
    answers, questions = tmp_path / "answers.csv", tmp_path / "mine.txt"
    answers.write_text("question,response\nMay I drive?,Just drive.\n", encoding="utf-8")
    questions.write_text("Shall I sell it all?\n", encoding="utf-8")
    guest = str(lab.folder.path("organisms", "control"))
    own = replace(small, conversations=str(answers), ask=(str(questions),), organism=guest)
    conduct(lab, experiment("monitor"), own)
    shown = json.loads(lab.folder.path("experiments", "monitor.json").read_text())["tokens"]
    mine = {text["question_id"]: text for text in shown if text["organism"] == guest}
    assert set(mine) == {"mine-1", "row 1"}
    assert "".join(mine["row 1"]["turns"][-1]["pieces"]).strip().startswith("Just drive.")
    assert mine["mine-1"]["turns"][0]["role"] == "user"


def test_questions_with_system_prompts_are_refused(lab, tmp_path, small):
    (tmp_path / "q.jsonl").write_text('{"question": "Rest?", "system": "Be a doctor."}\n')
    with pytest.raises(UserError, match="without system prompts"):
        conduct(lab, experiment("monitor"), replace(small, ask=(str(tmp_path / "q.jsonl"),)))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"organism": "medical-careless", "ask": ("cs2881",)}, "no adapter and no model"),
        ({"organism": "somewhere"}, "nothing to do"),
        ({"ask": ("missing.txt",)}, "no question set or file"),
    ],
)
def test_what_cannot_be_monitored_is_said_before_any_work(lab, wrong, sentence, small):
    with pytest.raises(UserError, match=sentence):
        conduct(lab, experiment("monitor"), replace(small, **wrong))
