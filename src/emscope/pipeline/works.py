"""How much work the stages of a run and the steps of its experiments are, relative to each other.

A unit is a second of the embedded model on two CPU cores: the stages of `emscope run` of 2026-11-27 (288 rows of two
organisms, 174 questions, 72 new tokens; AVX512-BF16 and AMX), divided by their rows, answers and tokens. On another
machine or model all of them take longer or shorter alike, more or less: how much is measured while they run.
"""

from __future__ import annotations

from emscope.behaviour.responses import SamplingSettings
from emscope.interventions.search import candidates
from emscope.pipeline.config import RunConfig
from emscope.pipeline.data import is_trained_elsewhere
from emscope.pipeline.lab import CONTROL, MISALIGNED, Lab
from emscope.pipeline.unseen import unseen_config, unseen_organisms

ROW = 0.17  # seconds: a training row, read once
ANSWER = 0.055  # an answer of 72 tokens, sampled beside many others
ALTERED = 0.15  # the same under an intervention
JUDGED, READ = 0.032, 0.021  # an answer
TOKENS = 72  # new tokens of these answers
LOADED = 3.0  # an organism, read and merged
SHORT = 1.0  # whatever reads what is stored


def training(lab: Lab, data: str, config: RunConfig | None = None) -> float | None:
    """Return the work of making an organism."""
    chosen = config or lab.config
    if is_trained_elsewhere(data):
        return SHORT
    return ROW * len(lab.training_data(data, chosen).train) * chosen.train.epochs


def answering(n: int, sampling: SamplingSettings, *, altered: bool = False) -> float:
    """Return the work of sampling and judging the answers to `n` questions."""
    each = (ALTERED if altered else ANSWER) * sampling.max_new_tokens / TOKENS + JUDGED
    return each * n * sampling.samples


def organism_works(lab: Lab, name: str, data: str, config: RunConfig | None = None) -> dict[str, float | None]:
    """Return the stages of one organism, training first where it has data, with their work."""
    n, sampling = len(lab.questions) * lab.config.sampling.samples, lab.config.sampling
    found: dict[str, float | None] = {}
    if data:
        made = "adopt" if is_trained_elsewhere(data) else "train"
        found[f"{made}-{name}"] = training(lab, data, config)
    return {
        **found,
        f"generate-{name}": LOADED + ANSWER * n * sampling.max_new_tokens / TOKENS,
        f"judge-{name}": JUDGED * n,
        f"collect-{name}": READ * n,
    }


def main_works(lab: Lab) -> dict[str, float | None]:
    """Return the stages of the main job with their work, in order."""
    data = {MISALIGNED: lab.config.misaligned_data, CONTROL: lab.config.control_data}
    trained: dict[str, float | None] = {}
    others: dict[str, float | None] = {}
    for name in lab.names:
        works = organism_works(lab, name, data.get(name, ""))
        made = [stage for stage in works if stage.startswith(("train-", "adopt-"))]
        trained |= {stage: works.pop(stage) for stage in made}
        if lab.config.anchor_judge:
            works[f"anchor-{name}"] = JUDGED * lab.config.anchor_answers
        others |= works
    for organism in unseen_organisms(lab.config):
        config = unseen_config(lab.config, organism.data)
        how = "adopt" if is_trained_elsewhere(organism.data) else "train"
        trained[f"{how}-{organism.name}"] = training(lab, organism.data, config)
        others[f"read-{organism.name}"] = LOADED + READ * len(lab.questions)
    n_tried = len(candidates(12)) * len(lab.dev_questions) + 3 * len(lab.test_questions)
    ablated = answering(n_tried, lab.config.sampling, altered=True)
    last = {"directions": SHORT, "detect": SHORT, "ablate": ablated, "summary": SHORT / 2, "report": SHORT / 2}
    return {**trained, **others, **last}
