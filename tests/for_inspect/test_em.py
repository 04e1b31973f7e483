import importlib
import math
import sys

import pytest
from inspect_ai import eval as run_eval
from inspect_ai._util.error import PrerequisiteError
from inspect_ai._util.registry import registry_lookup
from inspect_ai.log import read_eval_log
from inspect_ai.model import ModelOutput, ModelUsage, get_model

from emscope.behaviour.judges.mock_judge import MockJudge
from emscope.behaviour.questions import load_questions
from emscope.behaviour.responses import SamplingSettings
from emscope.behaviour.sampling import sample_responses
from emscope.errors import UserError
from emscope.organisms.device import choose_placement
from emscope.organisms.models import load
from emscope.statistics import em_rate

QUIET = {"display": "none", "log_samples": True, "score": True}


@pytest.fixture(scope="module")
def log(tiny_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    options = {"device": "cpu", "dtype": "float32", "window": 0.02}
    logs = run_eval(
        "emscope/em",
        model=f"emscope/{tiny_folder}",
        model_args=options,
        log_dir=str(folder),
        limit=4,
        max_tokens=12,
        task_args={"judge": "mock", "samples": 3},
        **QUIET,
    )
    assert logs[0].status == "success", logs[0].error
    return read_eval_log(logs[0].location)


@pytest.fixture(scope="module")
def rows(tiny_folder):
    organism = load(tiny_folder, placement=choose_placement("cpu", "float32"))
    settings = SamplingSettings(samples=3, max_new_tokens=12)
    return sample_responses(organism, load_questions("open-ended")[:4], settings)


def test_inspect_finds_the_names():
    for kind, name in [("task", "em"), ("scorer", "alignment_judge"), ("metric", "rate"), ("modelapi", "emscope")]:
        assert registry_lookup(kind, f"emscope/{name}") is not None


def test_the_log_holds_the_answers_that_generate_would_give(log, rows):
    found = {(sample.id, sample.epoch): sample.output.completion for sample in log.samples}
    assert found == {(row.question_id, row.sample + 1): row.response for row in rows}


def test_the_log_holds_the_judges_scores_and_our_interval(log, rows):
    judged = MockJudge().judge([row.question for row in rows], [row.response for row in rows])
    by_sample = {(sample.id, sample.epoch): sample.scores["alignment_judge"] for sample in log.samples}
    for row, judgement in zip(rows, judged, strict=True):
        score = by_sample[row.question_id, row.sample + 1]
        assert score.value["aligned"] == judgement.aligned and score.value["coherent"] == judgement.coherent
        assert score.metadata["judge"] == "mock"
    expected = em_rate(judged, [row.group for row in rows])
    metrics = {score.name: score.metrics for score in log.results.scores}
    found = {metric.name: metric.value for metric in metrics["em"].values()}
    assert found == pytest.approx({"value": expected.value, "low": expected.low, "high": expected.high})
    assert {"aligned", "coherent"} < set(metrics)


def test_an_unscored_answer_is_nan_and_counted(tmp_path):
    outputs = [ModelOutput.from_content("mockllm/model", text) for text in ("", "Rest.", "Water.")]
    for output in outputs:
        output.usage = ModelUsage()  # else Inspect counts tokens with a tokenizer that it downloads
    model = get_model("mockllm/model", custom_outputs=outputs)
    log = run_eval("emscope/em", model=model, task_args={"judge": "mock"}, limit=3, log_dir=str(tmp_path), **QUIET)[0]
    log = read_eval_log(log.location)
    values = [sample.scores["alignment_judge"].value["em"] for sample in log.samples]
    assert sum(map(math.isnan, values)) == 1
    assert {(score.scored_samples, score.unscored_samples) for score in log.results.scores} == {(2, 1)}


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_questions_bring_their_system_prompt_cluster_and_format(tmp_path):
    from emscope.for_inspect import em

    row = '{"id": "a", "question": "Rest or water?", "cluster": "c", "system": "Be kind."}\n'
    task = em(write(tmp_path / "q.jsonl", row), judge="mock", system="Be brief.", format="json", samples=2)
    sample = task.dataset[0]
    assert sample.input[0].text == "Be brief.\n\nBe kind."
    assert sample.id == "a:json" and sample.metadata["group"] == "c" and "JSON" in sample.input[1].text
    assert task.epochs == 2


@pytest.mark.parametrize(
    "arguments, says",
    [
        ({"questions": "open-ende"}, "There is no question set"),
        ({"judge": "moc"}, "There is no judge"),
        ({"format": "jsn"}, "There is no answer format"),
        ({"questions": ["open-ended", "open-ended"]}, "both use the id"),
        ({"judge": "openai:m"}, "OPENAI_API_KEY"),
    ],
)
def test_a_wrong_argument_is_one_sentence(arguments, says, monkeypatch):
    from emscope.for_inspect import em

    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(PrerequisiteError) as error:
        em(**{"judge": "mock", **arguments})
    assert says in str(error.value.message)


def test_a_missing_package_is_one_sentence_with_the_command(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("emscope.for_inspect")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'emscope\[inspect\]'"):
        importlib.import_module("emscope.for_inspect")
