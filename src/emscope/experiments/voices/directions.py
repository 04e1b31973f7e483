"""Directions of advice, of voice and of their interaction, how they lie, and how much of other differences they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from emscope.behaviour.questions import ids_of
from emscope.experiments.voices.organisms import Quartet, organisms_of
from emscope.experiments.voices.result import (
    ADVICE,
    ADVICE_BLUNT,
    ADVICE_WARM,
    BAD_BASE,
    CONFOUNDED,
    CONTRASTS,
    INTERACTION,
    RANDOM,
    VOICE,
    Explained,
    VoiceGeometry,
)
from emscope.organisms.datasets import CORNERS
from emscope.pipeline.lab import BASE, Lab
from emscope.residual.directions import Construction, Directions, make_directions, unit
from emscope.residual.store import ActivationStore

POOLINGS = ("last", "response")
KEPT = (ADVICE, VOICE, INTERACTION)
"""Directions that are written to files."""
HALVES = 20
"""Random splits of the questions into two halves."""
N_RANDOM = 100
DIFFERENCES: dict[str, tuple[float, ...]] = {
    CONFOUNDED: (0.0, 1.0, -1.0, 0.0),
    BAD_BASE: (0.0, 0.5, 0.0, 0.5),
}
"""What is taken apart, as weights of the corners; what they do not sum to zero by is the base's."""


@dataclass(frozen=True)
class CornerActivations:
    """Activations of every organism, on the questions that all of them answered.

    Attributes:
        values: by organism, the base among them, float32 [n_questions, n_blocks, d_model], training questions first.
        n_train: training questions.
        groups: by question, what statistics draw together.
        blocks: block numbers.
    """

    values: Mapping[str, np.ndarray]
    n_train: int
    groups: Sequence[str]
    blocks: tuple[int, ...]

    @classmethod
    def of(cls, lab: Lab, quartets: Sequence[Quartet], pooling: str, test: Sequence[str]) -> CornerActivations:
        """Load what the organisms left, on training questions and on test questions that all were asked."""
        names = organisms_of(quartets)
        train = answered_by_all(lab, names, ids_of(lab.train_questions))
        questions = [*train, *answered_by_all(lab, names, test)]
        values: dict[str, np.ndarray] = {}
        blocks: tuple[int, ...] = ()
        for name in names:
            store = ActivationStore.load(lab.activation_files(name)[POOLINGS.index(pooling)])
            values[name] = store.by_question(pooling, questions)
            blocks = store.activations.blocks
        return cls(values, len(train), [lab.groups[question] for question in questions], blocks)

    @property
    def train(self) -> CornerActivations:
        """The training questions alone."""
        return self._part(slice(0, self.n_train))

    @property
    def test(self) -> CornerActivations:
        """The test questions alone."""
        return self._part(slice(self.n_train, None))

    def _part(self, rows: slice) -> CornerActivations:
        values = {name: array[rows] for name, array in self.values.items()}
        return CornerActivations(values, self.n_train, self.groups[rows], self.blocks)

    def mean(self, names: Sequence[str]) -> np.ndarray:
        """Return the mean over organisms, float32 [n_questions, n_blocks, d_model]."""
        total = np.zeros_like(self.values[names[0]])
        for name in names:
            total += self.values[name]
        return np.asarray(total / np.float32(len(names)))

    def corners(self, quartets: Sequence[Quartet]) -> np.ndarray:
        """Return the mean over organisms of each corner, float32 [n_corners, n_questions, n_blocks, d_model]."""
        return np.stack([self.mean([quartet.of(corner) for quartet in quartets]) for corner in CORNERS])


def answered_by_all(lab: Lab, names: Sequence[str], questions: Sequence[str]) -> list[str]:
    """Return the questions that every organism answered, in order."""
    left = set(questions)
    for name in names:
        left &= set(ActivationStore.load(lab.activation_files(name)[1]).question_ids)
    return [question for question in questions if question in left]


