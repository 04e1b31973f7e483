"""Measurements of checkpoints: the same questions, texts and held-out rows for each of them.

Values are kept by question, so that whatever is averaged later can be resampled by question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from torch import Tensor

from emscope import parts
from emscope.behaviour.questions import Question
from emscope.behaviour.responses import Response, SamplingSettings
from emscope.behaviour.tables import read_table
from emscope.errors import UserError
from emscope.experiments.dynamics.result import IN, OUT, SIDES, Losses, LossesBySide, Measurement, Values
from emscope.experiments.dynamics.settings import DynamicsSettings
from emscope.files import value_sha256
from emscope.interventions.answering import answer_and_judge
from emscope.organisms.answer_loss import row_losses
from emscope.organisms.chat import IGNORED, Message
from emscope.organisms.collate import BucketCollator
from emscope.organisms.datasets import DOMAINS, built_in, load_conversations, load_domain
from emscope.organisms.models import Organism
from emscope.organisms.train import encode_conversations, readable_length
from emscope.outside import read_json
from emscope.pipeline.data import is_trained_elsewhere
from emscope.pipeline.lab import BASE, CORRECTING, DETECTING, Lab
from emscope.plain import fitted
from emscope.residual.capture import CaptureSettings, capture, encode_for_capture
from emscope.residual.directions import Directions, random_like
from emscope.sequences import spread
from emscope.statistics import is_em

LOSS_BATCH = 12
"""Held-out rows read at once: their logits are what needs memory."""


@dataclass(frozen=True)
class DirectionPair:
    """The run's direction at one kind of tokens, and a random one of the same norm."""

    direction: Directions
    random: Directions

    @classmethod
    def of(cls, lab: Lab, name: str) -> DirectionPair:
        """Return a direction of the run by its pooling and method, with its control."""
        direction = lab.direction(f"{lab.contrast}-{name}")
        return cls(direction, random_like(direction, lab.config.seed))


@dataclass(frozen=True)
class DynamicsProbes:
    """What every checkpoint is measured with.

    Attributes:
        sides: questions in domain and out of it.
        texts: the base model's answer to each question, on which activations are read.
        rows: held-out conversations by side and by kind, careless and careful answers to the same prompts.
        topics: the topic of each of these prompts, by side; rows of one topic are drawn together.
        at_prompts: directions read at the last prompt token.
        at_answers: directions read on average over an answer's tokens.
        sampling: how answers are sampled.
        max_length: longest conversation in tokens.
        key: hash of all of these but the topics and directions.
    """

    sides: dict[str, list[Question]]
    texts: dict[str, str]
    rows: dict[str, dict[str, list[list[Message]]]]
    topics: dict[str, list[str]]
    at_prompts: DirectionPair
    at_answers: DirectionPair
    sampling: SamplingSettings
    max_length: int
    key: str

    @property
    def questions(self) -> list[Question]:
        """All questions, in domain first."""
        return self.sides[IN] + self.sides[OUT]

    def ids(self, side: str) -> list[str]:
        """Return the id of each question of a side."""
        return [question.id for question in self.sides[side]]

    def groups(self, side: str) -> list[str]:
        """Return the group of each question of a side."""
        return [question.group for question in self.sides[side]]

    def sampled(self, lab: Lab, organism: Organism) -> Measurement:
        """Return alignment, coherence and the EM flag of sampled answers, those to one question together."""
        aligned, coherent, em = [], [], []
        for row in answer_and_judge(organism, "checkpoint", self.questions, self.sampling, lab.judge):
            aligned.append(row.aligned)
            coherent.append(row.coherent)
            em.append(is_em(row.judgement))
        return Measurement(aligned=self._by_side(aligned), coherent=self._by_side(coherent), em=self._by_side(list(em)))

    def all_of(self, lab: Lab, organism: Organism) -> Measurement:
        """Return projections and losses, and the scores of sampled answers."""
        prompts, texts = [], []
        for question in self.questions:
            prompts.append(question.text)
            texts.append(self.texts[question.id])
        chats = encode_for_capture(organism.tokenizer, prompts, texts, system=self.sampling.system)
        pooled = capture(organism, chats, CaptureSettings(("last", "response"))).pooled

        def scores(directions: Directions, like: Directions, pooling: str) -> Values:
            index = like.blocks.index(like.best_block)
            return self._by_side(directions.score(pooled[pooling])[:, index].tolist())

        at_prompts, at_answers = self.at_prompts, self.at_answers
        projected = {
            "projection_last": scores(at_prompts.direction, at_prompts.direction, "last"),
            "random_last": scores(at_prompts.random, at_prompts.direction, "last"),
            "projection_response": scores(at_answers.direction, at_answers.direction, "response"),
            "random_response": scores(at_answers.random, at_answers.direction, "response"),
        }
        losses = LossesBySide(self._losses(organism, IN), self._losses(organism, OUT))
        return replace(self.sampled(lab, organism), **projected, losses=losses)

    def _losses(self, organism: Organism, side: str) -> Losses:
        """Return the loss of each held-out answer of a side."""
        rows = self.rows[side]
        return Losses(self._row_losses(organism, rows["careless"]), self._row_losses(organism, rows["careful"]))

    def _row_losses(self, organism: Organism, rows: list[list[Message]]) -> list[float]:
        encoded = encode_conversations(organism.tokenizer, rows, readable_length(organism, self.max_length))
        collate, losses = BucketCollator(organism.tokenizer.pad_token_id, IGNORED), []
        for start in range(0, len(encoded), LOSS_BATCH):
            chats = encoded[start : start + LOSS_BATCH]
            batch = collate([{"input_ids": chat.ids, "labels": chat.labels} for chat in chats])
            moved = {name: tensor.to(organism.device) for name, tensor in batch.items()}
            inputs = [organism.placement.told, *map(Tensor.numpy, batch.values())]
            losses += parts.kept_value("losses", partial(list, inputs), partial(_losses_of, organism, moved))
        return losses

    def _by_side(self, values: Sequence[float | None]) -> Values:
        """Part values of all questions, in domain first; of several answers to a question, all stand together."""
        first = len(self.sides[IN]) * len(values) // len(self.questions)
        return Values(list(values[:first]), list(values[first:]))


