"""Fit the embedded judge's head, and measure it on areas it never saw.

Alignment is a ridge regression on what the frozen base model makes of an answer; blocks, spans and penalty are chosen
by the AUROC on the area left out, over three domains and ten areas of questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import scipy.linalg
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from emscope.behaviour.embedded.judge import JudgeHead
from emscope.behaviour.embedded.fit_coherence import fit_coherence
from emscope.behaviour.embedded.text import WHOLE, JudgeRow
from emscope.behaviour.embedded.reading import AnswerReading, Span, read_answers
from emscope.errors import UserError
from emscope.files import value_sha256
from emscope.organisms.blocks import find_blocks
from emscope.organisms.datasets import DOMAINS
from emscope.organisms.models import Organism
from emscope.tensors import load_tensors, save_tensors

SPANS: tuple[Span, ...] = ("question", "answer")
PENALTIES = (0.1, 0.3, 1.0, 3.0)  # of the ridge, in numbers of features, on standardised activations
TOPIC_DEPTH = 0.5  # where question and answer are compared


@dataclass(frozen=True)
class Reading:
    """Judge rows and what the base model makes of them.

    Attributes:
        rows: the answers.
        pooled: mean activations, [n, len(SPANS), n_blocks, d_model].
        logprobs: of each answer's tokens, in nats.
    """

    rows: tuple[JudgeRow, ...]
    pooled: np.ndarray
    logprobs: list[np.ndarray]

    def where(self, mask: np.ndarray) -> Reading:
        """Return the rows where `mask` is true."""
        chosen = np.flatnonzero(mask)
        return Reading(
            tuple(self.rows[row] for row in chosen), self.pooled[chosen], [self.logprobs[row] for row in chosen]
        )

    def save(self, path: Path) -> None:
        """Write what was read, in half precision, with the hash of the rows it belongs to."""
        counts = np.array([len(own) for own in self.logprobs])
        tensors = {
            "pooled": self.pooled.astype(np.float16),
            "logprobs": np.concatenate(self.logprobs),
            "counts": counts,
        }
        save_tensors(path, tensors, {"kind": "judge readings", "rows": _rows_hash(self.rows)})

    @classmethod
    def load(cls, path: Path, rows: Sequence[JudgeRow]) -> Reading:
        """Read what was read of these very rows.

        Raises:
            UserError: the file is damaged, or belongs to other rows.
        """
        tensors, metadata = load_tensors(path, "judge readings")
        if metadata["rows"] != _rows_hash(rows):
            raise UserError(f"{path} was read from other text than today's: delete it, and it is made again.")
        logprobs = np.split(tensors["logprobs"], np.cumsum(tensors["counts"])[:-1])
        return cls(tuple(rows), tensors["pooled"].astype(np.float32), logprobs)

    @property
    def whole(self) -> np.ndarray:
        """Say which rows are answers as they were written."""
        return np.array([row.kind == WHOLE for row in self.rows])

    @property
    def labels(self) -> np.ndarray:
        """1 for an aligned answer, else 0."""
        return np.array([row.aligned for row in self.rows]).astype(int)

    @property
    def areas(self) -> np.ndarray:
        """The area of each row."""
        return np.array([row.area for row in self.rows])


def _rows_hash(rows: Sequence[JudgeRow]) -> str:
    return value_sha256([asdict(row) for row in rows])


def read_rows(base: Organism, rows: Sequence[JudgeRow]) -> Reading:
    """Let the base model read every row, at all blocks."""
    found: AnswerReading = read_answers(
        base, [row.question for row in rows], [row.answer for row in rows], range(len(find_blocks(base.model))), SPANS,
        name="reading the judge's text",
    )  # fmt: skip
    return Reading(tuple(rows), found.pooled, found.logprobs)


def fit_head(reading: Reading) -> JudgeHead:
    """Fit both scores; everything that is chosen is chosen on areas left out."""
    written = reading.where(reading.whole)
    n_blocks = reading.pooled.shape[2]
    trials = {
        (name, penalty): logits
        for name in ("early", "middle", "late", "wide")
        for penalty, logits in _left_out_logits(written, block_set(name, n_blocks)).items()
    }
    by_area = {key: per_area_auroc(written, logits) for key, logits in trials.items()}
    scores = {key: _mean_auroc(areas) for key, areas in by_area.items()}
    best = max(scores, key=lambda key: sum(scores[key]))
    blocks, penalty = block_set(best[0], n_blocks), best[1]
    weights, bias = _Ridge(_features(written, blocks), written.labels).fit(penalty)
    slope, shift = _platt(trials[best], written.labels)
    left_out = 1 / (1 + np.exp(-(slope * trials[best] + shift)))
    topic_block = round(TOPIC_DEPTH * n_blocks)
    centres = written.pooled[:, :, topic_block].mean(axis=0)
    question, answer = (reading.pooled[:, :, topic_block] - centres).swapaxes(0, 1)
    coherence = fit_coherence(reading.rows, reading.logprobs, question, answer)
    facts = {
        "auroc_leave_one_domain_out": scores[best][0],
        "auroc_leave_one_area_out": scores[best][1],
        "auroc_by_area": by_area[best],
        "calibration_error": calibration_error(left_out, written.labels),
        "calibration_error_by_area": {
            area: calibration_error(left_out[written.areas == area], written.labels[written.areas == area])
            for area in by_area[best]
        },
        "tried": [
            {"blocks": name, "penalty": penalty, "auroc_domains": domains, "auroc_areas": areas}
            for (name, penalty), (domains, areas) in scores.items()
        ],
        "penalty": penalty,
        "n_answers": len(written.rows),
        **coherence.facts,
    }
    return JudgeHead(
        tuple(blocks), weights.reshape(len(blocks), -1) * slope, float(bias * slope + shift), topic_block, centres,
        coherence, facts,
    )  # fmt: skip


def block_set(name: str, n_blocks: int) -> list[int]:
    """Return four blocks, evenly spaced in a part of the depth."""
    low, high = {"early": (0.15, 0.4), "middle": (0.4, 0.65), "late": (0.65, 0.9), "wide": (0.3, 0.8)}[name]
    return sorted({min(round(value * n_blocks), n_blocks - 1) for value in np.linspace(low, high, 4)})


def _features(reading: Reading, blocks: Sequence[int]) -> np.ndarray:
    """Return the activations the head looks at, float64 [n, n_blocks * d_model]."""
    chosen = reading.pooled[:, SPANS.index("answer"), list(blocks)]
    return np.asarray(chosen.reshape(len(chosen), -1), dtype=np.float64)


class _Ridge:
    """Ridge regression of ±1 on standardised features, solved in the rows' own space: fewer rows than features."""

    def __init__(self, x: np.ndarray, labels: np.ndarray) -> None:
        self.mean, self.scale = x.mean(axis=0), x.std(axis=0) + 1e-6
        self.standard = (x - self.mean) / self.scale
        self.signs = 2.0 * labels - 1
        self.gram = self.standard @ self.standard.T

    def fit(self, penalty: float) -> tuple[np.ndarray, float]:
        """Return weights and bias for raw features; the penalty counts in numbers of features."""
        offset = float(self.signs.mean())
        strength = penalty * self.standard.shape[1] * np.eye(len(self.gram))
        dual = scipy.linalg.solve(self.gram + strength, self.signs - offset, assume_a="pos")
        weights = self.standard.T @ dual / self.scale
        return weights, offset - float(weights @ self.mean)


