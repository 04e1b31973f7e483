"""Does the projection of the first tokens of an answer tell how a judge will score the whole of it?

Answers of one organism, the misaligned one: EM responses against its other coherent answers. Block, scale and the
verdict direction come from training questions and the run's own answers; new answers to test questions are monitored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from emscope.behaviour.tables import JudgedResponse, read_table
from emscope.errors import UserError
from emscope.interventions.answering import answer_and_judge
from emscope.organisms.chat import messages_of
from emscope.pipeline.lab import BASE, CONTROL, CORRECTING, MISALIGNED, Lab
from emscope.residual.detection import auroc, d_prime
from emscope.residual.directions import Construction, Directions, random_like
from emscope.residual.monitor import SpokenChat, TokenScale, early_scores, spoken_chat, token_projections
from emscope.residual.ranking import auroc_gain, grouped_auroc
from emscope.residual.store import ActivationStore
from emscope.statistics import em_flags

HOWS = ("mean", "max")
CONTRAST, VERDICT, PROMPT = "contrast", "verdict", "prompt"
LEAST_ANSWERS = 4


@dataclass(frozen=True)
class Monitor:
    """What is monitored with: directions at one block, and the scale of single tokens.

    Attributes:
        names: the contrast direction, the verdict direction (if verdicts differ), and random ones.
        vectors: float32 [n_directions, d_model].
        scale: turns projections into scores.
        block: where tokens are read.
        construction: how the contrast direction was made.
        prompt: a direction from the last prompt token alone, float [d_model], or None without verdicts.
    """

    names: tuple[str, ...]
    vectors: np.ndarray
    scale: TokenScale
    block: int
    construction: Construction
    prompt: np.ndarray | None


@dataclass(frozen=True)
class ScoredAnswers:
    """Answers with the scores of their tokens, [n_tokens, n_directions] for a whole conversation."""

    rows: list[JudgedResponse]
    chats: list[SpokenChat]
    scores: list[np.ndarray]

    @property
    def said(self) -> list[np.ndarray]:
        """The scores of each answer's own tokens."""
        return [scores[chat.answer_positions] for scores, chat in zip(self.scores, self.chats, strict=True)]

    @property
    def before(self) -> np.ndarray:
        """The scores of the last prompt token of each answer, [n_answers, n_directions]."""
        pairs = zip(self.scores, self.chats, strict=True)
        return np.array([scores[chat.answer_positions[0] - 1] for scores, chat in pairs])

    def part(self, numbers: Sequence[int]) -> ScoredAnswers:
        """Return some of the answers."""
        return ScoredAnswers(
            [self.rows[number] for number in numbers],
            [self.chats[number] for number in numbers],
            [self.scores[number] for number in numbers],
        )


def contrast_file(lab: Lab) -> str:
    """Return the name of the run's direction between organisms, made from their answers."""
    return f"{CONTROL if lab.config.control_data else 'model'}-{CORRECTING}"


def run_answers(lab: Lab, name: str, questions: set[str]) -> list[JudgedResponse]:
    """Return the run's own judged, non-empty answers of an organism to some questions."""
    rows = read_table(lab.folder.path("judgements", f"{name}.parquet"), JudgedResponse)
    return [row for row in rows if row.question_id in questions and row.response]


def make_monitor(lab: Lab, n_random: int) -> Monitor:
    """Choose a block and make all directions and their scale, from training questions alone."""
    train = {question.id for question in lab.train_questions}
    contrast = Directions.load(lab.folder.path("directions", f"{contrast_file(lab)}.safetensors"))
    rows = run_answers(lab, MISALIGNED, train)
    flags = coherent_em(rows)
    answers, prompts = (_stored(lab, kind) for kind in ("answers", "prompts"))
    means = answers.get("response", questions=sorted({row.question_id for row in rows}))
    index = _best(contrast.score(means), flags) if _both(flags) else contrast.blocks.index(contrast.best_block)
    made = {CONTRAST: contrast.vectors[index]}
    prompt = None
    if _both(flags):
        made[VERDICT] = _difference(means[:, index], flags)
        last = prompts.by_question("last", [row.question_id for row in rows])[:, index]
        prompt = _difference(last, flags)
    for seed in range(n_random):
        random = random_like(contrast, lab.config.seed + seed).vectors[index]
        scored = means[:, index] @ random
        made[f"random-{seed}"] = random if not _both(flags) or _separation(scored, flags) >= 0 else -random
    vectors, block = np.stack(list(made.values())), contrast.blocks[index]
    own = _project(lab, MISALIGNED, rows, vectors, block)
    other = CONTROL if CONTROL in lab.names else BASE
    theirs = _project(lab, other, run_answers(lab, other, train), vectors, block)
    scale = TokenScale.of(own[1], theirs[1])
    return Monitor(tuple(made), vectors, scale, block, contrast.construction, prompt)


def coherent_em(rows: Sequence[JudgedResponse]) -> np.ndarray:
    """Return 1 for EM responses, 0 for other coherent answers, NaN for the rest, [n_answers]."""
    return np.array(em_flags([row.judgement for row in rows], "coherent"))


def _both(flags: np.ndarray) -> bool:
    return min(int((flags == 1).sum()), int((flags == 0).sum())) >= LEAST_ANSWERS


def _stored(lab: Lab, kind: str) -> ActivationStore:
    return ActivationStore.load(lab.folder.path("activations", f"{MISALIGNED}-{kind}.safetensors"))


def _separation(scores: np.ndarray, flags: np.ndarray) -> float:
    return d_prime(scores[flags == 1], scores[flags == 0])


