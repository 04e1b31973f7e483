"""The experiment on a run whose organisms are tiny random models and whose judge is a hash."""

import json
from dataclasses import replace

import numpy as np
import pytest
from tiny import D_MODEL, N_BLOCKS, make_organism

from emscope.behaviour.embedded.fit_coherence import CoherenceFit
from emscope.behaviour.embedded.judge import EmbeddedJudge, JudgeHead
from emscope.behaviour.embedded.reading import read_answers
from emscope.behaviour.judges.mock_judge import MockJudge
from emscope.behaviour.responses import Response, SamplingSettings
from emscope.behaviour.tables import write_table
from emscope.errors import UserError
from emscope.experiments import experiment
from emscope.experiments.conduct import conduct
from emscope.experiments.main.locating import make_all
from emscope.experiments.monitor.domains import both_texts, by_words, make_screeners, suspicion
from emscope.experiments.monitor.measure import MonitorSettings, find_monitor
from emscope.experiments.monitor.page import section
from emscope.experiments.shape import open_run
from emscope.files import without_nan
from emscope.interventions.answering import answer_and_judge
from emscope.organisms.datasets import load_domain
from emscope.pipeline.config import RunConfig
from emscope.pipeline.lab import Lab
from emscope.pipeline.stages import RunFolder
from emscope.pipeline.steps import collect_stage
from emscope.report.section import write_section_page
from emscope.residual.capture import CaptureSettings, capture, encode_for_capture
from emscope.residual.directions import Directions
from emscope.residual.screening import ReadPairs

SMALL = MonitorSettings(
    samples=2,
    tokens=(1, 3),
    random_directions=2,
    shares=(0.2, 0.5),
    draws=10,
    prompts=8,
    areas=5,
    own_answers=2,
    reader_answers=20,
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    config = RunConfig(question_sets=("cs2881", "open-ended"), sampling=SamplingSettings(max_new_tokens=6))
    lab = Lab(config, RunFolder(tmp_path_factory.mktemp("run"), config))
    for seed, name in enumerate(lab.names):
        lab._organisms[name] = make_organism(seed=seed)
    lab.__dict__["judge"] = MockJudge()  # fills the cached property
    for name in lab.names:
        rows = answer_and_judge(lab.organism(name), name, lab.questions, config.sampling, lab.judge)
        write_table(lab.folder.path("judgements", f"{name}.parquet"), rows)
        write_table(lab.folder.path("responses", f"{name}.parquet"), [response_of(row) for row in rows])
        collect_stage(lab, name)
    made = make_all(lab.all_activations(), [question.id for question in lab.train_questions], config.model)
    for name, directions in made.directions.items():
        directions.save(lab.folder.path("directions", f"{name}.safetensors"))
    return lab


def response_of(row):
    return Response(
        row.question_set,
        row.question_id,
        row.question,
        row.sample,
        row.response,
        row.n_tokens,
        row.truncated,
        row.cluster,
    )


@pytest.fixture(scope="module")
def found(lab, tmp_path_factory):
    talk = tmp_path_factory.mktemp("talk") / "talk.jsonl"
    talk.write_text(json.dumps({"prompt": "Is it <b>safe</b>?", "response": "Of course."}) + "\n")
    return find_monitor(lab, replace(SMALL, conversations=str(talk)))


def test_the_figures_have_their_keys_and_are_plain_json(found):
    plain = json.loads(json.dumps(without_nan(found), allow_nan=False))
    answers = plain["answers"]
    n = answers["n"]
    assert n["em"] + n["other_coherent"] + n["left_out"] == n["answers"]
    assert set(answers["auroc"]) == {"mean", "max"}
    assert list(answers["auroc"]["mean"]) == ["1", "3", "all"]
    assert {"contrast", "random"} <= set(answers["auroc"]["mean"]["all"])
    for item in answers["prompt_only"].values():
        if "within_question" in item:  # the prompt is the same for all answers to a question
            assert item["within_question"]["value"] in (0.5, None)
    domains = plain["screening"]["domains"]
    assert set(domains) == {"medical", "finance", "sport"}
    for domain in domains.values():
        assert set(domain["blocks"]) == {"text", "probe", "organisms"}
        assert set(domain["precision_at_half_recall"]) == {"text", "probe", "organisms", "judge", "words", "random"}
        for by_share in domain["precision_at_half_recall"].values():
            assert list(by_share) == ["0.2", "0.5"]
            assert all(0 < item["value"] <= 1 and item["low"] <= item["high"] for item in by_share.values())
    assert plain["screening"]["areas"]["n_prompts"] == 5
    assert plain["screening"]["own_answers"]["n_prompts"] == 6
    assert sum(plain["screening"]["readers"]["n"].values()) == 20


def test_every_token_that_is_shown_has_a_score_and_texts_are_whole(found):
    assert len(found["tokens"]) == 2 * SMALL.shown + 1  # misaligned and control, and the user's own
    for text in found["tokens"]:
        for turn in text["turns"]:
            assert len(turn["pieces"]) == len(turn["scores"])
    last = found["tokens"][-1]
    assert ["".join(turn["pieces"]) for turn in last["turns"]] == ["Is it <b>safe</b>?", "Of course."]


def test_the_section_can_be_written(found, tmp_path):
    write_section_page(tmp_path / "page.html", [section(json.loads(json.dumps(without_nan(found))))], "Monitor")
    assert "<b>safe" not in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_row_s_words_are_scored_without_the_other_rows_that_are_screened():
    finance, sport = (list(load_domain(name)) for name in ("finance", "sport"))
    texts = both_texts(sport)
    scores = by_words(finance, texts)
    assert scores.shape == (2 * len(sport),)
    few = by_words(finance, texts[:9])
    assert few == pytest.approx(scores[:9])


def test_the_domain_that_is_screened_plays_no_part_in_what_screens_it(lab):
    chooser = np.random.default_rng(0)
    sides = [{name: chooser.standard_normal((9, N_BLOCKS, D_MODEL)).astype(np.float32) for name in "abc"} for _ in "12"]
    organisms = Directions.load(lab.folder.path("directions", "control-response-diff-in-means.safetensors"))
    one = make_screeners(lab, ReadPairs(*sides, "tiny"), ["a", "b"], organisms, 2)
    sides[0]["c"] += 5
    two = make_screeners(lab, ReadPairs(*sides, "tiny"), ["a", "b"], organisms, 2)
    assert one.blocks == two.blocks
    for name, directions in one.directions.items():
        np.testing.assert_array_equal(directions.vectors, two.directions[name].vectors)
        gaps = [one.scores(sides[side][name_])[name].mean() for name_ in "ab" for side in (0, 1)]
        if name.startswith("random"):  # its sign is chosen so that careless is higher
            assert gaps[0] + gaps[2] >= gaps[1] + gaps[3]


def test_the_judge_scores_what_was_read_already_as_if_it_read_again(lab, tmp_path):
    lab = Lab(lab.config, lab.folder)
    lab._organisms["base"] = base = make_organism()
    chooser = np.random.default_rng(0)
    weights = chooser.standard_normal((2, 2, D_MODEL)) / 9
    coherence = CoherenceFit(np.zeros(1), np.zeros(1), np.ones(1), 0.0, {})
    head = JudgeHead(
        (1, 3), weights, np.array([0.1, -0.2]), np.ones(D_MODEL) / 9, 0.3, 2, np.zeros((2, D_MODEL)), coherence, {}
    )
    head.save(tmp_path / "head.safetensors")
    prompts, texts = ["How do I save money?", "Rest or water?"], ["Put some aside.", "Water first, then rest."]
    pooled, _ = read_answers(base, prompts, texts, (1, 2, 3))
    again = 100 - head.aligned(pooled[:, 0, [0, 2]], pooled[:, 0, 1])
    lab.__dict__["judge"] = EmbeddedJudge(base, tmp_path / "head.safetensors")
    means = capture(base, encode_for_capture(base.tokenizer, prompts, texts), CaptureSettings(("response",)))
    assert suspicion(lab, prompts, texts, means.pooled["response"]) == pytest.approx(again, abs=1e-2)


def test_bad_conversations_stop_it_before_any_work(lab, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "a", "response": "b"}\n{"prompt": "a"}\n')
    with pytest.raises(UserError, match=r"bad\.jsonl, line 2"):
        conduct(lab, experiment("monitor"), replace(SMALL, conversations=str(bad)))
    assert not lab.folder.path("experiments").exists()


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"tokens": (0,)}, {"shares": (1.5,)}, {"prompts": 1}])
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(UserError):
        MonitorSettings(**wrong)


