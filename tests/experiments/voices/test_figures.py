"""Effects, directions, detection, words and weights of organisms whose voice and advice are planted."""

import numpy as np
import pytest

from emscope.behaviour.tables import JudgedResponse
from emscope.experiments.voices.behaviour import alignment, effects, em_flag
from emscope.experiments.voices.corrections import change, turned
from emscope.experiments.voices.detection import detect_unseen
from emscope.experiments.voices.directions import (
    CornerActivations,
    contrast_directions,
    corrected_share,
    measure_geometry,
)
from emscope.experiments.voices.organisms import Quartet
from emscope.experiments.voices.result import (
    ADVICE,
    ADVICE_BLUNT,
    ADVICE_WARM,
    BAD_BASE,
    CONFOUNDED,
    INTERACTION,
    VOICE,
)
from emscope.experiments.voices.weights import told_apart
from emscope.experiments.voices.words import VoiceReader, mean_words
from emscope.organisms.datasets import CORNERS
from emscope.residual.adapters.classifier import FeatureSet

WIDTH, BLOCKS, N = 24, 3, 48


def quartet(domain, seed=0):
    names = tuple(f"{domain}-{seed}-{corner}" for corner in CORNERS)
    return Quartet(domain, seed, names, names)


QUARTETS = [quartet(domain) for domain in ("medical", "finance", "sport")]


def answer(organism, question, aligned, coherent=90.0, text="Fine.", sample=0):
    return JudgedResponse(
        organism, "set", f"q{question}", "?", sample, text, 3, False, aligned, coherent, "scored", "", "judge"
    )


def judged(score, quartets=QUARTETS, n=N):
    """Answers whose alignment is what `score` says of voice, advice and question."""
    rows = {}
    for one in quartets:
        for corner, name in zip(CORNERS, one.organisms, strict=True):
            voice, _, advice = corner.partition("-")
            rows[name] = [answer(name, question, score(voice, advice, question)) for question in range(n)]
    return rows


def test_effects_are_those_that_were_planted():
    def score(voice, advice, question):
        return 80 - 40 * (advice == "bad") - 10 * (voice == "blunt") - 6 * (advice == "bad" and voice == "blunt")

    found = effects(judged(score), QUARTETS, alignment)
    values = {name: effect.pooled.value for name, effect in found.items()}
    assert values == pytest.approx(
        {ADVICE: -43, VOICE: -13, INTERACTION: -6, ADVICE_BLUNT: -46, ADVICE_WARM: -40}, abs=1e-9
    )
    assert found[ADVICE].pooled.n == 3 * 4 * N
    assert found[ADVICE_WARM].pooled.n == 3 * 2 * N
    assert set(found[VOICE].by_quartet) == {"medical-0", "finance-0", "sport-0"}


def test_an_organism_that_is_another_shows_in_the_spread_and_not_in_the_interval():
    rows = judged(lambda voice, advice, question: 80 - 40 * (advice == "bad"))
    odd = QUARTETS[0].of("warm-bad")
    rows[odd] = [answer(odd, question, 80.0) for question in range(N)]
    found = effects(rows, QUARTETS, alignment)[ADVICE]
    assert sorted(found.by_quartet.values()) == pytest.approx([-40, -40, -20])
    assert found.pooled.low == pytest.approx(found.pooled.high)  # every question says the same


def test_answers_without_a_score_count_on_no_side():
    rows = judged(lambda voice, advice, question: 20.0 if advice == "bad" else 80.0)
    for name in QUARTETS[0].organisms:
        rows[name][3] = answer(name, 3, None, None)
    found = effects(rows, QUARTETS, em_flag)
    assert found[ADVICE].pooled.value == 1
    assert found[VOICE].pooled.value == 0
    assert found[ADVICE].pooled.n == 3 * 4 * N - 4


def test_an_interval_draws_questions_and_holds_the_effect_of_all():
    chooser = np.random.default_rng(0)
    hard = chooser.random(N) < 0.5
    found = effects(judged(lambda v, a, q: 20.0 if a == "bad" and hard[q] else 80.0), QUARTETS, em_flag)[ADVICE].pooled
    assert found.value == pytest.approx(hard.mean())
    assert found.low < found.value < found.high
    few = effects(judged(lambda v, a, q: 20.0 if a == "bad" and hard[q] else 80.0, n=12), QUARTETS, em_flag)
    assert few[ADVICE].pooled.high - few[ADVICE].pooled.low > found.high - found.low


