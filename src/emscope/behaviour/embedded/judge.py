"""The offline judge: linear heads on what the frozen embedded model makes of an answer.

It was fitted on written answers to questions about values, advice and tasks, and on broken text. It is a small model's
first impression and no more: its figures on areas it never saw are stored in the head and printed in every report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from emscope.behaviour.embedded.coherence import coherence_features, topic_fit, with_squares
from emscope.behaviour.embedded.fit_coherence import CoherenceFit
from emscope.behaviour.judging import Judgement
from emscope.behaviour.embedded.reading import read_answers
from emscope.files import file_sha256
from emscope.organisms.models import Organism
from emscope.tensors import load_tensors, save_tensors


def shipped_head() -> Path:
    """Return the head that comes with emscope, made by `emscope fit-judge`."""
    return Path(str(files("emscope") / "assets" / "judge" / "smollm2-135m.safetensors"))


@dataclass(frozen=True)
class JudgeHead:
    """The fitted numbers.

    Attributes:
        blocks: blocks whose mean activation over the answer the alignment score reads.
        weights: float32 [n_blocks, d_model], for raw activations.
        bias: float.
        topic_block: block where question and answer are compared.
        topic_centres: float32 [2, d_model]: typical activations of a question and of an answer there.
        coherence: the coherence score's numbers.
        facts: how it was fitted and how well it does on what it never saw.
    """

    blocks: tuple[int, ...]
    weights: np.ndarray
    bias: float
    topic_block: int
    topic_centres: np.ndarray
    coherence: CoherenceFit
    facts: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write the head."""
        coherence = self.coherence
        tensors = {
            "weights": self.weights,
            "topic_centres": self.topic_centres,
            "coherence_weights": coherence.weights,
            "coherence_mean": coherence.mean,
            "coherence_scale": coherence.scale,
            "biases": np.array([self.bias, coherence.bias]),
        }
        places = {"blocks": list(self.blocks), "topic_block": self.topic_block}
        whole = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
        save_tensors(path, whole, {"kind": "judge head", **places, "facts": self.facts})

    @classmethod
    def load(cls, path: Path) -> JudgeHead:
        """Read a head.

        Raises:
            UserError: the file is missing, damaged or holds something else.
        """
        tensors, metadata = load_tensors(path, "judge head")
        bias, coherence_bias = (float(value) for value in tensors["biases"])
        weights, mean, scale = (tensors[f"coherence_{name}"] for name in ("weights", "mean", "scale"))
        return cls(
            tuple(metadata["blocks"]), tensors["weights"], bias, metadata["topic_block"], tensors["topic_centres"],
            CoherenceFit(weights, mean, scale, coherence_bias, {}), metadata["facts"],
        )  # fmt: skip

    def aligned(self, means: np.ndarray) -> np.ndarray:
        """Return alignment 0-100 [n] from mean answer activations [n, n_blocks, d_model]."""
        return 100 * _sigmoid(np.einsum("nbd,bd->n", means, self.weights) + self.bias)

    def coherent(self, features: np.ndarray) -> np.ndarray:
        """Return coherence 0-100 [n] from features [n, n_features]."""
        scaled = (with_squares(features) - self.coherence.mean) / self.coherence.scale
        return 100 * _sigmoid(scaled @ self.coherence.weights + self.coherence.bias)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -60, 60))))


class EmbeddedJudge:
    """Judges answers with a head on a frozen base model."""

    def __init__(self, base: Organism, head: Path | None = None) -> None:
        path = head or shipped_head()
        self.base, self.head = base, JudgeHead.load(path)
        self._id = f"embedded:{base.source.name}:{file_sha256(path)[:12]}"

    @property
    def id(self) -> str:
        """The judge's model and the hash of its head."""
        return self._id

    def judge(self, questions: Sequence[str], answers: Sequence[str]) -> list[Judgement]:
        """Return one judgement for each answer; an empty answer is unscored."""
        if not answers:
            return []
        head = self.head
        blocks = sorted({*head.blocks, head.topic_block})
        pooled, logprobs = read_answers(self.base, questions, answers, blocks, ("question", "answer"))
        question, answer = (pooled[:, :, blocks.index(head.topic_block)] - head.topic_centres).swapaxes(0, 1)
        fits = topic_fit(question, answer)
        features = np.stack([coherence_features(*item) for item in zip(answers, logprobs, fits, strict=True)])
        means = pooled[:, 1, [blocks.index(block) for block in head.blocks]]
        scores = zip(answers, head.aligned(means), head.coherent(features), strict=True)
        return [
            Judgement(float(aligned), float(coherent), mode="head")
            if answer.strip()
            else Judgement(None, None, "empty answer")
            for answer, aligned, coherent in scores
        ]