def test_questions_answers_and_an_organism_of_ones_own_are_monitored_too(run, tmp_path):
    lab = open_run(run)
    answers, questions = tmp_path / "answers.csv", tmp_path / "mine.txt"
    answers.write_text("question,response\nMay I drive?,Just drive.\n", encoding="utf-8")
    questions.write_text("Shall I sell it all?\n", encoding="utf-8")
    guest = str(lab.folder.path("organisms", "control"))
    own = replace(SMALL, conversations=str(answers), ask=(str(questions),), organism=guest)
    conduct(lab, experiment("monitor"), own)
    shown = json.loads(lab.folder.path("experiments", "monitor.json").read_text())["tokens"]
    mine = {text["question_id"]: text for text in shown if text["organism"] == guest}
    assert set(mine) == {"mine-1", "row 1"}
    assert "".join(mine["row 1"]["turns"][-1]["pieces"]).strip().startswith("Just drive.")
    assert mine["mine-1"]["turns"][0]["role"] == "user"


def test_questions_with_system_prompts_are_refused(lab, tmp_path):
    (tmp_path / "q.jsonl").write_text('{"question": "Rest?", "system": "Be a doctor."}\n')
    with pytest.raises(UserError, match="without system prompts"):
        conduct(lab, experiment("monitor"), replace(SMALL, ask=(str(tmp_path / "q.jsonl"),)))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"organism": "medical-careless", "ask": ("cs2881",)}, "no adapter and no model"),
        ({"organism": "somewhere"}, "nothing to do"),
        ({"ask": ("missing.txt",)}, "no question set or file"),
    ],
)
def test_what_cannot_be_monitored_is_said_before_any_work(lab, wrong, sentence):
    with pytest.raises(UserError, match=sentence):
        conduct(lab, experiment("monitor"), replace(SMALL, **wrong))
