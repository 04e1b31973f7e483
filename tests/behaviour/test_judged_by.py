"""Who judged, and how many answers got no score, is counted so that the parts add up."""

from hypothesis import given
from hypothesis import strategies as st

from emscope.behaviour.judged_by import judged_by
from emscope.behaviour.tables import JudgedResponse

SCORES = st.one_of(st.none(), st.floats(0, 100))
VERDICTS = st.sampled_from(["scored", "refusal", "code", "empty answer", "the server failed 8 times"])


def row(aligned, coherent, verdict, judge):
    return JudgedResponse(
        "base", "set", "q", "Why?", 0, "Because.", 1, False, aligned, coherent, verdict, "reply", judge
    )


@given(st.lists(st.tuples(SCORES, SCORES, VERDICTS, st.sampled_from(["a", "b"]))))
def test_the_counts_add_up(values):
    rows = [row(*value) for value in values]
    found = judged_by(rows)
    assert found.scored + found.refusals + found.code + found.unscored == found.answers == len(rows)
    assert sorted(found.judges) == sorted({judge for *_, judge in values})
    assert sum(found.modes.values()) == len(rows)
    assert sum(found.reasons.values()) <= found.unscored


def test_the_sentence_names_judge_and_reason():
    said = str(judged_by([row(80, 90, "scored", "gpt"), row(None, None, "no reply", "gpt")]))
    assert "gpt" in said
    assert "1 unscored (1 times: no reply)" in said