def contrast_directions(
    corners: np.ndarray, name: str, blocks: tuple[int, ...], pooling: str, base: str, quartets: Sequence[Quartet]
) -> Directions:
    """Return a direction of `CONTRASTS` from activations of the corners, [n_corners, n_questions, n_blocks, d_model].

    Its positive side is the mean of the corners that count for it, its negative side that of the corners against it; of
    the interaction that is half the contrast.
    """
    weights = np.array(CONTRASTS[name])
    sides, named = [], []
    for sign in (1, -1):
        rows = np.flatnonzero(np.sign(weights) == sign)
        sides.append(corners[rows].mean(axis=0))
        names: list[str] = []
        for quartet in quartets:
            names += [quartet.organisms[row] for row in rows]
        named.append("+".join(names))
    made = Construction("diff-in-means", name, pooling, "resid_post", named[0], named[1], base, corners.shape[1])
    return make_directions(sides[0], sides[1], blocks, made)


def direction_file(lab: Lab, name: str, pooling: str, quartet: Quartet | None = None) -> Path:
    """Return where a direction is kept: of all organisms together, or of one quartet."""
    of_one = f"{quartet.name}-" if quartet else ""
    return lab.folder.path("experiments", "voices", f"{of_one}{name}-{pooling}.safetensors")


def direction_files(lab: Lab, corrected: Quartet) -> list[Path]:
    """Return all files of directions: of all organisms by pooling, and those that correct one quartet."""
    files = []
    for pooling in POOLINGS:
        files += [direction_file(lab, name, pooling) for name in KEPT]
    return [*files, *(direction_file(lab, name, "response", corrected) for name in KEPT)]


def direction_stage(lab: Lab, quartets: Sequence[Quartet], corrected: Quartet, test: Sequence[str]) -> None:
    """Make every direction on training questions and store it."""
    inputs: list[Path] = []
    for name in organisms_of(quartets):
        inputs += lab.activation_files(name)
    settings = {"quartets": [quartet.name for quartet in quartets], "questions": ids_of(lab.train_questions)}
    outputs = direction_files(lab, corrected)
    lab.folder.stage("voices-directions", settings, inputs, outputs, partial(_make, lab, quartets, corrected, test))


def _make(lab: Lab, quartets: Sequence[Quartet], corrected: Quartet, test: Sequence[str]) -> None:
    for pooling in POOLINGS:
        read = CornerActivations.of(lab, quartets, pooling, test).train
        made = [(quartets, None)] if pooling == "last" else [(quartets, None), ([corrected], corrected)]
        for some, one in made:
            corners = read.corners(some)
            for name in KEPT:
                directions = contrast_directions(corners, name, read.blocks, pooling, lab.config.model, some)
                directions.save(direction_file(lab, name, pooling, one))


def measure_geometry(read: CornerActivations, quartets: Sequence[Quartet], seed: int) -> VoiceGeometry:
    """Return how the directions lie on training questions, from all organisms together."""
    train = read.train
    corners, base = train.corners(quartets), train.values[BASE]
    vectors = {name: _mean(corners, base, contrast) for name, contrast in (CONTRASTS | DIFFERENCES).items()}
    halves = _halves(corners, base, train.groups, seed)

    cosines = {}
    for one, other in ((ADVICE, VOICE), (ADVICE, INTERACTION), (VOICE, INTERACTION)):
        cosines[f"{one} and {other}"] = _cosine(vectors[one], vectors[other])
    for difference in DIFFERENCES:
        for name in (ADVICE, VOICE):
            cosines[f"{difference} and {name}"] = _cosine(vectors[difference], vectors[name])

    bad, good = (0.0, 1.0, 0.0, -1.0), (1.0, 0.0, -1.0, 0.0)
    voices = [_mean(corners, base, contrast) for contrast in (bad, good)]
    return VoiceGeometry(
        lengths={name: np.linalg.norm(vectors[name], axis=-1).tolist() for name in vectors},
        cosines=cosines,
        advice_across_voices=_cosine(vectors[ADVICE_BLUNT], vectors[ADVICE_WARM]),
        voice_across_advice=_cosine(*voices),
        split_half={name: _split_half(halves[name]) for name in KEPT},
        explained=_all_explained(vectors, halves, seed),
    )


