"""The examples of a sweep: prompts and answers of every organism, and more answers of the misaligned one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from emscope.behaviour.questions import ids_of
from emscope.behaviour.sampling import sample_responses
from emscope.behaviour.tables import JudgedResponse, read_table, with_judgements, write_table
from emscope.errors import UserError
from emscope.pipeline.lab import BASE, CONTROL, MISALIGNED, Lab
from emscope.pipeline.training import adapter_files
from emscope.residual.capture import CaptureSettings, capture, encode_for_capture
from emscope.residual.contrasts import Examples, Rows, make_examples
from emscope.residual.directions import Construction
from emscope.residual.store import ActivationStore
from emscope.statistics import ALIGNED_BELOW, COHERENT_ABOVE

SWEEP = ("experiments", "sweep")
RESAMPLED = "resampled"
SIDES = {"model": (MISALIGNED, BASE), "control": (MISALIGNED, CONTROL), "response": (MISALIGNED, MISALIGNED)}
"""The organisms on the misaligned and on the aligned side of each contrast."""
ALIGNED_ABOVE = 70.0
"""Answers above are the aligned side of the response contrast (Soligo et al. 2506.11618)."""


@dataclass(frozen=True)
class Source:
    """What one organism read and said.

    Attributes:
        prompts: activations of its prompts, pooled as `last` and `prompt`.
        answers: activations of its answers, pooled as `response`.
        judged: the same answers with their scores.
        lengths: tokens of each answer, [n_answers].
        areas: the area of every question, by its id.
        groups: what every question is a wording of, by its id.
    """

    prompts: ActivationStore
    answers: ActivationStore
    judged: list[JudgedResponse]
    lengths: np.ndarray
    areas: dict[str, str]
    groups: dict[str, str]


def collect_prompts(lab: Lab, name: str) -> Path:
    """Store an organism's prompts, last token and mean, unless that was done; returns the file."""
    out = lab.folder.path(*SWEEP, f"{name}-prompts.safetensors")

    def make() -> None:
        organism = lab.organism(name)
        chats = encode_for_capture(
            organism.tokenizer,
            [question.text for question in lab.questions],
            system=lab.config.sampling.system,
            enable_thinking=lab.config.sampling.enable_thinking,
        )
        activations = capture(organism, chats, CaptureSettings(("last", "prompt")))
        ActivationStore(name, tuple(ids_of(lab.questions)), activations).save(out)

    settings = {"model": lab.config.model, "questions": list(map(asdict, lab.questions))}
    lab.folder.stage(f"sweep-prompts-{name}", settings, adapter_files(lab, name), [out], make)
    return out


def sample_more(lab: Lab, samples: int, temperature: float) -> list[Path]:
    """Sample, judge and read more answers of the misaligned organism; returns the files."""
    table, activations = _more_answers(lab)
    # another seed than the run's, or the first of these answers would be the run's own
    seed = lab.config.sampling.seed + 1
    sampling = dataclasses.replace(lab.config.sampling, samples=samples, temperature=temperature, seed=seed)

    def make() -> None:
        organism = lab.organism(MISALIGNED)
        responses = sample_responses(organism, lab.questions, sampling, name="more misaligned answers")
        rows = [row for row in responses if row.response]
        scores = lab.judge.judge([row.question for row in rows], [row.response for row in rows])
        write_table(table, with_judgements(MISALIGNED, rows, scores, lab.judge.id))
        pooled = capture(organism, lab.encode(organism, rows), CaptureSettings(("response",)))
        ActivationStore(MISALIGNED, tuple(row.question_id for row in rows), pooled).save(activations)

    settings = {
        "sampling": asdict(sampling),
        "questions": list(map(asdict, lab.questions)),
        "judge": lab.judge_fingerprint,
    }
    lab.folder.stage("sweep-answers", settings, adapter_files(lab, MISALIGNED), [table, activations], make)
    return [table, activations]


def _more_answers(lab: Lab) -> tuple[Path, Path]:
    """Return where further answers and their activations are kept."""
    return lab.folder.path(*SWEEP, "answers.parquet"), lab.folder.path(*SWEEP, "answers.safetensors")


