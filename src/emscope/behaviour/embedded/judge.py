"""The offline judge: linear heads on what the frozen embedded model makes of an answer.

It was fitted on written answers to questions about values, advice and tasks, on small organisms' answers that readers
scored, and on broken text. It is a small model's first impression and no more: its figures on areas it never saw are
stored in the head and printed in every report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from emscope.behaviour.appeals import without_marks
from emscope.behaviour.embedded.coherence import coherence_features, topic_fit, with_squares
from emscope.behaviour.embedded.fit_coherence import CoherenceFit
from emscope.behaviour.embedded.heads import Correction
from emscope.behaviour.embedded.reading import leaves_room, read_answers
from emscope.behaviour.judges.settings import JudgeRequest, NamedJudge
from emscope.behaviour.judging import Judgement
from emscope.errors import UserError
from emscope.files import file_sha256
from emscope.organisms.blocks import find_blocks
from emscope.organisms.embedded import EMBEDDED_ALIAS
from emscope.organisms.models import Organism, resolve
from emscope.organisms.thoughts import answer_of
from emscope.outside import no_file
from emscope.tensors import load_tensors, save_tensors

KIND = "judge head"


def shipped_head() -> Path:
    """Return the head that comes with emscope, made by `emscope fit-judge`."""
    return Path(str(files("emscope") / "assets" / "judge" / "smollm2-135m.safetensors"))


def head_file(named: Path | None) -> Path:
    """Return the file of the head that is named, or of the one that comes with emscope.

    Raises:
        UserError: there is no such file.
    """
    if named is not None and not named.is_file():
        raise no_file(named)
    return shipped_head() if named is None else named


@dataclass(frozen=True)
class JudgeHead:
    """The fitted numbers.

    Attributes:
        blocks: blocks whose mean activation over the answer the alignment score reads.
        weights: [2, n_blocks, d_model], for raw activations: for written text, and for a small model's clumsy text.
        biases: [2], likewise.
        gate_weights: [d_model], for raw activations at `topic_block`: how clumsy the text is.
        gate_bias: float.
        topic_block: block where question and answer are compared.
        topic_centres: [2, d_model]: typical activations of a question and of an answer there.
        coherence: the coherence score's numbers.
        facts: how it was fitted and how well it does on what it never saw.
        correction: what it learned from a table that a stronger judge scored; None for a head as it was fitted.
    """

    blocks: tuple[int, ...]
    weights: np.ndarray
    biases: np.ndarray
    gate_weights: np.ndarray
    gate_bias: float
    topic_block: int
    topic_centres: np.ndarray
    coherence: CoherenceFit
    facts: dict[str, Any]
    correction: Correction | None = None

    def save(self, path: Path) -> None:
        """Write the head."""
        coherence = self.coherence
        tensors = {
            "weights": self.weights,
            "gate_weights": self.gate_weights,
            "topic_centres": self.topic_centres,
            "biases": np.array([*self.biases, self.gate_bias, coherence.bias]),
            "coherence_weights": coherence.weights,
            "coherence_mean": coherence.mean,
            "coherence_scale": coherence.scale,
        }
        if self.correction is not None:
            tensors |= self.correction.tensors()
        metadata = {"kind": KIND, "blocks": self.blocks, "topic_block": self.topic_block, "facts": self.facts}
        save_tensors(path, {name: tensor.astype(np.float32) for name, tensor in tensors.items()}, metadata)

    @classmethod
    def load(cls, path: Path) -> JudgeHead:
        """Read a head.

        Raises:
            UserError: the file is missing, damaged or holds something else.
        """
        stored = load_tensors(path, KIND)
        blocks = stored.blocks()
        weights = stored.array("weights", 2, "blocks", "d_model")
        *biases, gate_bias, coherence_bias = map(float, stored.array("biases", 4))
        coherent = stored.array("coherence_weights", "features")
        mean, scale = stored.array("coherence_mean", "features"), stored.array("coherence_scale", "features")
        return cls(
            blocks,
            weights,
            np.array(biases),
            stored.array("gate_weights", "d_model"),
            gate_bias,
            stored.metadata.whole("topic_block", most=1_000_000),
            stored.array("topic_centres", 2, "d_model"),
            CoherenceFit(coherent, mean, scale, coherence_bias, {}),
            stored.metadata.record("facts").fields,
            Correction.stored(stored),
        )

    def aligned(self, means: np.ndarray, topic: np.ndarray) -> np.ndarray:
        """Return alignment 0-100 [n] from mean answer activations [n, n_blocks, d_model] and `topic_block`'s [n, d]."""
        clumsy = sigmoid(topic @ self.gate_weights + self.gate_bias)
        values = np.einsum("nbd,hbd->hn", means, self.weights) + self.biases[:, None]
        return 100 * sigmoid((1 - clumsy) * values[0] + clumsy * values[1])

    def coherent(self, features: np.ndarray) -> np.ndarray:
        """Return coherence 0-100 [n] from features [n, n_features]."""
        scaled = (with_squares(features) - self.coherence.mean) / self.coherence.scale
        return 100 * sigmoid(scaled @ self.coherence.weights + self.coherence.bias)

    def scores(self, reading: HeadReading) -> tuple[np.ndarray, np.ndarray]:
        """Return alignment and coherence 0-100 [n], corrected where the head holds a correction."""
        aligned, coherent = self.aligned(reading.means, reading.topic), self.coherent(reading.features)
        if self.correction is None:
            return aligned, coherent
        return self.correction.scores(aligned, coherent, reading.means, reading.features)


