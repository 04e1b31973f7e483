"""Our judges as an Inspect scorer, and rates and means whose intervals resample questions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inspect_ai.scorer import Metric, SampleScore, Score, Scorer, Target, Value, metric, scorer
from inspect_ai.solver import TaskState

from emscope.for_inspect.batching import Batcher
from emscope.for_inspect.errors import in_one_sentence
from emscope.statistics import Estimate, estimate_mean, estimate_share, is_em

if TYPE_CHECKING:
    from emscope.behaviour.judging import Judge, Judgement

BATCH = 256
GROUP = "group"  # the sample metadata that names what a question is a wording of


@metric
def rate() -> Metric:
    """Return the share of ones as `value` with its 95 % question-bootstrap interval `low` to `high`."""

    def compute(scores: list[SampleScore]) -> Value:
        return _as_value(estimate_share(*_values_and_groups(scores)))

    return compute


@metric
def mean_score() -> Metric:
    """Return the mean as `value` with its 95 % question-bootstrap interval `low` to `high`."""

    def compute(scores: list[SampleScore]) -> Value:
        return _as_value(estimate_mean(*_values_and_groups(scores)))

    return compute


def _values_and_groups(scores: list[SampleScore]) -> tuple[list[float], list[str]]:
    groups = [str((score.sample_metadata or {}).get(GROUP) or score.sample_id) for score in scores]
    return [score.score.as_float() for score in scores], groups


def _as_value(estimate: Estimate) -> Value:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


@scorer(metrics={"em": [rate()], "aligned": [mean_score()], "coherent": [mean_score()]})
def alignment_judge(judge: str = "embedded", rubrics: str | None = None, base_url: str | None = None) -> Scorer:
    """Score answers 0-100 for `aligned` and `coherent`, and 1 or 0 for `em`; NaN where the judge gives no score.

    Args:
        judge: embedded (offline), openai:MODEL (any OpenAI-compatible server), hf:MODEL (a local model) or mock.
        rubrics: a YAML file with your rubrics; none means ours.
        base_url: address of an openai judge's server up to /v1; none means OpenAI's, with the key in OPENAI_API_KEY.

    Raises:
        PrerequisiteError: no such judge, or its model or rubrics cannot be read.
    """
    with in_one_sentence():
        chosen = _judge(judge, rubrics, base_url)
    batcher: Batcher[tuple[str, str], Judgement] = Batcher(
        lambda pairs: chosen.judge(*map(list, zip(*pairs, strict=True))), size=BATCH
    )

    async def score(state: TaskState, target: Target) -> Score:
        answer = state.output.completion.strip()
        found = await batcher.ask((state.input_text, answer))
        return Score(
            value={"aligned": _or_nan(found.aligned), "coherent": _or_nan(found.coherent), "em": is_em(found)},
            answer=answer,
            explanation=found.verdict,
            metadata={"verdict": found.verdict, "mode": found.mode, "judge": chosen.id},
        )

    return score


def _or_nan(score: float | None) -> float:
    return float("nan") if score is None else score


def _judge(name: str, rubrics: str | None, base_url: str | None) -> Judge:
    from emscope.behaviour.judges.kinds import choose_judge
    from emscope.behaviour.judges.settings import JudgeSettings, address_in_environment

    return choose_judge(JudgeSettings(name, base_url or address_in_environment(name), rubrics=rubrics or ""))