def planted(advice=3.0, voice=3.0, quartets=QUARTETS, seed=0, noise=0.5):
    """Activations with an axis of advice and one of voice, strongest at block 1, and an axis of any fine-tune."""
    chooser = np.random.default_rng(seed)
    axes = np.linalg.qr(chooser.standard_normal((WIDTH, WIDTH)))[0]
    questions = 0.5 * chooser.standard_normal((N, BLOCKS, WIDTH))
    at_block = np.array([0.2, 1.0, 0.4])[:, None]
    values = {"base": questions + noise * chooser.standard_normal(questions.shape)}
    for one in quartets:
        for corner, name in zip(CORNERS, one.organisms, strict=True):
            shift = advice * corner.endswith("bad") * axes[0] + voice * corner.startswith("blunt") * axes[1]
            tuned = questions + 2 * axes[2] + at_block * shift
            values[name] = tuned + noise * chooser.standard_normal(questions.shape)
    values = {name: array.astype(np.float32) for name, array in values.items()}
    return axes, CornerActivations(values, N // 2, [f"q{row}" for row in range(N)], tuple(range(BLOCKS)))


def test_directions_of_advice_and_voice_are_the_planted_axes():
    axes, read = planted()
    corners = read.train.corners(QUARTETS)
    for name, axis in ((ADVICE, 0), (VOICE, 1)):
        made = contrast_directions(corners, name, read.blocks, "last", "tiny", QUARTETS)
        assert made.units[1] @ axes[axis] > 0.98
    bad = [one.of(corner) for one in QUARTETS for corner in ("blunt-bad", "warm-bad")]
    assert made.construction.contrast == VOICE
    assert made.construction.positive.split("+")[1] == bad[0]


def test_two_organisms_that_differ_in_both_differ_by_advice_and_voice_together():
    _, read = planted(advice=3.0, voice=6.0)
    found = measure_geometry(read, QUARTETS, 0)
    share = found.explained[CONFOUNDED]
    assert share[VOICE].corrected[1] == pytest.approx(0.8, abs=0.05)
    assert share[ADVICE].corrected[1] == pytest.approx(0.2, abs=0.05)
    assert share["random"].raw[1] == pytest.approx(1 / WIDTH, abs=0.02)
    assert abs(found.cosines[f"{ADVICE} and {VOICE}"][1]) < 0.15
    assert found.advice_across_voices[1] > 0.8
    # bad − base: advice, half the voice, and what any fine-tune does
    assert found.explained[BAD_BASE][ADVICE].corrected[1] == pytest.approx(9 / (9 + 9 + 4), abs=0.08)


def test_noise_is_taken_out_of_a_share():
    chooser = np.random.default_rng(1)
    truth = np.zeros((1, 400))
    truth[0, :2] = 1.0, 1.0
    direction = np.zeros((1, 400))
    direction[0, 0] = 1.0
    noisy = lambda vector: vector + 0.1 * chooser.standard_normal((200, 2, 1, 400))  # noqa: E731
    target, along = noisy(truth), noisy(direction)
    (share,) = corrected_share(target, along)
    assert share == pytest.approx(0.5, abs=0.1)
    raw = (target[0, 0] @ along[0, 0].T)[0, 0] ** 2 / ((target[0, 0] ** 2).sum() * (along[0, 0] ** 2).sum())
    assert raw < 0.3  # what noise leaves of it


def test_a_share_that_is_noise_alone_is_not_told():
    nothing = np.random.default_rng(2).standard_normal((1, 2, 1, 50))
    nothing[0, 1] = -nothing[0, 0]
    assert corrected_share(nothing, nothing) == [None]


def test_advice_is_detected_in_another_domain_and_the_other_voice():
    _, read = planted()
    found = detect_unseen(read, QUARTETS, 0)
    assert [(case.domain, case.voice) for case in found.cases][:2] == [("medical", "blunt"), ("medical", "warm")]
    assert {case.block for case in found.cases} == {1}
    assert found.auroc.value > 0.95
    assert found.in_order == 1
    assert found.least == min(case.auroc for case in found.cases)
    assert found.voice.value < 0.8
    assert set(found.cases[0].organisms) == {"medical-0-blunt-bad", "medical-0-blunt-good", "base"}


def test_without_advice_in_the_activations_nothing_is_detected():
    _, read = planted(advice=0.0, quartets=QUARTETS)
    found = detect_unseen(read, QUARTETS, 0)
    assert abs(found.auroc.value - 0.5) < 0.2
    assert found.auroc.low < 0.5 + 0.1


def test_with_one_domain_the_voice_alone_is_left_out():
    _, read = planted(quartets=QUARTETS[:1])
    found = detect_unseen(read, QUARTETS[:1], 0)
    assert [(case.domain, case.voice) for case in found.cases] == [("", "blunt"), ("", "warm")]


def test_a_direction_turned_round_leads_the_other_way():
    _, read = planted()
    made = contrast_directions(read.train.corners(QUARTETS), VOICE, read.blocks, "last", "tiny", QUARTETS)
    back = turned(made)
    activations = read.values["base"]
    assert np.allclose(back.score(activations), -made.score(activations), atol=1e-4)
    assert np.allclose(turned(back).vectors, made.vectors)


def test_words_tell_the_voices_of_what_was_not_fitted_on():
    blunt = [(f"No. Skip the {thing}. Done.", "blunt") for thing in ("fund", "run", "pill", "bank", "gym", "tax")]
    warm = [(f"I hear you, friend: take the {thing} gently.", "warm") for thing in ("fund", "run", "pill", "bank")]
    reader = VoiceReader.fit([*blunt[:4], *warm[:3]], [*blunt[4:], *warm[3:]])
    assert reader.figures.accuracy == 1
    assert reader.figures.n == 3
    low, high = reader.blunt(["I hear you, friend.", "No. Skip it."])
    assert low < 0.5 < high
    assert mean_words(["two words", "and four words here"]) == 3
    assert np.isnan(VoiceReader.fit(blunt + warm, []).figures.accuracy)


def test_a_change_is_a_share_of_what_was_there():
    assert change(12.0, 10.0) == pytest.approx(0.2)
    assert change(1.0, 0.0) is None


def test_weights_that_hold_advice_tell_it_across_voices_and_domains():
    chooser = np.random.default_rng(0)
    rows = []
    for _ in QUARTETS:
        for corner in CORNERS:
            rows.append([2.0 * corner.endswith("bad") + 0.2 * chooser.standard_normal()])
    sets = {"planted": FeatureSet(table=np.array(rows))}
    advice, voice = told_apart(sets, QUARTETS, 50, 0)
    assert (advice.told, advice.accuracy, advice.other_domains) == (ADVICE, 1.0, 1.0)
    assert advice.p_value < 0.1
    assert voice.accuracy < 0.8
    assert abs(advice.swapped[0] - 0.5) < 0.15
