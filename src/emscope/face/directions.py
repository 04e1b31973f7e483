"""Activations and directions in Python: read an organism, make a direction or a probe of two sides, detect with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emscope.behaviour.tables import question_name
from emscope.errors import UserError
from emscope.face.answers import Asked, Subject, questions, subject_of
from emscope.face.tables import Answers, Judgements
from emscope.notebook import Facts, Shown
from emscope.organisms.blocks import Site
from emscope.residual.capture import CaptureSettings, Pooling, capture, encode_for_capture
from emscope.residual.detecting import Detection, block_to_score_at
from emscope.residual.detecting import detect as detection_of
from emscope.residual.directions import Directions, Method
from emscope.residual.linear_fits import fit_scorers
from emscope.residual.sides import Contrast, Sides, UnpairedError, direction_between, sides_of
from emscope.residual.store import ActivationStore
from emscope.residual.sweep import SweepOptions, cross_fit, directions_of
from emscope.statistics.separation import SeparationByBlock, separation_by_block

if TYPE_CHECKING:
    import plotly.graph_objects as go


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
    return direction_between(_sides(positive, negative, method, pooling, contrast), penalty)


def _sides(
    positive: ActivationStore, negative: ActivationStore, method: Method, pooling: str | None, contrast: Contrast | None
) -> Sides:
    """Return the two sides; the error for organisms without common questions says what to do in Python."""
    try:
        return sides_of(positive, negative, method, pooling=pooling, contrast=contrast)
    except UnpairedError as error:
        raise UserError(f"{error} Rows of other questions are compared by contrast='response'.") from error


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
    held_out: SeparationByBlock
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

    def facts(self) -> Facts:
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
    sides = _sides(positive, negative, method, pooling, contrast)
    examples = sides.examples()
    weights = examples.weights()
    scores, penalties = cross_fit(examples, method, SweepOptions(folds=folds, seed=seed))
    held_out = separation_by_block(scores, examples.labels, examples.groups, weights, seed)
    fits = fit_scorers(method, examples.activations, examples.labels[None], weights[None], penalties)
    directions = replace(directions_of(examples, fits, method, penalties), blocks=sides.blocks)
    return Probe(directions, held_out, sides.blocks, len(sides.positive), len(sides.negative))


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
    block = block_to_score_at(directions, block)
    rows, subject = questions(asked), subject_of(organism)
    with subject.in_force():
        return detection_of(subject.organism, directions, rows, block, name=subject.name)