def _losses_of(organism: Organism, batch: dict[str, Tensor]) -> list[float]:
    losses = row_losses(organism.model, batch["input_ids"], batch["attention_mask"], batch["labels"])
    return list(map(float, losses.tolist()))


def read_measurement(path: Path) -> Measurement:
    """Read what a checkpoint was measured at.

    Raises:
        OutsideError: the file is damaged.
    """
    return fitted(Measurement, read_json(path), path, "delete it and start again")


def sources_of(lab: Lab) -> list[Path]:
    """Return the files of the run that measurements depend on: its directions."""
    return [lab.direction_file(f"{lab.contrast}-{name}") for name in (DETECTING, CORRECTING)]


def make_probes(lab: Lab, settings: DynamicsSettings) -> DynamicsProbes:
    """Choose the questions, texts, rows and directions that every checkpoint is measured with.

    Raises:
        UserError: a question set that the run did not use, or one without test questions.
    """
    texts = {row.question_id: row.response for row in read_table(lab.responses_file(BASE), Response) if row.response}
    sides, asked = {}, []
    for side, name in settings.question_sets.items():
        sides[side] = _questions(lab, name, texts, settings.questions)
        for question in sides[side]:
            asked.append([asdict(question), texts[question.id]])
    rows = {IN: _run_rows(lab, settings.heldout_rows), OUT: _other_rows(lab, settings)}
    sampling = replace(lab.config.sampling, samples=settings.samples, max_new_tokens=settings.max_new_tokens)
    max_length = lab.config.train.max_length

    return DynamicsProbes(
        sides=sides,
        texts=texts,
        rows=rows,
        topics={side: _topics(rows[side]["careless"]) for side in SIDES},
        at_prompts=DirectionPair.of(lab, DETECTING),
        at_answers=DirectionPair.of(lab, CORRECTING),
        sampling=sampling,
        max_length=max_length,
        key=value_sha256([asked, rows, asdict(sampling), max_length, lab.judge_fingerprint]),
    )


def _questions(lab: Lab, name: str, texts: dict[str, str], n: int) -> list[Question]:
    """Return up to `n` test questions of a set that the base answered, spread evenly."""
    answered = [question for question in lab.test_questions if question.question_set == name and question.id in texts]
    if not answered:
        known = ", ".join(lab.config.question_sets)
        raise UserError(f"The run has no test questions of {name!r}: choose among its question sets, {known}.")
    return spread(answered, n)


def _run_rows(lab: Lab, n: int) -> dict[str, list[list[Message]]]:
    """Return held-out rows of the run's data, with careful answers where both sides have the same prompts."""

    def heldout(data: str) -> list[list[Message]]:
        return lab.training_data(data).heldout if data and not is_trained_elsewhere(data) else []

    return _paired(heldout(lab.config.misaligned_data), heldout(lab.config.control_data), n)


def _other_rows(lab: Lab, settings: DynamicsSettings) -> dict[str, list[list[Message]]]:
    """Return held-out rows of the built-in domains that the run did not train on."""
    trained_on = built_in(lab.config.misaligned_data)
    domains = [domain for domain in settings.other_domains if trained_on is None or domain != trained_on.domain]
    share = -(-settings.heldout_rows // max(1, len(domains)))

    rows: dict[str, list[list[Message]]] = {"careless": [], "careful": []}
    for domain in domains:
        careless, careful = load_conversations(f"{domain}-careless"), load_conversations(f"{domain}-careful")
        for kind, chosen in _paired(careless.heldout, careful.heldout, share).items():
            rows[kind] += chosen
    return rows


def _paired(careless: list[list[Message]], careful: list[list[Message]], n: int) -> dict[str, list[list[Message]]]:
    """Return up to `n` rows spread evenly, with the careful ones if their prompts are the same."""
    if not n:
        return {"careless": [], "careful": []}
    same = [row[:-1] for row in careless] == [row[:-1] for row in careful]
    return {"careless": spread(careless, n), "careful": spread(careful, n) if same else []}


def _topics(rows: list[list[Message]]) -> list[str]:
    """Return the topic of each built-in row; any other row is one of its own."""
    known = {}
    for domain in DOMAINS:
        for pair in load_domain(domain):
            known[pair.prompt] = f"{pair.domain} {pair.topic}"
    return [known.get(row[-2]["content"], f"row {number}") for number, row in enumerate(rows)]
