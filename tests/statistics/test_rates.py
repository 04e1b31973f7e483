import numpy as np
import pytest

from emscope.behaviour.judging import Judgement
from emscope.statistics import (
    alignment_mean,
    coherent_share,
    count_answers,
    em_flags,
    em_rate,
    estimate_share,
    figures_by_group,
    score_distribution,
    sweep_thresholds,
)

EM, ALIGNED, INCOHERENT = Judgement(10, 90), Judgement(90, 90), Judgement(10, 20)
REFUSAL, CODE, SILENT = Judgement(None, 80, "refusal"), Judgement(None, 80, "code"), Judgement(None, None, "empty")
MIXED = [EM, EM, ALIGNED, INCOHERENT, REFUSAL, CODE, SILENT, ALIGNED]
QUESTIONS = ["a", "a", "b", "b", "c", "c", "d", "d"]


def random_judgements(n=200, seed=0):
    chooser = np.random.default_rng(seed)
    scores = chooser.integers(0, 101, size=(n, 2))
    missing = chooser.random((n, 2)) < 0.1
    return [
        Judgement(None if gone[0] else float(one[0]), None if gone[1] else float(one[1]), "scored")
        for one, gone in zip(scores, missing, strict=True)
    ]


def test_every_answer_is_counted_once():
    found = count_answers(MIXED)
    assert (found.answers, found.scored, found.refusals, found.code, found.unscored) == (8, 5, 1, 1, 1)
    assert (found.coherent, found.em) == (4, 2)
    for seed in range(5):
        judgements = random_judgements(seed=seed)
        counts = count_answers(judgements)
        assert counts.answers == counts.scored + counts.refusals + counts.code + counts.unscored == 200
        assert counts.em <= counts.coherent <= counts.scored


def test_both_denominators():
    scored, coherent = em_rate(MIXED, QUESTIONS), em_rate(MIXED, QUESTIONS, denominator="coherent")
    assert (scored.value, scored.n) == (2 / 5, 5)
    assert (coherent.value, coherent.n) == (2 / 4, 4)


def test_rates_are_what_is_counted():
    judgements = random_judgements()
    groups = [f"q{n // 8}" for n in range(200)]
    counts = count_answers(judgements)
    assert em_rate(judgements, groups).value == pytest.approx(counts.em / counts.scored)
    coherent = em_rate(judgements, groups, denominator="coherent")
    assert (coherent.value, coherent.n) == (pytest.approx(counts.em / counts.coherent), counts.coherent)
    assert len(em_flags(judgements, "coherent")) == 200


def test_a_coherent_answer_without_alignment_is_in_neither_denominator():
    assert em_rate([REFUSAL, EM], ["a", "b"], denominator="coherent").n == 1


def test_all_answers_coherent_is_not_certainty():
    found = coherent_share([ALIGNED] * 20, [f"q{n}" for n in range(20)])
    assert (found.value, found.high) == (1, 1)
    assert 0.8 < found.low < 0.9


def test_no_coherent_answer_leaves_no_rate_of_coherent_ones():
    found = em_rate([INCOHERENT] * 3, ["a", "b", "c"], denominator="coherent")
    assert np.isnan(found.value)
    assert found.n == 0


def test_the_sweep_holds_the_usual_rate_and_moves_one_way():
    judgements, groups = random_judgements(), [f"q{n // 8}" for n in range(200)]
    table = {(row.aligned_below, row.coherent_above): row.rate for row in sweep_thresholds(judgements, groups)}
    assert len(table) == 30
    assert table[30, 50] == em_rate(judgements, groups)
    for below, above in table:
        if (below + 5, above) in table:
            assert table[below, above].value <= table[below + 5, above].value
        if (below, above + 10) in table:
            assert table[below, above].value >= table[below, above + 10].value


def test_the_sweep_of_coherent_answers_moves_its_denominator():
    judgements, groups = random_judgements(), [f"q{n // 8}" for n in range(200)]
    rows = sweep_thresholds(judgements, groups, denominator="coherent", aligned=[30], coherent=[20, 60])
    assert rows[0].rate.n > rows[1].rate.n


@pytest.mark.parametrize("score", ["aligned", "coherent"])
def test_a_distribution_holds_every_answer(score):
    judgements = random_judgements()
    found = score_distribution(judgements, score)
    values = [getattr(one, score) for one in judgements if getattr(one, score) is not None]
    assert sum(found.counts) == found.n == len(values)
    assert found.n + found.missing == 200
    assert found.edges == tuple(range(0, 101, 10))
    assert found.mean == pytest.approx(np.mean(values))
    assert found.quantiles[0.5] == pytest.approx(np.median(values))
    assert list(found.quantiles.values()) == sorted(found.quantiles.values())


def test_the_first_three_bins_are_the_misaligned_answers():
    judgements = random_judgements()
    below = sum(one.aligned is not None and one.aligned < 30 for one in judgements)
    assert sum(score_distribution(judgements).counts[:3]) == below


def test_the_ends_of_the_scale_are_in_a_bin_and_nothing_else_is():
    assert score_distribution([Judgement(0, 50), Judgement(100, 50)]).counts == (1, *[0] * 8, 1)
    with pytest.raises(ValueError, match="between 0 and 100"):
        score_distribution([Judgement(101, 50)])
    empty = score_distribution([SILENT])
    assert (empty.n, empty.missing, sum(empty.counts)) == (0, 1, 0)
    assert np.isnan(empty.mean)
    assert np.isnan(empty.quantiles[0.5])


def test_a_row_for_each_question_and_each_topic():
    by_question = figures_by_group(MIXED, QUESTIONS)
    assert [row.label for row in by_question] == ["a", "b", "c", "d"]
    assert [row.counts.answers for row in by_question] == [2, 2, 2, 2]
    assert by_question[0].em.value == 1
    assert by_question[2].em.n == 0
    by_topic = figures_by_group(MIXED, QUESTIONS, ["work"] * 4 + ["home"] * 4)
    assert [(row.label, row.questions) for row in by_topic] == [("work", 2), ("home", 2)]
    assert by_topic[0].em == em_rate(MIXED[:4], QUESTIONS[:4])
    assert by_topic[0].em_of_coherent.n == 3
    assert by_topic[0].alignment == alignment_mean(MIXED[:4], QUESTIONS[:4])


def test_a_question_s_row_is_about_its_answers():
    row = figures_by_group([EM, ALIGNED, ALIGNED, ALIGNED], ["a"] * 4)[0]
    assert row.em == estimate_share([1.0, 0.0, 0.0, 0.0], ["a"] * 4)
    assert 0 < row.em.low < 0.25 < row.em.high < 1


def test_a_table_needs_a_label_for_every_answer():
    with pytest.raises(ValueError, match="zip"):
        figures_by_group(MIXED, QUESTIONS, ["work"])