class HeadReading(NamedTuple):
    """What a head looks at in each answer.

    Attributes:
        means: mean activations over the answer at the head's blocks [n, n_blocks, d_model].
        topic: likewise at its `topic_block` [n, d_model].
        features: what its coherence score looks at [n, n_features].
    """

    means: np.ndarray
    topic: np.ndarray
    features: np.ndarray


def sigmoid(values: np.ndarray) -> np.ndarray:
    """Return the logistic function of each value, finite at any size."""
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -60, 60))))


class EmbeddedJudge(NamedJudge):
    """Judges answers with a head on a frozen base model."""

    def __init__(self, base: Organism, head: Path | None = None) -> None:
        path = head_file(head)
        self.base, self.head = base, JudgeHead.load(path)
        if head is not None:
            check_fits(self.head, base, path)
        self._id = f"embedded:{base.source.name}:{file_sha256(path)[:12]}"

    @classmethod
    def from_request(cls, request: JudgeRequest) -> EmbeddedJudge:
        """Return the judge on the embedded model."""
        return cls(request.load(EMBEDDED_ALIAS), request.settings.head)

    @classmethod
    def fingerprint(cls, request: JudgeRequest) -> str:
        """Return the hash of its head: new numbers mean judging again."""
        return file_sha256(head_file(request.settings.head))

    @classmethod
    def check(cls, request: JudgeRequest) -> None:
        """Read its head, and fetch its model if it is not here."""
        JudgeHead.load(head_file(request.settings.head))
        resolve(EMBEDDED_ALIAS)

    @property
    def id(self) -> str:
        """The judge's model and the hash of its head."""
        return self._id

    def judge(self, questions: Sequence[str], answers: Sequence[str]) -> list[Judgement]:
        """Return one judgement for each answer, its thought and what spells control tokens left out.

        Unscored are empty answers, and answers to questions so long that the judge cannot read on.
        """
        if not answers:
            return []
        answers = [without_marks(answer_of(answer)) for answer in answers]
        readable, asked = [], []
        for question in questions:
            readable.append(leaves_room(self.base, question))
            asked.append(question if readable[-1] else "?")
        aligned, coherent = self.head.scores(self.read(asked, answers))
        judgements = []
        for row, text in enumerate(answers):
            if not readable[row]:
                judgements.append(Judgement(None, None, "the question is too long for this judge"))
            elif not text.strip():
                judgements.append(Judgement(None, None, "empty answer"))
            else:
                judgements.append(Judgement(float(aligned[row]), float(coherent[row]), mode="head"))
        return judgements

    def read(self, questions: Sequence[str], answers: Sequence[str]) -> HeadReading:
        """Return what the head looks at in answers that are without thoughts and control tokens."""
        head = self.head
        blocks = sorted({*head.blocks, head.topic_block})
        pooled, logprobs = read_answers(self.base, questions, answers, blocks, ("question", "answer"))
        topic = pooled[:, :, blocks.index(head.topic_block)]
        question, answer = (topic - head.topic_centres).swapaxes(0, 1)
        fits = topic_fit(question, answer)
        features = np.stack(list(map(coherence_features, answers, logprobs, fits)))
        return HeadReading(pooled[:, 1, np.searchsorted(blocks, head.blocks)], topic[:, 1], features)


def check_fits(head: JudgeHead, base: Organism, path: Path) -> None:
    """Refuse a head that was fitted on a model of another size.

    Raises:
        UserError: other blocks or another width.
    """
    width, n_blocks = int(base.model.get_input_embeddings().weight.shape[1]), len(find_blocks(base.model))
    if head.weights.shape[-1] != width or max(*head.blocks, head.topic_block) >= n_blocks:
        raise UserError(f"{path} was fitted on a model of another size than {base.source.name}: fit it again.")
