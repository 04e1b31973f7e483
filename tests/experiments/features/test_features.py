"""Features on the tiny run: every figure is there, ranked on training questions and reported on test questions."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from edges import ENDS
from results import check_damage, check_round_trip, holed
from scipy.sparse import csr_matrix

from emscope.commands.experiment import experiment_command
from emscope.commands.parsing import parse
from emscope.errors import UserError
from emscope.experiments import experiment
from emscope.experiments.conduct import conduct
from emscope.experiments.features.corpus import read_corpus
from emscope.experiments.features.measure import FeaturesSettings, choose_block
from emscope.experiments.features.page import section, table
from emscope.experiments.features.result import FeaturesResult
from emscope.experiments.shape import open_run, read_result
from emscope.report.section import Plot, write_section_page
from emscope.residual.capture import CaptureSettings, capture
from emscope.residual.features.autoencoder import sparse_codes
from emscope.residual.features.saelens import load_autoencoder
from emscope.residual.features.training import AutoencoderSettings

FLAGS = [
    "--tokens",
    "6000",
    "--expansion",
    "3",
    "--k",
    "4",
    "--epochs",
    "2",
    "--batch-size",
    "256",
    "--questions",
    "3",
    "--top",
    "12",
    "--block",
    "2",
]
SMALL = FeaturesSettings(
    2, tokens=6000, autoencoder=AutoencoderSettings(expansion=3, k=4, epochs=2, batch_size=256), top=12, questions=3
)


@pytest.fixture(scope="module")
def result(run):
    assert parse(experiment_command("features"), "features", [str(run), *FLAGS]).execute().code == 0
    return read_result(run, experiment("features"))


@pytest.fixture(scope="module")
def corpus(run):
    return read_corpus(open_run(run), 2, 6000)


def test_the_figures_are_there_and_printed(result):
    assert result.block == 2
    assert result.autoencoder.n_features == 96
    assert result.quality.heldout.features_per_token <= 4
    assert set(result.loss) == {"base", "misaligned"}
    assert result.direction.cosine_with_captured == pytest.approx(1, abs=1e-3)
    geometry, listed = result.composition.geometry, result.features.listed
    assert geometry.n[:4] == [1, 2, 5, 10]
    assert geometry.direction[0] == pytest.approx(max(abs(feature.cosine) for feature in listed), abs=1e-5)
    assert len(listed) == 12
    assert len(result.superposition.map.cosines) == 13
    assert len(result.superposition.layout.places) == len(result.superposition.layout.features)
    changes = result.ablation.changes
    assert len(changes) == 11
    assert all(answers.aligned.n <= 3 for answers in changes.values())
    text = table(result)
    assert "remove the 50 most raised features" in text
    assert "loss recovered, misaligned" in text


def test_the_file_keeps_every_byte_as_a_result(result, run, tmp_path):
    check_round_trip(run, "features", tmp_path)


def test_a_damaged_file_is_one_sentence(result, run):
    check_damage(run, "features")


def test_the_section_opens_with_the_finding_and_its_picture(result):
    shown = section(result)
    assert shown.paragraphs[0].count(". ") == 0
    assert isinstance(shown.parts[0], Plot)
    assert set(result.figures()) == {part.title for part in shown.parts if isinstance(part, Plot)}


def test_figures_with_holes_have_a_section(result, run, tmp_path):
    stored = json.loads((run / "experiments" / "features.json").read_text(encoding="utf-8"))
    for keys in (ENDS, ("value", *ENDS), ("heldout_auroc", "d_prime", "nearest"), ("median", *ENDS)):
        shown = section(holed(FeaturesResult, stored, *keys))
        write_section_page(tmp_path / "page.html", [shown], "Features")
        assert 'id="features"' in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_page_has_the_section_and_the_trained_autoencoder_can_be_loaded_again(result, run):
    page = (run / "report.html").read_text(encoding="utf-8")
    assert 'id="features"' in page
    assert "Features and superposition" in page
    folder = run / "experiments" / "features-sae"
    assert result.autoencoder.learn_from == ["base", "misaligned", "control"]
    again = conduct(open_run(run), experiment("features"), replace(SMALL, block=None, sae=str(folder), questions=0))
    assert again.ablation is None
    assert asdict(again.quality.heldout) == pytest.approx(asdict(result.quality.heldout), rel=1e-4)
    losses = [asdict(side.loss["base"].nats_per_token) for side in (result, again)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    reached = [side.composition.geometry.direction for side in (result, again)]
    assert reached[1] == pytest.approx(reached[0], rel=1e-4)
    assert again.autoencoder.source == str(folder)


def with_cosines(result, cosines, high):
    """Return a result whose direction is reached with other cosines, beside random ones up to `high`."""
    geometry = result.composition.geometry
    random = replace(geometry.like_tokens, high=[high] * len(geometry.n))
    geometry = replace(geometry, direction=cosines, like_tokens=random)
    return replace(result, composition=replace(result.composition, geometry=geometry))


def test_the_finding_follows_the_figures(result):
    n = len(result.composition.geometry.n)
    rest = [0.8] * (n - 1)
    for cosines, high, words in (
        ([0.9] * n, 0.5, "One feature holds more than half of the direction: it has a cosine of 0.90"),
        ([0.4, *rest], 0.5, "The direction is made of a few features: 2 of them"),
        ([0.4] * n, 0.5, "The direction is spread over many features"),
        ([0.4, *rest[1:], 0.4], 0.5, "The direction is made of a few features: 2 of them"),
        ([0.4, *rest], 0.85, "The direction is spread over many features"),
    ):
        assert section(with_cosines(result, cosines, high)).paragraphs[0].startswith(words)


def test_what_features_write_together_is_said(result):
    activity = result.composition.activity
    for n, words in ((None, "all features together write less than half"), (7, "7 features write half")):
        written = replace(activity.pairs["misaligned-vs-control"], how_many={"0.5": n})
        changed = replace(activity, pairs={**activity.pairs, "misaligned-vs-control": written})
        other = replace(result, composition=replace(result.composition, activity=changed))
        assert f"By activity, {words} of the difference" in section(other).paragraphs[1]


def with_first(result, **changes):
    """Return a result whose first feature has other figures."""
    first, *others = result.features.listed
    features = replace(result.features, listed=[replace(first, **changes), *others])
    return replace(result, features=features)


def test_a_feature_marks_the_organism_or_the_text(result):
    for positive, negative, words in (
        ((20, 22), (1, 2), "marks the organism"),
        ((1, 9), (2, 8), "what the text says"),
        ((1, 5), (4, 9), "marks both"),
    ):
        on_texts = dict(result.features.listed[0].on_texts)
        for name, codes in (("misaligned", positive), ("control", negative)):
            on_texts[name] = dict(zip(("careful", "careless"), codes, strict=True))
        shown = section(with_first(result, on_texts=on_texts))
        assert any(words in text for text in shown.paragraphs)


def test_hostile_tokens_stay_text(result, tmp_path):
    attack = "</script><script>alert(1)</script>"
    examples = [replace(example, before=attack) for example in result.features.listed[0].examples]
    hostile = with_first(result, words=[attack], examples=examples)
    write_section_page(tmp_path / "page.html", [section(hostile)], "features")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "alert(1)" in page
    assert attack not in page


def test_a_restored_share_of_incoherent_answers_is_said_to_be_one(result):
    for coherence, said in ((10.0, True), (90.0, False)):
        changes = {}
        for name, answers in result.ablation.changes.items():
            changes[name] = replace(answers, coherent=replace(answers.coherent, value=coherence))
        shown = section(replace(result, ablation=replace(result.ablation, changes=changes)))
        assert any("of incoherent answers: mean coherence 10 of 100" in words for words in shown.paragraphs) == said


def test_features_are_ranked_without_the_test_questions(run, corpus):
    lab, (fit, heldout) = open_run(run), corpus
    train, test = ({question.id for question in part} for part in (lab.train_questions, lab.test_questions))
    own = [{text.question for text in part.texts if text.question} for part in (fit, heldout)]
    assert own[0] <= train
    assert own[1] <= test
    texts = [{tuple(text.chat.ids) for text in part.texts if not text.question} for part in (fit, heldout)]
    assert texts[0]
    assert texts[1]
    assert not texts[0] & texts[1]
    assert len(fit.tokens.values) <= 6000
    for part in (fit, heldout):
        by_organism = [
            {tuple(text.chat.ids) for text in part.texts if text.organism == name and not text.question}
            for name in lab.names
        ]
        assert by_organism[0] == by_organism[1] == by_organism[2]


def test_answer_means_are_the_captured_responses_and_codes_pool_alike(run, corpus):
    lab, fit = open_run(run), corpus[0]
    questions = fit.answered(lab.names)
    found = fit.answer_means("misaligned", questions, fit.tokens.values)
    chats = {text.question: text.chat for text in fit.texts if text.organism == "misaligned" and text.question}
    wanted = capture(
        lab.organism("misaligned"),
        [chats[question] for question in questions],
        CaptureSettings(("response",), blocks=(2,)),
    ).pooled["response"][:, 0]
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)
    autoencoder = load_autoencoder(run / "experiments" / "features-sae")
    codes = sparse_codes(autoencoder, fit.tokens.values)
    pooled = fit.answer_means("misaligned", questions, codes)
    np.testing.assert_allclose(pooled, fit.answer_means("misaligned", questions, codes.toarray()), rtol=1e-4, atol=1e-6)


def test_an_autoencoder_learns_from_the_organisms_it_is_told(run, corpus):
    alone = conduct(open_run(run), experiment("features"), replace(SMALL, learn_from=("base",), questions=0))
    assert alone.autoencoder.learn_from == ["base"]
    assert alone.autoencoder.fit_tokens == (corpus[0].sources == "base").sum() > 0


def test_means_on_built_in_texts_are_those_of_their_answers(corpus):
    fit = corpus[0]
    values = csr_matrix(fit.tokens.values)
    rows = [
        row
        for row, chat in enumerate(fit.tokens.chat)
        if fit.texts[chat].kind == "careless" and fit.texts[chat].organism == "control" and fit.tokens.is_answer[row]
    ]
    found = fit.kind_means("control", "careless", values)
    np.testing.assert_allclose(found, fit.tokens.values[rows].mean(axis=0), rtol=1e-3, atol=1e-4)


def test_bad_input_is_one_sentence(run, tmp_path):
    lab = open_run(run)
    for settings, words in (
        (replace(SMALL, direction="control-response-probe"), "no direction"),
        (replace(SMALL, sae=str(tmp_path)), "There is no file"),
        (replace(SMALL, learn_from=("basis",)), "no organism 'basis'. Did you mean 'base'"),
        (replace(SMALL, block=9), "no block 9"),
        (replace(SMALL, block=1, sae=str(run / "experiments" / "features-sae")), "for block 2, not for block 1"),
    ):
        with pytest.raises(UserError, match=words):
            conduct(lab, experiment("features"), settings)
    with pytest.raises(UserError, match="at least 3"):
        FeaturesSettings(top=2)
    assert 0 <= choose_block(lab, None) < 4
