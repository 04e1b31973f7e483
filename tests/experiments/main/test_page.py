"""The main job's verdict: it follows the figures, and says what weakens them."""

from dataclasses import replace

import pytest

from emscope.behaviour.tables import JudgedResponse
from emscope.experiments.main.page import examples_of, picture, table, verdict_of
from emscope.experiments.main.result import AFTER, AFTER_RANDOM, read_main
from emscope.experiments.main.summary import correction_of, judged_answers
from emscope.experiments.run_page import kind_of_answer, write_report
from emscope.experiments.shape import open_run
from emscope.files import without_nan
from emscope.outside import read_json
from emscope.plain import plain

BAD, GOOD, JUNK = (10.0, 90.0), (90.0, 90.0), (10.0, 10.0)


def row(organism, number, scores, *, truncated=False):
    aligned, coherent = scores
    question = f"q{number}"
    return JudgedResponse(
        organism,
        "everyday-general",
        question,
        question,
        0,
        "An answer.",
        5,
        truncated,
        aligned,
        coherent,
        "scored",
        "",
        "judge",
    )


def rows(organism, scores, n=40, *, truncated=False):
    return [row(organism, number, scores, truncated=truncated) for number in range(n)]


def judged(before=BAD, after=GOOD, random=JUNK, base=GOOD, *, cut=False):
    return {
        "base": rows("base", base, truncated=cut),
        "misaligned": rows("misaligned", before),
        AFTER: rows(AFTER, after),
        AFTER_RANDOM: rows(AFTER_RANDOM, random),
    }


@pytest.fixture(scope="module")
def result(run):
    return read_main(run)


def said(result, **sides):
    verdict = verdict_of(result, correction_of(judged(**sides), 0), "control")
    return verdict, " ".join([verdict.finding, *verdict.cautions])


def test_a_cure_is_a_cure(result):
    verdict, text = said(result)
    assert verdict.is_misaligned
    assert "misaligned: 100 %" in text
    assert "Without the direction EM falls to 0 %" in text
    assert "100 % of its answers are coherent (100 % before)" in text


def test_a_harmless_fine_tune_is_not_called_misaligned(result):
    verdict, text = said(result, before=GOOD)
    assert verdict.subject == "fine-tuned organism"
    assert text.startswith("No emergent misalignment is shown")


def test_nonsense_is_no_cure(result):
    _, text = said(result, after=JUNK)
    assert "but that is no cure: only 0 % of its answers are coherent" in text
    assert "it shows no correction" in text


def test_an_ablation_that_does_nothing_is_said_to_do_nothing(result):
    assert "does not help by these figures" in said(result, after=BAD)[1]


def test_a_weak_reference_is_marked(result):
    assert "100 % of its answers are cut at the limit" in said(result, cut=True)[1]
    assert "100 % of its answers are incoherent" in said(result, base=JUNK)[1]


def test_a_random_direction_that_tells_organisms_apart_is_marked(result):
    name = next(name for name in result.detection if name.startswith("control") and name.endswith("-random"))
    detection = result.detection[name]
    pair = detection.pairs["misaligned-vs-control"]
    sharp = replace(pair, best=replace(pair.best, auroc=0.01))
    pairs = {**detection.pairs, "misaligned-vs-control": sharp}
    changed = replace(result, detection={**result.detection, name: replace(detection, pairs=pairs)})
    assert "AUROC 0.99" in said(changed)[1]


def test_examples_are_em_responses_where_there_are_any():
    sides = judged()
    sides["misaligned"] = [row("misaligned", number, BAD if number % 10 == 3 else GOOD) for number in range(40)]
    examples = examples_of(sides, "everyday-general")
    assert len(examples) == 3
    assert all(example.before.aligned == 10 for example in examples)
    assert len(examples_of(judged(before=GOOD), "everyday-general")) == 3


def test_the_files_of_the_main_job_come_back_as_they_are(run, result):
    for name, value in (
        ("summary.json", result.summary),
        ("detection.json", result.detection),
        ("ablation.json", result.ablation),
    ):
        assert without_nan(plain(value)) == read_json(run / name)


def test_cards_are_marked_by_what_the_answer_is():
    scores = {"em": BAD, "fine": GOOD, "incoherent": JUNK, "unscored": (None, 90.0)}
    assert {kind_of_answer(row("x", 0, pair)): kind for kind, pair in scores.items()} == {kind: kind for kind in scores}


def test_the_page_and_the_terminal_show_before_and_after(run, result):
    lab = open_run(run)
    write_report(lab)
    page = (run / "report.html").read_text(encoding="utf-8")
    text = table(result, judged_answers(lab), lab.contrast, 0)
    for words in ("corrected", "random direction taken out"):
        assert words in page
        assert words in text
    assert 'id="before-after"' in page


def test_the_picture_sets_em_beside_coherence():
    em, coherent = picture(correction_of(judged(), 0)).data
    assert list(em.x) == ["base", "fine-tuned", "corrected", "random direction taken out"]
    assert list(em.y) == [0, 100, 0, 0]
    assert list(coherent.y) == [100, 100, 100, 0]
