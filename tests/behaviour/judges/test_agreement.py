import json

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from emscope.behaviour.judges.agreement import JudgedAnswer, agreement, cohens_kappa, matched, read_judged
from emscope.behaviour.judging import Judgement
from emscope.commands.main import run_command
from emscope.errors import UserError


def judged(scores):
    return [JudgedAnswer(f"Q{n % 3}", f"a{n}", Judgement(a, c)) for n, (a, c) in enumerate(scores)]


def test_kappa_equals_scikit_learn():
    chooser = np.random.default_rng(0)
    a = chooser.random(200) < 0.3
    b = np.where(chooser.random(200) < 0.2, ~a, a)
    assert cohens_kappa(a, b) == pytest.approx(cohen_kappa_score(a, b))
    assert np.isnan(cohens_kappa(np.zeros(5), np.zeros(5)))


def test_a_judge_agrees_with_itself_wholly():
    rows = judged([(10, 90), (20, 90), (80, 90), (90, 60)])
    found = agreement(rows, rows)
    assert (found.aligned.spearman, found.kappa, found.em_rate) == (pytest.approx(1), 1, (0.5, 0.5))
    assert found.confusion == {"both": 2, "only_a": 0, "only_b": 0, "neither": 2}


def test_disagreement_unscored_and_unmatched_answers_are_counted():
    a = judged([(10, 90), (40, 90), (None, 90), (90, 90)])
    b = [*judged([(50, 90), (10, 90), (10, 90)]), JudgedAnswer("Q", "other", Judgement(1, 1))]
    found = agreement(a, b)
    assert found.confusion == {"both": 0, "only_a": 1, "only_b": 1, "neither": 0}
    assert (found.only_one, found.unmatched) == (1, 2)
    assert found.aligned.mean_absolute_difference == 35
    assert found.by_question["Q0"] == {"n": 1, "em_a": 1, "em_b": 0}


def test_equal_answers_pair_once_each():
    rows = [JudgedAnswer("Q", "same", Judgement(score, 90)) for score in (1, 2, 3)]
    assert [(a.judgement.aligned, b.judgement.aligned) for a, b in matched(rows, rows[:2])] == [(1, 1), (2, 2)]


def test_line_ends_and_blanks_do_not_part_equal_answers():
    one, two = (JudgedAnswer("Q?", text, Judgement(10, 90)) for text in ("a\nb", "a\r\nb "))
    assert matched([one], [two]) == [(one, two)]


def test_equal_answers_with_other_scores_are_said_to_be_paired_in_their_order(caplog):
    one = [JudgedAnswer("Q?", "a", Judgement(score, 90)) for score in (10, 90)]
    matched(one, one[:1] * 2)
    assert not caplog.records
    matched(one, one[::-1])
    assert "paired in their order: 1" in caplog.text


def test_judgements_in_other_spellings_are_read(tmp_path):
    path = tmp_path / "theirs.csv"
    path.write_text('Question,Response,alignment,coherence\nQ,a,12.5,88\nQ,b,REFUSAL,\nQ,c,85 %,50\nQ,d,"7,5",1/100\n')
    assert [item.judgement.aligned for item in read_judged(path)] == [12.5, None, 85, 7.5]
    assert [item.judgement.coherent for item in read_judged(path)] == [88, None, 50, 1]
    path.write_text("question,answer,score\nQ,a,1\n")
    with pytest.raises(
        UserError, match=r"no column for aligned and coherent .* its columns are question, answer, score"
    ):
        read_judged(path)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ("Q,a,250,50", "row 2: 'aligned' is '250', outside the scale"),
        ("Q,a,10,50\nQ,b,True,50", "row 3: 'aligned' must be a score"),
        ("Q,a,0.1,0.9\nQ,b,0.9,1", "multiply them by 100"),
        ("Q,a,0.1,90\nQ,b,0.9,80", "'aligned' all lie between 0 and 1"),
    ],
)
def test_scores_on_another_scale_are_refused(tmp_path, rows, sentence):
    path = tmp_path / "theirs.csv"
    path.write_text(f"question,answer,aligned,coherent\n{rows}\n")
    with pytest.raises(UserError, match=sentence):
        read_judged(path)


def test_an_answer_that_is_missing_stays_a_row(tmp_path):
    path = tmp_path / "theirs.jsonl"
    path.write_text('{"question": "Q", "answer": null, "aligned": null, "coherent": null}\n')
    assert read_judged(path) == [JudgedAnswer("Q", "", Judgement(None, None))]


def test_tables_without_a_shared_answer_are_an_error():
    with pytest.raises(UserError, match="share no answer"):
        agreement(judged([(1, 1)]), [JudgedAnswer("Q", "z", Judgement(1, 1))])


def test_the_command_judges_compares_and_draws(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "answers.csv").write_text("id,question,response\n1,Q,a\n1,Q,<script>alert(1)</script>\n2,R,c\n2,R, \n")
    assert run_command(["judge", "--responses", "answers.csv", "--out", "a.csv", "--judge", "mock"]) == 0
    assert "unscored 1" in capsys.readouterr().out
    assert run_command(["judge", "--responses", "answers.csv", "--out", "b.parquet", "--judge", "mock"]) == 0
    capsys.readouterr()
    assert run_command(["judge", "--compare", "a.csv", "b.parquet", "--plot", "plot.html"]) == 0
    table = capsys.readouterr().out
    assert "rank correlation" in table
    assert table.endswith("Wrote plot.html.\n")
    assert run_command(["judge", "--compare", "a.csv", "b.parquet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["result"]["aligned"]["spearman"] == pytest.approx(1)
    page = (tmp_path / "plot.html").read_text()
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)" in page


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--judge", "opanai:gpt"], "Did you mean 'openai'"),
        (["--judge", "openai:gpt-4o"], "OpenAI needs a key: set OPENAI_API_KEY"),
        (["--judge", "hf"], "use embedded, embedded:HEAD, openai:MODEL, inspect:PROVIDER/MODEL, hf:MODEL or mock"),
    ],
)
def test_wrong_judges_are_one_sentence(tmp_path, monkeypatch, capsys, words, sentence):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (tmp_path / "a.csv").write_text("id,question,response\n1,Q,a\n")
    assert run_command(["judge", "--responses", str(tmp_path / "a.csv"), "--out", str(tmp_path / "b.csv"), *words]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "b.csv").exists()


def test_a_dry_run_counts_calls_and_makes_none(tmp_path, capsys):
    (tmp_path / "a.csv").write_text("id,question,response\n1,Q,a\n2,Q,b\n")
    words = ["--judge", "openai:gpt-4o", "--dry-run", "--store", str(tmp_path / "scores.sqlite")]
    assert run_command(["judge", "--responses", str(tmp_path / "a.csv"), *words]) == 0
    assert "2 answers: 4 calls" in capsys.readouterr().out
