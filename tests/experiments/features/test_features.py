"""Features on the tiny run: every figure is there, ranked on training questions and reported on test questions."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from emscope.commands.experiment import experiment_command
from emscope.commands.parsing import parse
from emscope.errors import UserError
from emscope.experiments import experiment
from emscope.experiments.conduct import conduct
from emscope.experiments.features.corpus import read_corpus
from emscope.experiments.features.measure import FeaturesSettings, choose_block
from emscope.experiments.features.page import section, table
from emscope.experiments.shape import open_run
from emscope.report.section import write_section_page
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
def found(run):
    assert parse(experiment_command("features"), "features", [str(run), *FLAGS]).execute().code == 0
    return json.loads((run / "experiments" / "features.json").read_text())


@pytest.fixture(scope="module")
def corpus(run):
    return read_corpus(open_run(run), 2, 6000)


def test_the_figures_are_there_and_printed(found):
    assert found["block"] == 2
    assert found["autoencoder"]["n_features"] == 96
    assert found["quality"]["heldout"]["features_per_token"] <= 4
    assert set(found["loss"]) == {"base", "misaligned"}
    assert found["direction"]["cosine_with_captured"] == pytest.approx(1, abs=1e-3)
    geometry = found["composition"]["geometry"]
    assert geometry["n"][:4] == [1, 2, 5, 10]
    assert geometry["direction"][0] == pytest.approx(
        max(abs(item["cosine"]) for item in found["features"]["listed"]), abs=1e-5
    )
    assert len(found["features"]["listed"]) == 12
    space = found["superposition"]
    assert len(space["map"]["cosines"]) == 13
    assert len(space["layout"]["places"]) == len(space["layout"]["features"])
    changes = found["ablation"]["changes"]
    assert len(changes) == 11
    assert all(item["aligned"]["n"] <= 3 for item in changes.values())
    text = table(found)
    assert "remove the 50 most raised features" in text
    assert "loss recovered, misaligned" in text


def test_the_page_has_the_section_and_the_trained_autoencoder_can_be_loaded_again(found, run):
    page = (run / "report.html").read_text(encoding="utf-8")
    assert 'id="features"' in page
    assert "Features and superposition" in page
    folder = run / "experiments" / "features-sae"
    assert found["autoencoder"]["learn_from"] == ["base", "misaligned", "control"]
    conduct(open_run(run), experiment("features"), replace(SMALL, block=-1, sae=str(folder), questions=0))
    again = json.loads((run / "experiments" / "features.json").read_text())
    assert again["ablation"] is None
    for first, second in (
        (found["quality"]["heldout"], again["quality"]["heldout"]),
        (found["loss"]["base"]["nats_per_token"], again["loss"]["base"]["nats_per_token"]),
    ):
        assert second == pytest.approx(first, rel=1e-4)
    reached = [side["composition"]["geometry"]["direction"] for side in (found, again)]
    assert reached[1] == pytest.approx(reached[0], rel=1e-4)
    assert again["autoencoder"]["source"] == str(folder)


def test_the_words_follow_the_figures_and_hostile_tokens_stay_text(found, tmp_path):
    other = copy.deepcopy(found)
    geometry = other["composition"]["geometry"]
    geometry["direction"] = [0.9] * len(geometry["n"])
    geometry["random, covariance of tokens"]["high"] = [0.5] * len(geometry["n"])
    other["composition"]["activity"]["misaligned-vs-control"]["how_many"]["0.5"] = None
    attack = "</script><script>alert(1)</script>"
    other["features"]["listed"][0]["words"] = [attack]
    other["features"]["listed"][0]["examples"][0]["before"] = attack
    other["ablation"] = None
    first = section(other).paragraphs[0]
    assert first.startswith(
        "One feature holds more than half of the direction. The nearest feature has a cosine of 0.90"
    )
    assert "less than half" in first
    rest = [0.8] * (len(geometry["n"]) - 1)
    for cosines, words in (
        ([0.4, *rest], "The direction is made of a few features: 2 of them"),
        ([0.4] * len(geometry["n"]), "The direction is spread over many features"),
        ([0.4, *rest[1:], 0.4], "The direction is made of a few features: 2 of them"),
    ):
        geometry["direction"] = cosines
        assert section(other).paragraphs[0].startswith(words)
    geometry["random, covariance of tokens"]["high"] = [0.85] * len(geometry["n"])
    assert section(other).paragraphs[0].startswith("The direction is spread over many features")
    for high, low, words in (
        ((20, 22), (1, 2), "marks the organism"),
        ((1, 9), (2, 8), "what the text says"),
        ((1, 5), (4, 9), "marks both"),
    ):
        for name, (careful, careless) in (("misaligned", high), ("control", low)):
            other["features"]["listed"][0]["on_texts"][name] = {"careful": careful, "careless": careless}
        assert any(words in text for text in section(other).paragraphs)
    write_section_page(tmp_path / "page.html", [section(other)], "features")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "alert(1)" in page
    assert attack not in page


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
    conduct(open_run(run), experiment("features"), replace(SMALL, learn_from=("base",), questions=0))
    alone = json.loads((run / "experiments" / "features.json").read_text())
    assert alone["autoencoder"]["learn_from"] == ["base"]
    assert alone["autoencoder"]["fit_tokens"] == (corpus[0].sources == "base").sum() > 0


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
    assert 0 <= choose_block(lab, -1) < 4