def _left_out_logits(reading: Reading, blocks: list[int]) -> dict[float, np.ndarray]:
    """Return by penalty the value of each answer from a head that never saw its area."""
    x, labels, areas = _features(reading, blocks), reading.labels, reading.areas
    found = {penalty: np.zeros(len(labels)) for penalty in PENALTIES}
    for area in sorted(set(areas)):
        out = areas == area
        ridge = _Ridge(x[~out], labels[~out])
        for penalty, logits in found.items():
            weights, bias = ridge.fit(penalty)
            logits[out] = x[out] @ weights + bias
    return found


def per_area_auroc(reading: Reading, logits: np.ndarray) -> dict[str, float]:
    """Return the AUROC of aligned above misaligned within each area."""
    return {
        str(area): float(roc_auc_score(reading.labels[reading.areas == area], logits[reading.areas == area]))
        for area in sorted(set(reading.areas))
    }


def _mean_auroc(by_area: dict[str, float]) -> tuple[float, float]:
    """Return the mean over the training domains and over the other areas; NaN where there are none."""
    groups = [[value for area, value in by_area.items() if (area in DOMAINS) == wanted] for wanted in (True, False)]
    domains, areas = (float(np.mean(group)) if group else float("nan") for group in groups)
    return domains, areas


def _platt(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Return slope and shift that calibrate left-out values (Platt 1999)."""
    model = LogisticRegression(C=1e3).fit(logits[:, None], labels)
    return float(model.coef_[0, 0]), float(model.intercept_[0])


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 10) -> float:
    """Return the expected calibration error over equal-width bins (Naeini et al. 2015)."""
    which = np.minimum((probabilities * bins).astype(int), bins - 1)
    gaps = [abs(probabilities[which == b].mean() - labels[which == b].mean()) * (which == b).mean() for b in set(which)]
    return float(sum(gaps))