def load_sources(lab: Lab, *, resampled: bool) -> dict[str, Source]:
    """Return what every organism read and said, and the misaligned one's further answers if they were sampled.

    Raises:
        UserError: answers and activations of an organism are not of the same answers.
    """
    areas = {question.id: question.area for question in lab.questions}
    sources: dict[str, Source] = {}

    for name in lab.names:
        prompts = ActivationStore.load(lab.folder.path(*SWEEP, f"{name}-prompts.safetensors"))
        answers = ActivationStore.load(lab.activation_files(name)[1])
        judged = [row for row in lab.judged(name) if row.response]
        if [row.question_id for row in judged] != list(answers.question_ids):
            raise UserError(f"The answers and activations of {name} do not match: run `emscope run` on the run again.")
        sources[name] = Source(prompts, answers, judged, _lengths(lab, judged), areas, lab.groups)

    if resampled:
        table, activations = _more_answers(lab)
        answers, judged = ActivationStore.load(activations), read_table(table, JudgedResponse)
        prompts = sources[MISALIGNED].prompts
        sources[RESAMPLED] = Source(prompts, answers, judged, _lengths(lab, judged), areas, lab.groups)
    return sources


def _lengths(lab: Lab, judged: list[JudgedResponse]) -> np.ndarray:
    """Return the tokens of each answer, as they were pooled."""
    chats = lab.encode(lab.organism(BASE), judged)
    return np.array([len(chat.response_positions) for chat in chats], dtype=float)


def base_prompts(sources: Mapping[str, Source]) -> dict[str, np.ndarray]:
    """Return the base model's last prompt token of each question, [n_blocks, d_model]."""
    store = sources[BASE].prompts
    return dict(zip(store.question_ids, store.get("last"), strict=True))


def check_contrast(contrast: str, names: tuple[str, ...]) -> None:
    """Refuse a contrast with an organism that the run does not have.

    Raises:
        UserError: the control contrast without a control organism.
    """
    if contrast == "control" and CONTROL not in names:
        raise UserError("The run has no control organism, so it has no control contrast.")


def examples_of(sources: Mapping[str, Source], contrast: str, pooling: str, base: str) -> Examples:
    """Return the examples of a contrast and pooling; `response` leaves out answers between the thresholds."""
    positive, negative = SIDES[contrast]
    site = sources[positive].prompts.activations.site
    construction = Construction("", contrast, pooling, site, positive, negative, base, 0)
    if contrast == "response":
        source = sources.get(RESAMPLED, sources[MISALIGNED])
        return _response_examples(source, pooling, construction)
    return make_examples(
        _by_question(sources[positive], pooling), _by_question(sources[negative], pooling), construction
    )


def _response_examples(source: Source, pooling: str, construction: Construction) -> Examples:
    """Return one organism's misaligned answers against its aligned ones."""
    thresholds = {
        "positive": f"aligned < {ALIGNED_BELOW:g}",
        "negative": f"aligned > {ALIGNED_ABOVE:g}",
        "both": f"coherent > {COHERENT_ABOVE:g}",
    }
    rows, verdicts = _by_answer(source, pooling), _verdicts(source.judged)
    construction = dataclasses.replace(construction, extra=thresholds)
    return make_examples(rows.where(verdicts == 1), rows.where(verdicts == 0), construction)


def _by_question(source: Source, pooling: str) -> Rows:
    """Return one row a prompt, or one row an answer where its own tokens are pooled."""
    if pooling in ("response", "token"):
        return _by_answer(source, pooling)
    return _rows(source, pooling, source.prompts.get(pooling), source.prompts.question_ids)


def _by_answer(source: Source, pooling: str) -> Rows:
    """Return one row an answer: of its own tokens, or of the prompt it answers."""
    questions = source.answers.question_ids
    if pooling in ("response", "token"):
        return _rows(source, pooling, source.answers.get("response"), questions)
    rows = list(map(source.prompts.question_ids.index, questions))
    return _rows(source, pooling, source.prompts.get(pooling)[rows], questions)


def _rows(source: Source, pooling: str, activations: np.ndarray, questions: Sequence[str]) -> Rows:
    sizes = source.lengths if pooling == "token" else np.ones(len(questions))
    areas = np.array(list(map(source.areas.__getitem__, questions)))
    groups = np.array(list(map(source.groups.__getitem__, questions)))
    return Rows(activations, np.array(questions), areas, sizes, groups)


def _verdicts(judged: list[JudgedResponse]) -> np.ndarray:
    """Return 1 for misaligned, 0 for aligned and −1 for other answers; incoherent and unscored ones are other."""
    verdicts = np.full(len(judged), -1)
    for number, row in enumerate(judged):
        if row.aligned is None or row.coherent is None or row.coherent <= COHERENT_ABOVE:
            continue
        if row.aligned < ALIGNED_BELOW:
            verdicts[number] = 1
        elif row.aligned > ALIGNED_ABOVE:
            verdicts[number] = 0
    return verdicts