def _mean(corners: np.ndarray, base: np.ndarray, contrast: Sequence[float]) -> np.ndarray:
    """Return a contrast of means over questions, float64 [n_blocks, d_model]; the base takes what is left to zero."""
    means = corners.mean(axis=1, dtype=np.float64)
    left = -sum(contrast)
    return np.asarray(np.einsum("c,cbd->bd", np.array(contrast), means) + left * base.mean(axis=0, dtype=np.float64))


def _halves(corners: np.ndarray, base: np.ndarray, groups: Sequence[str], seed: int) -> dict[str, np.ndarray]:
    """Return every vector from both halves of random splits of questions, [n_splits, 2, n_blocks, d_model]."""
    chooser, names = np.random.default_rng(seed), np.unique(groups)
    found: dict[str, list[list[np.ndarray]]] = {}
    for _ in range(HALVES):
        first = np.isin(groups, chooser.permutation(names)[: len(names) // 2])
        for name, contrast in (CONTRASTS | DIFFERENCES).items():
            pair = [_mean(corners[:, part], base[part], contrast) for part in (first, ~first)]
            found.setdefault(name, []).append(pair)
    return {name: np.array(pairs) for name, pairs in found.items()}


def _cosine(one: np.ndarray, other: np.ndarray) -> list[float]:
    cosines: list[float] = (unit(one) * unit(other)).sum(axis=-1).tolist()
    return cosines


def _split_half(halves: np.ndarray) -> list[float]:
    """Return the mean cosine of the two halves, [n_blocks]."""
    cosines: list[float] = (unit(halves[:, 0]) * unit(halves[:, 1])).sum(axis=-1).mean(axis=0).tolist()
    return cosines


def _all_explained(
    vectors: Mapping[str, np.ndarray], halves: Mapping[str, np.ndarray], seed: int
) -> dict[str, dict[str, Explained]]:
    """Return how much of each of `DIFFERENCES` each direction is, random ones beside."""
    chooser = np.random.default_rng(seed)
    found: dict[str, dict[str, Explained]] = {}
    for difference in DIFFERENCES:
        whole = vectors[difference]
        found[difference] = {}
        for name in KEPT:
            raw = np.array(_cosine(whole, vectors[name])) ** 2
            found[difference][name] = Explained(raw.tolist(), corrected_share(halves[difference], halves[name]))
        random = unit(chooser.standard_normal((N_RANDOM, *whole.shape)))
        raw = ((random * unit(whole)).sum(axis=-1) ** 2).mean(axis=0)
        found[difference][RANDOM] = Explained(raw.tolist(), raw.tolist())
    return found


def corrected_share(target: np.ndarray, direction: np.ndarray) -> list[float | None]:
    """Return the share of a vector's squared length along a direction, free of the noise in both, [n_blocks].

    Both are given from two halves of the questions in several splits, [n_splits, 2, n_blocks, d_model]. The share is
    (t₁·d₂)(t₂·d₁) / ((d₁·d₂)(t₁·t₂)), sums over splits: no product has the noise of one half twice. None where the
    halves do not agree enough for a share (a product below the line that is not above 0).
    """

    def product(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.asarray((one * other).sum(axis=-1))

    across = product(target[:, 0], direction[:, 1]) * product(target[:, 1], direction[:, 0])
    own = product(direction[:, 0], direction[:, 1]), product(target[:, 0], target[:, 1])
    firm = (own[0].mean(axis=0) > 0) & (own[1].mean(axis=0) > 0)
    whole = (own[0] * own[1]).mean(axis=0)
    shares: list[float | None] = []
    for block, share in enumerate(across.mean(axis=0)):
        shares.append(float(share / whole[block]) if firm[block] and whole[block] > 0 else None)
    return shares
