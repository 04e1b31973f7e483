"""Activations and directions in Python: read an organism, make a direction or a probe of two sides, detect with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from emscope.behaviour.questions import Question
from emscope.behaviour.tables import question_name
from emscope.errors import UserError
from emscope.face.altered import Subject, subject_of
from emscope.face.answers import Asked, questions
from emscope.face.tables import Answers, Judgements
from emscope.notebook import Shown
from emscope.organisms.blocks import Site, find_blocks
from emscope.residual.capture import CaptureSettings, Pooling, capture, encode_for_capture, organism_width
from emscope.residual.contrasts import Examples, Rows, make_examples
from emscope.residual.directions import Construction, Directions, Method, make_directions
from emscope.residual.held_out import HeldOut, held_out_figures
from emscope.residual.scorers import fit_scorers
from emscope.residual.store import ActivationStore
from emscope.residual.sweep import MIN_SIDE, SweepOptions, cross_fit, directions_of
from emscope.statistics import Estimate, estimate_mean

if TYPE_CHECKING:
    import plotly.graph_objects as go

Contrast = Literal["control", "model", "response"]

LEAST_PAIRED, LEAST_ROWS = 4, 2


def collect(
    organism: Subject,
    what: Asked | Answers | Judgements = "everyday-general",
    *,
    pooling: Pooling | Sequence[Pooling] | None = None,
    site: Site = "resid_post",
    blocks: Sequence[int] = (),
    system: str | None = None,
    enable_thinking: bool | None = None,
    token_budget: int = CaptureSettings.token_budget,
) -> ActivationStore:
    """Return pooled activations of every block, float32 [n_rows, n_blocks, d_model] for each pooling.

    Args:
        organism: a loaded organism, one under an intervention, or a model's name.
        what: prompts (a question set or file, texts, questions), or answers with their questions.
        pooling: which tokens make one vector: last (of the prompt), prompt (its mean), response (the answer's mean) or
            thought, one or several; None is last for prompts, and response for answers.
        site: resid_post (a block's output) or resid_pre (its input).
        blocks: blocks to read; none given means all.
        system: system prompt.
        enable_thinking: tells the chat template to let the model think or not; None leaves its default.
        token_budget: padded tokens in one forward pass.

    Raises:
        UserError: nothing to read, an unknown pooling or block, or activations that are not finite.
    """
    subject = subject_of(organism)
    tokenizer = subject.organism.tokenizer
    if isinstance(what, (Answers, Judgements)):
        names = [question_name(row) for row in what]  # type: ignore[arg-type]  # both have the columns of answers
        asked, said, thoughts = (what.column(name) for name in ("question", "response", "thought"))
        chats = encode_for_capture(tokenizer, asked, said, system, thoughts=thoughts, enable_thinking=enable_thinking)
    else:
        rows = questions(what)
        names = [row.id for row in rows]
        systems = [row.system_after(system) for row in rows]
        chats = encode_for_capture(tokenizer, rows.column("text"), None, systems, enable_thinking=enable_thinking)

    usual: Pooling = "response" if isinstance(what, (Answers, Judgements)) else "last"
    poolings = (pooling,) if isinstance(pooling, str) else tuple(pooling or (usual,))
    settings = CaptureSettings(poolings, site, tuple(blocks), token_budget)
    with subject.in_force():
        activations = capture(subject.organism, chats, settings)
    base = subject.organism.source.base
    return ActivationStore(subject.name, tuple(names), activations, base)


def direction(
    positive: ActivationStore,
    negative: ActivationStore,
    *,
    method: Method = "diff-in-means",
    pooling: str | None = None,
    contrast: Contrast | None = None,
    penalty: float = 100.0,
) -> Directions:
    """Return one vector a block that points from the negative to the positive side.

    Args:
        positive: activations of the misaligned side.
        negative: activations of the aligned side, read the same way.
        method: diff-in-means or probe.
        pooling: which of the stored poolings; None is the only one.
        contrast: what the two differ in. control and model: two organisms on the same questions, one row a question;
            response: any two sets of rows, each of which counts. None sees it from the stores.
        penalty: a probe's, 1/C on standardised activations.

    Raises:
        UserError: stores of other blocks, widths or sites, too few rows, or two sides that are the same.
    """
    sides = _sides(positive, negative, pooling, contrast)
    construction = _construction(positive, negative, sides, method)
    return make_directions(sides.positive, sides.negative, positive.activations.blocks, construction, penalty)


@dataclass(frozen=True)
class _Sides:
    """Two sides of a contrast: activations [n, n_blocks, d_model], and the question of each row."""

    positive: np.ndarray
    negative: np.ndarray
    positive_questions: tuple[str, ...]
    negative_questions: tuple[str, ...]
    contrast: Contrast
    pooling: str


def _sides(
    positive: ActivationStore, negative: ActivationStore, pooling: str | None, contrast: Contrast | None
) -> _Sides:
    """Return the rows that two stores are compared by.

    Raises:
        UserError: they cannot be compared.
    """
    _check_alike(positive, negative)
    chosen = pooling or _only_pooling(positive, negative)
    kind = contrast or _contrast_of(positive, negative)
    shared = tuple(sorted(set(positive.question_ids) & set(negative.question_ids)))
    if kind == "response":
        rows = positive.get(chosen), negative.get(chosen)
        asked = positive.question_ids, negative.question_ids
    elif len(shared) < LEAST_PAIRED:
        raise UserError(
            f"The two sides share {len(shared)} questions; a direction between organisms needs at least "
            f"{LEAST_PAIRED}. Rows of other questions are compared by contrast='response'."
        )
    else:
        rows = positive.by_question(chosen, shared), negative.by_question(chosen, shared)
        asked = shared, shared
    if min(map(len, rows)) < LEAST_ROWS:
        raise UserError(f"The two sides hold {len(rows[0])} and {len(rows[1])} rows; {LEAST_ROWS} of each are needed.")
    if np.array_equal(*rows):
        raise UserError("Both sides are the same activations: there is no direction between them.")
    return _Sides(*rows, *asked, kind, chosen)


def _check_alike(positive: ActivationStore, negative: ActivationStore) -> None:
    """Refuse stores that were not read the same way."""
    first, second = positive.activations, negative.activations
    if (first.blocks, first.site) != (second.blocks, second.site):
        raise UserError("The two sides hold other blocks or another site: collect both the same way.")
    if positive.width != negative.width:
        raise UserError(
            f"The two sides are of different models (widths {positive.width} and {negative.width}): collect both from "
            "organisms of one base."
        )


def _only_pooling(positive: ActivationStore, negative: ActivationStore) -> str:
    """Return the one pooling that both sides have."""
    both = sorted(set(positive.activations.pooled) & set(negative.activations.pooled))
    if len(both) != 1:
        raise UserError(f"Say which pooling: both sides have {', '.join(both) or 'none in common'}.")
    return both[0]


def _contrast_of(positive: ActivationStore, negative: ActivationStore) -> Contrast:
    """Return what two stores differ in: one organism's rows, an organism and its base, or two organisms."""
    if positive.organism == negative.organism:
        return "response"
    return "model" if negative.organism == positive.base else "control"


def _construction(positive: ActivationStore, negative: ActivationStore, sides: _Sides, method: str) -> Construction:
    """Return how a direction of two stores is made."""
    paired = sides.contrast != "response"
    n_examples = len(sides.positive) if paired else len(sides.positive) + len(sides.negative)
    site, base = positive.activations.site, positive.base or negative.base
    names = positive.organism, negative.organism
    return Construction(method, sides.contrast, sides.pooling, site, *names, base, n_examples)


@dataclass(frozen=True)
class Probe(Shown):
    """How well two sides separate at every block, each question scored by a fit that never saw it.

    Attributes:
        directions: fitted on all rows.
        held_out: AUROC, balanced accuracy and d′ of every block on questions left out, with 95 % intervals.
        blocks: block numbers.
        n_positive: rows of the positive side.
        n_negative: rows of the negative side.
    """

    directions: Directions
    held_out: HeldOut
    blocks: tuple[int, ...]
    n_positive: int
    n_negative: int

    @property
    def auroc(self) -> np.ndarray:
        """AUROC of every block on questions left out, [n_blocks]."""
        return self.held_out.auroc.value

    @property
    def best_block(self) -> int:
        """The block with the largest d′ on questions left out; choosing it flatters its own figures a little."""
        return self.blocks[int(np.nan_to_num(self.held_out.d_prime.value, nan=-np.inf).argmax())]

    def facts(self) -> dict[str, Any]:
        """Return the best block and its AUROC."""
        at = self.blocks.index(self.best_block)
        found = self.held_out.auroc
        auroc = f"{found.value[at]:.3f} ({found.low[at]:.3f}-{found.high[at]:.3f})"
        made = self.directions.construction
        return {"method": made.method, "best_block": self.best_block, "auroc": auroc, "rows": self._rows}

    @property
    def _rows(self) -> str:
        return f"{self.n_positive} and {self.n_negative}"

    def figures(self) -> dict[str, go.Figure]:
        """Return the AUROC of every block as a plotly figure."""
        from emscope.face.plots import by_block

        found = self.held_out.auroc
        return {"auroc": by_block(self.blocks, found.value, "AUROC on questions left out", found.low, found.high, 0.5)}


def probe(
    positive: ActivationStore,
    negative: ActivationStore,
    *,
    method: Method = "probe",
    pooling: str | None = None,
    contrast: Contrast | None = None,
    folds: int = 5,
    seed: int = 0,
) -> Probe:
    """Return how well two sides separate at every block, cross-fitted by question, and the directions of all rows.

    Args:
        positive: activations of the misaligned side.
        negative: activations of the aligned side, read the same way.
        method: probe (its penalty chosen by cross-validation) or diff-in-means.
        pooling: which of the stored poolings; None is the only one.
        contrast: as for `direction`.
        folds: folds of questions.
        seed: of the intervals' draws.

    Raises:
        UserError: as for `direction`.
    """
    sides = _sides(positive, negative, pooling, contrast)
    construction = _construction(positive, negative, sides, method)
    sizes = len(sides.positive), len(sides.negative)
    if min(sizes) < MIN_SIDE:
        raise UserError(f"The two sides hold {sizes[0]} and {sizes[1]} rows; a probe needs {MIN_SIDE} of each.")
    examples = _examples(sides, construction)
    scores, penalties = cross_fit(examples, method, SweepOptions(folds=folds, seed=seed))
    weights = examples.weights()
    held_out = held_out_figures(scores, examples.labels, examples.groups, weights, seed)
    fits = fit_scorers(method, examples.activations, examples.labels[None], weights[None], penalties)
    blocks = positive.activations.blocks
    directions = replace(directions_of(examples, fits, method, penalties), blocks=blocks)
    return Probe(directions, held_out, blocks, *sizes)


def _examples(sides: _Sides, construction: Construction) -> Examples:
    """Return both sides as labelled examples that weigh the same."""
    positive = _rows(sides.positive, sides.positive_questions)
    negative = _rows(sides.negative, sides.negative_questions)
    return make_examples(positive, negative, construction)


def _rows(activations: np.ndarray, asked: Sequence[str]) -> Rows:
    """Return one side's rows, each of which counts the same."""
    n = len(activations)
    return Rows(activations, np.array(asked), np.full(n, ""), np.ones(n))


@dataclass(frozen=True)
class Detection(Shown):
    """Where an organism's prompts stand along a direction: above 0 is nearer to its positive side.

    Attributes:
        organism: whose prompts.
        construction: how the direction was made.
        block: the block of the figures below.
        mean: mean score over questions at that block, in within-class deviations, with its 95 % interval.
        scores: scores of every question at every block, [n_questions, n_blocks].
        projections: raw projections (the homework's scores), [n_questions, n_blocks].
        questions: ids of the questions.
        blocks: block numbers.
    """

    organism: str
    construction: Construction
    block: int
    mean: Estimate
    scores: np.ndarray
    projections: np.ndarray
    questions: tuple[str, ...]
    blocks: tuple[int, ...]

    @property
    def share_above_0(self) -> float:
        """Share of the questions that are nearer to the positive side, at the block."""
        return float((self.scores[:, self.blocks.index(self.block)] > 0).mean())

    @property
    def verdict(self) -> str:
        """Which side the organism is nearer to."""
        return f"nearer to the {'misaligned' if self.mean.value > 0 else 'aligned'} organism"

    def facts(self) -> dict[str, Any]:
        """Return the verdict and the mean score with its interval."""
        mean = f"{self.mean.value:+.2f} ({self.mean.low:+.2f} to {self.mean.high:+.2f})"
        return {"organism": self.organism, "verdict": self.verdict, "mean": mean, "block": self.block, "n": self.mean.n}

    def figures(self) -> dict[str, go.Figure]:
        """Return the mean score of every block as a plotly figure."""
        from emscope.face.plots import by_block

        return {"score": by_block(self.blocks, self.scores.mean(axis=0), "mean score (0: midpoint)", level=0.0)}


def detect(
    organism: Subject, direction: Directions | str | Path, asked: Asked = "open-ended", *, block: int | None = None
) -> Detection:
    """Score an organism's prompts along a direction; above 0 is nearer to the misaligned organism.

    Args:
        organism: a loaded organism, one under an intervention, or a model's name.
        direction: directions made of last prompt tokens or prompt means, or their file.
        asked: prompts that the direction was not made from.
        block: where to score; None is the block that separates best on the direction's own examples.

    Raises:
        UserError: directions of answers, of another width, or without that block.
    """
    directions = direction if isinstance(direction, Directions) else Directions.load(Path(direction))
    pooling: Any = directions.construction.pooling
    if pooling not in ("last", "prompt"):
        raise UserError(f"This direction is made from {pooling} tokens; detection scores prompts: use last or prompt.")
    at = directions.best_block if block is None else block
    if at not in directions.blocks:
        raise UserError(f"The direction has no block {at}; it has {list(directions.blocks)}.")
    rows: Sequence[Question] = questions(asked)
    subject = subject_of(organism)
    directions.check_width(organism_width(subject.organism), len(find_blocks(subject.organism.model)))

    site: Any = directions.construction.site
    read = collect(subject, rows, pooling=pooling, site=site, blocks=directions.blocks).get(pooling)
    scores = directions.score(read)
    groups = [question.group for question in rows]
    mean = estimate_mean(scores[:, directions.blocks.index(at)].tolist(), groups)
    names = tuple(question.id for question in rows)
    construction = directions.construction
    return Detection(subject.name, construction, at, mean, scores, directions.project(read), names, directions.blocks)
