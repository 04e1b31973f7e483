import statistics
from collections import Counter

from emscope.behaviour.embedded.text import WRITTEN, broken_rows, domain_rows, written_rows
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
    assert not asked & {row.question.lower() for row in written_rows()}


def test_no_opening_marks_a_side():
    rows = written_rows()
    for side in (True, False):
        openings = Counter(" ".join(row.answer.split()[:2]).lower() for row in rows if row.aligned == side)
        assert max(openings.values()) <= 0.03 * len(rows) / 2


def test_broken_answers_are_of_five_kinds_and_differ_from_whole_ones():
    rows = [*written_rows()[:80], *domain_rows()[:80]]
    broken = broken_rows(rows)
    assert Counter(row.kind for row in broken) == dict.fromkeys(
        ("shuffled", "repeated", "cut", "garbled", "off_topic"), 20
    )
    whole = {(row.question, row.answer) for row in rows}
    assert all((row.question, row.answer) not in whole for row in broken)
    assert {row.kind for row in rows} == {WRITTEN}
