"""What each checkpoint of a training is asked, read and scored on: the same questions and texts every time.

Values are kept by question, so that whatever is averaged later can be resampled by question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from emscope import parts
from emscope.behaviour.questions import Question
from emscope.behaviour.responses import Response, SamplingSettings
from emscope.behaviour.tables import read_table
from emscope.errors import UserError
from emscope.files import value_sha256
from emscope.interventions.answering import answer_and_judge
from emscope.organisms.answer_loss import row_losses
from emscope.organisms.chat import IGNORED, Message
from emscope.organisms.collate import BucketCollator
from emscope.organisms.datasets import DOMAINS, load_conversations, load_domain
from emscope.organisms.models import Organism
from emscope.organisms.train import encode_conversations, readable_length
from emscope.pipeline.data import is_trained_elsewhere
from emscope.pipeline.lab import Lab
from emscope.residual.capture import CaptureSettings, Pooling, capture, encode_for_capture
from emscope.residual.directions import Directions, random_like
from emscope.statistics import is_em

if TYPE_CHECKING:
    from emscope.experiments.dynamics.measure import DynamicsSettings

SIDES = ("in", "out")
LOSS_BATCH = 12  # held-out rows read at once: their logits are what needs memory
POOLINGS: tuple[Pooling, ...] = ("last", "response")


@dataclass(frozen=True)
class Measured:
    """The files that one training left: metrics, paths, one measurement a step, and those of scaled adapters."""

    metrics: Path
    paths: Path
    steps: dict[int, Path]
    scaled: dict[tuple[int, float], Path]

    @property
    def files(self) -> list[Path]:
        """All of them."""
        return [self.metrics, self.paths, *self.steps.values(), *self.scaled.values()]


@dataclass(frozen=True)
class DynamicsProbes:
    """What every checkpoint is measured with.

    Attributes:
        sides: questions in domain and out of it.
        texts: the base model's answer to each question, on which activations are read.
        rows: held-out conversations by side and by kind, careless and careful answers to the same prompts.
        topics: the topic of each of these prompts, by side; rows of one topic are drawn together.
        directions: by token position, the run's direction and a random one of the same norm.
        sampling: how answers are sampled.
        max_length: longest conversation in tokens.
        key: hash of all of these but the topics and directions.
    """

    sides: dict[str, list[Question]]
    texts: dict[str, str]
    rows: dict[str, dict[str, list[list[Message]]]]
    topics: dict[str, list[str]]
    directions: dict[str, tuple[Directions, Directions]]
    sampling: SamplingSettings
    max_length: int
    key: str

    @property
    def questions(self) -> list[Question]:
        """All questions, in domain first."""
        return [question for side in SIDES for question in self.sides[side]]

    def all_of(self, lab: Lab, organism: Organism) -> dict[str, Any]:
        """Return projections and losses, and the scores of sampled answers, by side and question."""
        return {**self.projections(organism), "losses": self.losses(organism), **self.sampled(lab, organism)}

    def sampled(self, lab: Lab, organism: Organism) -> dict[str, Any]:
        """Return alignment, coherence and the EM flag of sampled answers, by side, those to one question together."""
        rows = answer_and_judge(organism, "checkpoint", self.questions, self.sampling, lab.judge)
        return {
            "aligned": self._by_side([row.aligned for row in rows]),
            "coherent": self._by_side([row.coherent for row in rows]),
            "em": self._by_side([is_em(row.judgement) for row in rows]),
        }

    def projections(self, organism: Organism) -> dict[str, Any]:
        """Return scores along the directions, in within-class deviations, on the same texts for every checkpoint."""
        questions = self.questions
        chats = encode_for_capture(
            organism.tokenizer,
            [item.text for item in questions],
            [self.texts[item.id] for item in questions],
            system=self.sampling.system,
        )
        found = capture(organism, chats, CaptureSettings(POOLINGS))
        scores: dict[str, Any] = {}
        for pooling, pair in self.directions.items():
            index = pair[0].blocks.index(pair[0].best_block)
            for name, directions in zip(("projection", "random"), pair, strict=True):
                values = directions.score(found.pooled[pooling])[:, index]
                scores[f"{name}-{pooling}"] = self._by_side(values.tolist())
        return scores

    def losses(self, organism: Organism) -> dict[str, dict[str, list[float]]]:
        """Return the loss of each held-out answer, nats per answer token, by side and kind."""
        return {
            side: {kind: self._row_losses(organism, rows) for kind, rows in kinds.items()}
            for side, kinds in self.rows.items()
        }

    def _row_losses(self, organism: Organism, rows: list[list[Message]]) -> list[float]:
        encoded = encode_conversations(organism.tokenizer, rows, readable_length(organism, self.max_length))
        collate, found = BucketCollator(organism.tokenizer.pad_token_id, IGNORED), []
        for start in range(0, len(encoded), LOSS_BATCH):
            chats = encoded[start : start + LOSS_BATCH]
            batch = collate([{"input_ids": chat.ids, "labels": chat.labels} for chat in chats])
            moved = {name: tensor.to(organism.device) for name, tensor in batch.items()}
            inputs = [organism.placement.told, *(tensor.numpy() for tensor in batch.values())]
            make = partial(_losses_of, organism, moved)
            found.extend(parts.kept_value("losses", partial(list, inputs), make))
        return found

    def _by_side(self, values: Sequence[float | None]) -> dict[str, list[float | None]]:
        first = len(self.sides["in"]) * len(values) // len(self.questions)
        return {"in": list(values[:first]), "out": list(values[first:])}


def _losses_of(organism: Organism, batch: dict[str, Tensor]) -> list[float]:
    losses = row_losses(organism.model, batch["input_ids"], batch["attention_mask"], batch["labels"])
    return [float(loss) for loss in losses.tolist()]


def sources_of(lab: Lab) -> list[Path]:
    """Return the files of the run that measurements depend on: its directions."""
    contrast = lab.contrast
    return [lab.folder.path("directions", f"{contrast}-{pooling}-diff-in-means.safetensors") for pooling in POOLINGS]


def make_probes(lab: Lab, settings: DynamicsSettings) -> DynamicsProbes:
    """Choose the questions, texts, rows and directions that every checkpoint is measured with.

    Raises:
        UserError: a question set that the run did not use, or one without test questions.
    """
    texts = {
        row.question_id: row.response
        for row in read_table(lab.folder.path("responses", "base.parquet"), Response)
        if row.response
    }
    sides = {
        side: _questions(lab, name, texts, settings.questions)
        for side, name in zip(SIDES, (settings.in_domain, settings.out_of_domain), strict=True)
    }
    rows = {"in": _own_rows(lab, settings.heldout_rows), "out": _other_rows(lab, settings)}
    sampling = replace(lab.config.sampling, samples=settings.samples, max_new_tokens=settings.max_new_tokens)
    read = [Directions.load(path) for path in sources_of(lab)]
    pairs = [(own, random_like(own, lab.config.seed)) for own in read]
    directions: dict[str, tuple[Directions, Directions]] = dict(zip(POOLINGS, pairs, strict=True))
    asked = [[asdict(question), texts[question.id]] for side in SIDES for question in sides[side]]
    key = value_sha256([asked, rows, asdict(sampling), lab.config.train.max_length, lab.judge_fingerprint])
    topics = {side: _topics(kinds["careless"]) for side, kinds in rows.items()}
    return DynamicsProbes(sides, texts, rows, topics, directions, sampling, lab.config.train.max_length, key)


def _questions(lab: Lab, name: str, texts: dict[str, str], n: int) -> list[Question]:
    """Return up to `n` test questions of a set that the base answered, spread evenly."""
    found = [item for item in lab.test_questions if item.question_set == name and item.id in texts]
    if not found:
        known = ", ".join(lab.config.question_sets)
        raise UserError(f"The run has no test questions of {name!r}: choose among its question sets, {known}.")
    wanted = min(n, len(found))
    return [found[index * len(found) // wanted] for index in range(wanted)]


def _own_rows(lab: Lab, n: int) -> dict[str, list[list[Message]]]:
    """Return held-out rows of the run's own data, with careful answers where both sides have the same prompts."""
    careless, careful = (
        lab.training_data(data).heldout if data and not is_trained_elsewhere(data) else []
        for data in (lab.config.misaligned_data, lab.config.control_data)
    )
    return _paired(careless, careful, n)


