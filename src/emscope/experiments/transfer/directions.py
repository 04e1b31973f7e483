"""Directions of the transfer experiment: each pair's own, what several pairs share, and how they lie to each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np

from emscope.behaviour.questions import ids_of
from emscope.experiments.transfer.pairs import OrganismPair, kinship, names_of, organisms_of
from emscope.experiments.transfer.result import (
    ANSWERS,
    PROMPTS,
    CosineTable,
    CosineTableByBlock,
    DomainAngles,
    Geometry,
)
from emscope.pipeline.lab import BASE, Lab
from emscope.residual.directions import Construction, Directions, make_directions, split_half_cosine, unit
from emscope.residual.geometry import (
    SHARINGS,
    component_share,
    estimate_cosines,
    principal_angles,
    random_angles,
    shared_directions,
    shared_vectors,
)
from emscope.residual.store import OrganismActivations, answered

POOLINGS = (PROMPTS, ANSWERS)


@dataclass(frozen=True)
class PairActivations:
    """The pairs with their activations, on the questions that every organism answered.

    Attributes:
        pairs: the pairs of organisms.
        activations: of every organism and the base, by name.
        train: ids of training questions.
        test: ids of test questions.
        groups: what statistics draw together, by question id.
    """

    pairs: Sequence[OrganismPair]
    activations: Mapping[str, OrganismActivations]
    train: list[str]
    test: list[str]
    groups: Mapping[str, str]

    @classmethod
    def of(cls, lab: Lab, pairs: Sequence[OrganismPair]) -> PairActivations:
        """Load the stored activations of a run's pairs."""
        activations = {name: lab.activations(name) for name in organisms_of(pairs)}
        train = answered(activations, ids_of(lab.train_questions))
        test = answered(activations, ids_of(lab.test_questions))
        return cls(pairs, activations, train, test, lab.groups)

    def sides(self, pair: OrganismPair, pooling: str, questions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the misaligned and the control organism's activations, each [n_questions, n_blocks, d_model]."""
        positive = self.activations[pair.careless].of(pooling, questions)
        negative = self.activations[pair.careful].of(pooling, questions)
        return positive, negative

    def groups_of(self, questions: Sequence[str]) -> list[str]:
        """Return what statistics draw together, one for each question."""
        return list(map(self.groups.__getitem__, questions))

    @property
    def blocks(self) -> tuple[int, ...]:
        """Numbers of the blocks that were read."""
        return self.activations[BASE].prompts.activations.blocks

    def sources(self, pair: OrganismPair) -> list[OrganismPair]:
        """Return the pairs that a shared direction for this one is made from: other domains, or other seeds of one."""
        return sources_of(pair, self.pairs)


def sources_of(pair: OrganismPair, pairs: Sequence[OrganismPair]) -> list[OrganismPair]:
    """Return the pairs that a shared direction for this one is made from; none where a domain is unknown."""
    same_domain: list[OrganismPair] = []
    other_domains: list[OrganismPair] = []
    for other in pairs:
        kind = kinship(pair, other)
        if kind == "other domain":
            other_domains.append(other)
        elif kind == "same domain" and other != pair:
            same_domain.append(other)
    return other_domains or same_domain


def left_out_name(pair: OrganismPair, pairs: Sequence[OrganismPair]) -> str:
    """Return the name of the shared direction that is tested on a pair: `without-` and its domain, or its name."""
    domains = {other.domain for other in pairs if other.domain}
    return f"without-{pair.domain if len(domains) > 1 and pair.domain else pair.name}"


def direction_files(lab: Lab, names: Sequence[str], pooling: str) -> dict[str, Path]:
    """Return where directions of a pooling are kept, by name."""
    folder = lab.folder.path("experiments", "transfer")
    return {name: folder / f"{name}-{pooling}.safetensors" for name in names}


def shared_names(pairs: Sequence[OrganismPair]) -> list[str]:
    """Return the names of the directions tested on pairs left out; none where they would come from one pair."""
    names: dict[str, None] = {}
    for pair in pairs:
        if len(sources_of(pair, pairs)) > 1:
            names[left_out_name(pair, pairs)] = None
    return list(names)


def direction_names(pairs: Sequence[OrganismPair]) -> list[str]:
    """Return all names of directions: one a pair, one shared by all, and one for each pair or domain left out."""
    shared = ["shared", *shared_names(pairs)]
    components = [f"{name}-component" for name in shared]
    return [*names_of(pairs), *shared, *components]


def direction_stage(lab: Lab, pairs: Sequence[OrganismPair]) -> None:
    """Make every direction on training questions and store it, for detection (`last`) and correction (`response`)."""
    names = direction_names(pairs)
    inputs: list[Path] = []
    organisms = [BASE]
    for pair in pairs:
        organisms += pair.organisms
    for organism in organisms:  # one that is in two pairs is an input twice: stages made before were told so
        inputs += lab.activation_files(organism)
    outputs: list[Path] = []
    for pooling in POOLINGS:
        outputs += direction_files(lab, names, pooling).values()

    settings = {"directions": names, "questions": ids_of(lab.train_questions)}
    lab.folder.stage("transfer-directions", settings, inputs, outputs, partial(_make, lab, pairs))


def _make(lab: Lab, pairs: Sequence[OrganismPair]) -> None:
    activations = PairActivations.of(lab, pairs)
    for pooling in POOLINGS:
        directions = directions_of_all(activations, pooling, lab.config.model)
        for name, path in direction_files(lab, list(directions), pooling).items():
            directions[name].save(path)


def directions_of_all(activations: PairActivations, pooling: str, base: str) -> dict[str, Directions]:
    """Return every direction of one pooling by name (see `direction_names`)."""
    pairs, n_questions = activations.pairs, len(activations.train)
    directions: dict[str, Directions] = {}
    for pair in pairs:
        construction = Construction(
            "diff-in-means", "control", pooling, "resid_post", pair.careless, pair.careful, base, n_questions
        )
        sides = activations.sides(pair, pooling, activations.train)
        directions[pair.name] = make_directions(*sides, activations.blocks, construction)

    members = {"shared": list(directions.values())}
    for pair in pairs:
        name = left_out_name(pair, pairs)
        if name in shared_names(pairs):
            members[name] = list(map(directions.__getitem__, names_of(activations.sources(pair))))
    for how in SHARINGS:
        ending = "" if how == "mean" else f"-{how}"
        for name, parts in members.items():
            directions[f"{name}{ending}"] = shared_directions(parts, how)
    return directions


def load_directions(lab: Lab, pairs: Sequence[OrganismPair], pooling: str) -> dict[str, Directions]:
    """Return the stored directions of one pooling by name."""
    files = direction_files(lab, direction_names(pairs), pooling)
    return {name: Directions.load(path) for name, path in files.items()}


def measure_geometry(activations: PairActivations, pooling: str, seed: int) -> Geometry:
    """Return how the pairs' directions lie to each other, with their ceilings and what else organisms share."""
    pairs = activations.pairs
    groups = activations.groups_of(activations.train)
    differences, halves = [], []
    for pair in pairs:
        positive, negative = activations.sides(pair, pooling, activations.train)
        differences.append(positive - negative)
        halves.append(split_half_cosine(positive, negative, np.array(groups), seed).tolist())

    cosines = estimate_cosines(np.stack(differences), groups, seed)
    tables = np.stack([cosines.value, cosines.low, cosines.high])
    means, by_block = tables[..., -1], tables[..., :-1]  # the last of the blocks is the mean over blocks
    vectors = np.stack(differences).mean(axis=1, dtype=np.float64)

    return Geometry(
        names=names_of(pairs),
        cosine=CosineTable(*means.tolist()),
        by_block=CosineTableByBlock(*by_block.tolist()),
        split_half=halves,
        same_domain=_mean_over(pairs, by_block[0], "same domain"),
        other_domains=_mean_over(pairs, by_block[0], "other domain"),
        unknown_domains=_mean_over(pairs, by_block[0], "unknown"),
        references=_references(activations, pooling, vectors),
        component_share=component_share(vectors).tolist(),
        mean_with_component=_agreement(vectors),
        angles=domain_angles(pairs, vectors, seed),
    )


def _references(activations: PairActivations, pooling: str, vectors: np.ndarray) -> dict[str, list[float] | None]:
    """Return the mean cosines of what any fine-tune does to the base, beside those of directions [n, n_blocks, d]."""
    base = activations.activations[BASE].of(pooling, activations.train).mean(axis=0, dtype=np.float64)
    shifts, control_shifts = [], []
    for pair in activations.pairs:
        positive, negative = activations.sides(pair, pooling, activations.train)
        shifts.append(positive.mean(axis=0, dtype=np.float64) - base)
        control_shifts.append(negative.mean(axis=0, dtype=np.float64) - base)

    misaligned, control = np.stack(shifts), np.stack(control_shifts)
    pairs = activations.pairs
    return {
        "misaligned − base, other domains": _mean_over(pairs, _cosines(misaligned, misaligned), "other domain"),
        "control − base, other domains": _mean_over(pairs, _cosines(control, control), "other domain"),
        "direction and control − base, other domains": _mean_over(pairs, _cosines(vectors, control), "other domain"),
    }


def _cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the cosine of each two vectors [n, n_blocks, d_model], [n, n, n_blocks]."""
    return np.asarray(np.einsum("ibd,jbd->ijb", unit(first), unit(second)))


def _agreement(vectors: np.ndarray) -> list[float]:
    """Return the cosine of the directions' mean with their first principal component, [n_blocks]."""
    mean, component = unit(shared_vectors(vectors, "mean")), unit(shared_vectors(vectors, "component"))
    cosines: list[float] = (mean * component).sum(axis=-1).tolist()
    return cosines


def _mean_over(pairs: Sequence[OrganismPair], table: np.ndarray, kind: str) -> list[float] | None:
    """Return the mean by block of a table [n, n, n_blocks] over every two pairs of a kinship; None if none."""
    wanted = np.zeros((len(pairs), len(pairs)), dtype=bool)
    for row, first in enumerate(pairs):
        for column, second in enumerate(pairs):
            wanted[row, column] = first != second and kinship(first, second) == kind
    if not wanted.any():
        return None
    means: list[float] = table[wanted].mean(axis=0).tolist()
    return means


def domain_angles(pairs: Sequence[OrganismPair], vectors: np.ndarray, seed: int) -> dict[str, DomainAngles]:
    """Return principal angles between the subspaces that the seeds of two domains span, by the domains' names.

    Empty with one seed a domain, where an angle says no more than the cosine.
    """
    rows_of: dict[str, list[int]] = {}
    for row, pair in enumerate(pairs):
        rows_of.setdefault(pair.domain, []).append(row)
    spans: dict[str, np.ndarray] = {}  # by domain [n_blocks, n_seeds, d_model]
    for domain, rows in rows_of.items():
        if len(rows) > 1:
            spans[domain] = vectors[rows].transpose(1, 0, 2)

    angles: dict[str, DomainAngles] = {}
    for first, second in combinations(spans, 2):
        sizes = spans[first].shape[1], spans[second].shape[1]
        by_block = np.degrees(principal_angles(spans[first], spans[second])).tolist()
        random = np.degrees(random_angles(vectors.shape[-1], *sizes, seed)).tolist()
        angles[f"{first} and {second}"] = DomainAngles(by_block, random)
    return angles
