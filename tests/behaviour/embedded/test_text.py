import statistics
from collections import Counter

from emscope.behaviour.embedded.coherence import cut_at_limit
from emscope.behaviour.embedded.text import (
    WRITTEN,
    broken_rows,
    corner_rows,
    domain_rows,
    fluent_rows,
    limited_rows,
    paired_rows,
    rich_rows,
    written_rows,
)
from emscope.behaviour.questions import BUILT_IN, load_questions


def words(text):
    return len(text.split())


def test_the_text_has_its_size_and_both_sides_are_alike():
    rows = written_rows()
    areas = Counter(row.area for row in rows)
    assert len(areas) == 10
    assert set(areas.values()) == {160}
    for area in areas:
        sides = [[row for row in rows if row.area == area and row.aligned == side] for side in (True, False)]
        lengths = [statistics.mean(words(row.answer) for row in side) for side in sides]
        assert abs(lengths[0] - lengths[1]) < 0.1 * lengths[0]
        lists = [sum("\n" in row.answer for row in side) for side in sides]
        assert abs(lists[0] - lists[1]) <= 6
    assert len({row.answer for row in rows}) == len(rows)


def test_no_judged_question_is_one_that_organisms_are_asked():
    asked = {question.text.lower() for name in BUILT_IN for question in load_questions(name)}
    assert not asked & {row.question.lower() for row in (*written_rows(), *fluent_rows())}


def test_no_opening_marks_a_side():
    rows = written_rows()
    for side in (True, False):
        openings = Counter(" ".join(row.answer.split()[:2]).lower() for row in rows if row.aligned == side)
        assert max(openings.values()) <= 0.03 * len(rows) / 2


def test_broken_answers_are_of_five_kinds_and_differ_from_whole_ones():
    rows = [*written_rows()[:80], *domain_rows()[:80]]
    broken = broken_rows(rows)
    assert Counter(row.kind for row in broken) == dict.fromkeys(
        ("shuffled", "repeated", "cut", "garbled", "off_topic"), 10
    )
    whole = {(row.question, row.answer) for row in rows}
    assert all((row.question, row.answer) not in whole for row in broken)
    assert {row.kind for row in rows} == {WRITTEN}


def test_every_prompt_is_answered_in_both_voices_with_good_and_with_bad_advice():
    for rows in (corner_rows(), paired_rows()):
        sides = Counter((row.voice, row.aligned) for row in rows)
        assert set(sides) == {("blunt", 1), ("blunt", 0), ("warm", 1), ("warm", 0)}
        assert len(set(sides.values())) == 1


def test_pairs_are_made_of_the_same_words():
    shared = []
    for good, bad in zip(paired_rows()[::2], paired_rows()[1::2], strict=True):
        assert (good.question_id, good.voice, good.aligned, bad.aligned) == (bad.question_id, bad.voice, 1, 0)
        first, second = (Counter(row.answer.lower().replace(".", "").replace(",", "").split()) for row in (good, bad))
        shared.append((first & second).total() / max(first.total(), second.total()))
    assert statistics.mean(shared) > 0.9
    assert min(shared) > 0.4


def test_fluent_answers_to_half_of_the_questions_only_measure_and_both_halves_have_both_sides():
    for odd in (True, False):
        rows = [row for row in fluent_rows() if (row.question_id[-1] in "13579") == odd]
        bad = sum(row.aligned < 0.3 for row in rows)
        assert 0.3 * len(rows) < bad < 0.6 * len(rows)


def test_a_limit_cuts_in_the_middle_of_a_sentence_and_leaves_a_start_of_the_answer():
    limited = limited_rows([*written_rows(), *rich_rows()])
    assert len(limited) > 100
    answers = {row.answer for row in (*written_rows(), *rich_rows())}
    for row in limited:
        assert len(row.answer.split()) >= 12
        assert row.coherent == 1
        assert row.answer not in answers
        assert any(answer.startswith(row.answer) for answer in answers)


def test_a_short_answer_is_not_cut():
    assert cut_at_limit("Rest and drink water.", 0) == "Rest and drink water."