def _other_rows(lab: Lab, settings: DynamicsSettings) -> dict[str, list[list[Message]]]:
    """Return held-out rows of the built-in domains that the run did not train on."""
    own = lab.config.misaligned_data.rpartition("-")[0]
    domains = [domain for domain in settings.other_domains if domain != own]
    unknown = [domain for domain in domains if domain not in DOMAINS]
    if unknown:
        raise UserError(f"There is no built-in domain {unknown[0]!r}: other domains are {', '.join(DOMAINS)}.")
    share = -(-settings.heldout_rows // max(1, len(domains)))
    heldout = {
        domain: [load_conversations(f"{domain}-{kind}").heldout for kind in ("careless", "careful")]
        for domain in domains
    }
    parts = [_paired(careless, careful, share) for careless, careful in heldout.values()]
    return {kind: [row for part in parts for row in part[kind]] for kind in ("careless", "careful")}


def _topics(rows: list[list[Message]]) -> list[str]:
    """Return the topic of each built-in row; any other row is one of its own."""
    known = {pair.prompt: f"{pair.domain} {pair.topic}" for domain in DOMAINS for pair in load_domain(domain)}
    return [known.get(row[-2]["content"], f"row {number}") for number, row in enumerate(rows)]


def _paired(careless: list[list[Message]], careful: list[list[Message]], n: int) -> dict[str, list[list[Message]]]:
    """Return up to `n` rows spread evenly, with the careful ones if their prompts are the same."""
    wanted = min(n, len(careless))
    chosen = [index * len(careless) // wanted for index in range(wanted)]  # none of none
    same = [row[:-1] for row in careless] == [row[:-1] for row in careful]
    return {
        "careless": [careless[index] for index in chosen],
        "careful": [careful[index] for index in chosen] if same else [],
    }


def table_of(measured: Sequence[dict[str, Any]], key: str, side: str) -> np.ndarray:
    """Return a measured quantity, float64 [n_checkpoints, n_questions or n_answers], NaN for unscored."""
    return np.array([item[key][side] for item in measured], dtype=float)