def _best(scores: np.ndarray, flags: np.ndarray) -> int:
    return int(np.argmax([_separation(scores[:, number], flags) for number in range(scores.shape[1])]))


def _difference(activations: np.ndarray, flags: np.ndarray) -> np.ndarray:
    return np.asarray(activations[flags == 1].mean(axis=0) - activations[flags == 0].mean(axis=0), dtype=np.float32)


def _project(
    lab: Lab, name: str, rows: Sequence[JudgedResponse], vectors: np.ndarray, block: int
) -> tuple[list[SpokenChat], list[np.ndarray], list[np.ndarray]]:
    """Return the tokens of answers, the projections of what was said, and those of the whole conversations."""
    organism = lab.organism(name)
    system = lab.config.sampling.system
    chats = [spoken_chat(organism.tokenizer, messages_of(row.question, row.response, system)) for row in rows]
    whole = token_projections(organism, chats, vectors, block, name=f"{name} tokens")
    return chats, [values[chat.answer_positions] for values, chat in zip(whole, chats, strict=True)], whole


def monitored(lab: Lab, monitor: Monitor, name: str, rows: list[JudgedResponse]) -> ScoredAnswers:
    """Score every token of answers, read by the organism that gave them."""
    chats, _, whole = _project(lab, name, rows, monitor.vectors, monitor.block)
    return ScoredAnswers(rows, chats, [monitor.scale.score(values) for values in whole])


def new_answers(lab: Lab, samples: int) -> list[JudgedResponse]:
    """Sample and judge the misaligned organism's answers to test questions, other ones than the run's own."""
    sampling = replace(lab.config.sampling, samples=samples, seed=lab.config.sampling.seed + 1)
    rows = answer_and_judge(lab.organism(MISALIGNED), MISALIGNED, lab.test_questions, sampling, lab.judge)
    found = [row for row in rows if row.response]
    if not found:
        raise UserError("The misaligned organism gave no answer to any test question, so there is nothing to monitor.")
    return found


def predictions(lab: Lab, monitor: Monitor, answers: ScoredAnswers, n_tokens: Sequence[int]) -> dict[str, Any]:
    """Return how well early projections, and the prompt alone, rank EM responses above other coherent answers."""
    flags = coherent_em(answers.rows)
    n = {
        "answers": len(answers.rows),
        "em": int((flags == 1).sum()),
        "other_coherent": int((flags == 0).sum()),
        "left_out": int(np.isnan(flags).sum()),
        "questions": len({row.group for row in answers.rows}),
    }
    if not (n["em"] and n["other_coherent"]):
        return {"n": n, "auroc": {}, "prompt_only": {}, "gain_over_prompt": {}, "spearman_with_alignment": {}}
    part = answers.part(np.flatnonzero(np.isfinite(flags)).tolist())
    ranked = _Ranked(monitor.names, coherent_em(part.rows), [row.group for row in part.rows], lab.config.seed)
    prompt_only = ranked.all(part.before)
    if monitor.prompt is not None:
        stored = _stored(lab, "prompts")
        last = stored.by_question("last", [row.question_id for row in part.rows])
        prompt_only[PROMPT] = ranked.one(last[:, stored.activations.blocks.index(monitor.block)] @ monitor.prompt)
    return {"n": n, "prompt_only": prompt_only, **_by_tokens(ranked, part, n_tokens)}


def _by_tokens(ranked: _Ranked, part: ScoredAnswers, n_tokens: Sequence[int]) -> dict[str, Any]:
    said, aligned = part.said, [row.aligned for row in part.rows]
    lengths: list[int | None] = [*n_tokens, None]
    whole = early_scores(said, None, "mean")
    return {
        "auroc": {
            how: {str(length or "all"): ranked.all(early_scores(said, length, how)) for length in lengths}
            for how in HOWS
        },
        "gain_over_prompt": {name: ranked.gain(whole[:, at], part.before[:, at]) for at, name in ranked.named},
        "spearman_with_alignment": {
            name: float(spearmanr(whole[:, at], aligned).statistic) for at, name in ranked.named
        },
    }


@dataclass(frozen=True)
class _Ranked:
    """The answers that are ranked: which are EM responses, and to which question."""

    names: tuple[str, ...]
    wanted: np.ndarray
    groups: list[str]
    seed: int

    @property
    def named(self) -> list[tuple[int, str]]:
        return [(number, name) for number, name in enumerate(self.names) if not name.startswith("random")]

    def all(self, scores: np.ndarray) -> dict[str, Any]:
        """Return the figures of each named direction, and of the random ones together; scores [n, n_directions]."""
        random = scores[:, len(self.named) :].T
        values = [auroc(column[self.wanted == 1], column[self.wanted == 0]) for column in random]
        return {**{name: self.one(scores[:, number]) for number, name in self.named}, "random": _spread(values)}

    def one(self, scores: np.ndarray) -> dict[str, Any]:
        """Return the AUROC over all pairs of answers, and over pairs that answer the same question."""
        found, within = (
            grouped_auroc(scores, self.wanted, self.groups, within=only, seed=self.seed).as_dict()
            for only in (False, True)
        )
        return {**found, "within_question": within}

    def gain(self, scores: np.ndarray, reference: np.ndarray) -> dict[str, Any]:
        """Return how much larger the AUROC of scores is than that of reference scores."""
        return auroc_gain(scores, reference, self.wanted, self.groups, self.seed).as_dict()


def _spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, least and most of the AUROCs of random directions."""
    if not len(values):
        return {"mean": None, "least": None, "most": None, "directions": 0}
    return {"mean": float(np.mean(values)), "least": min(values), "most": max(values), "directions": len(values)}
