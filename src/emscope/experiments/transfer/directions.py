"""Directions of the transfer experiment: each pair's own, what several pairs share, and how they lie to each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from emscope.experiments.transfer.pairs import OrganismPair, kinship
from emscope.pipeline.lab import BASE, Lab
from emscope.residual.directions import Construction, Directions, make_directions, split_half_cosine, unit
from emscope.residual.geometry import (
    SHARINGS,
    Cosines,
    component_share,
    estimate_cosines,
    principal_angles,
    random_angles,
    shared_directions,
    shared_vectors,
)
from emscope.residual.store import OrganismActivations, answered

POOLINGS = ("last", "response")
KINSHIPS = {"same domain": "same_domain", "other domain": "other_domains", "unknown": "unknown_domains"}
"""How two pairs relate, and the key of their mean cosines."""
SIDES = (("misaligned − base", 0), ("control − base", 1))


@dataclass(frozen=True)
class Bank:
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
    def of(cls, lab: Lab, pairs: Sequence[OrganismPair]) -> Bank:
        """Load the stored activations of a run's pairs."""
        names = [BASE, *(name for pair in pairs for name in pair.organisms)]
        activations = {name: lab.activations(name) for name in names}
        train, test = ([item.id for item in part] for part in (lab.train_questions, lab.test_questions))
        return cls(pairs, activations, answered(activations, train), answered(activations, test), lab.groups)

    def sides(self, pair: OrganismPair, pooling: str, questions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return what the misaligned and the control organism think, each [n_questions, n_blocks, d_model]."""
        high, low = (self.activations[name].of(pooling, questions) for name in pair.organisms)
        return high, low

    @property
    def blocks(self) -> tuple[int, ...]:
        """Numbers of the blocks that were read."""
        return self.activations[BASE].prompts.activations.blocks

    def sources(self, pair: OrganismPair) -> list[OrganismPair]:
        """Return the pairs that a shared direction for this one is made from: other domains, or other seeds of one."""
        return sources_of(pair, self.pairs)


def sources_of(pair: OrganismPair, pairs: Sequence[OrganismPair]) -> list[OrganismPair]:
    """Return the pairs that a shared direction for this one is made from; none where a domain is unknown."""
    kin = {kind: [other for other in pairs if other != pair and kinship(pair, other) == kind] for kind in KINSHIPS}
    return kin["other domain"] or kin["same domain"]


def left_out_name(pair: OrganismPair, pairs: Sequence[OrganismPair]) -> str:
    """Return the name of the shared direction that is tested on a pair: `without-` and its domain, or its name."""
    several = len({other.domain for other in pairs if other.domain}) > 1 and pair.domain
    return f"without-{pair.domain if several else pair.name}"


def direction_files(lab: Lab, names: Sequence[str], pooling: str) -> dict[str, Path]:
    """Return where directions of a pooling are kept, by name."""
    return {name: lab.folder.path("experiments", "transfer", f"{name}-{pooling}.safetensors") for name in names}


def shared_names(pairs: Sequence[OrganismPair]) -> list[str]:
    """Return the names of the directions tested on pairs left out; none where they would come from one pair."""
    several = (pair for pair in pairs if len(sources_of(pair, pairs)) > 1)
    return list(dict.fromkeys(left_out_name(pair, pairs) for pair in several))


def direction_names(pairs: Sequence[OrganismPair]) -> list[str]:
    """Return all names of directions: one a pair, one shared by all, and one for each pair or domain left out."""
    own, shared = [pair.name for pair in pairs], ["shared", *shared_names(pairs)]
    return [*own, *shared, *(f"{name}-component" for name in shared)]


def direction_stage(lab: Lab, pairs: Sequence[OrganismPair]) -> None:
    """Make every direction on training questions and store it, for detection (`last`) and correction (`response`)."""
    organisms = [BASE, *(name for pair in pairs for name in pair.organisms)]
    inputs = [path for name in organisms for path in lab.activation_files(name)]
    names = direction_names(pairs)
    outputs = [path for pooling in POOLINGS for path in direction_files(lab, names, pooling).values()]
    settings = {"directions": names, "questions": [question.id for question in lab.train_questions]}
    lab.folder.stage("transfer-directions", settings, inputs, outputs, partial(_make, lab, pairs))


def _make(lab: Lab, pairs: Sequence[OrganismPair]) -> None:
    bank = Bank.of(lab, pairs)
    for pooling in POOLINGS:
        made = make_bank_directions(bank, pooling, lab.config.model)
        for name, path in direction_files(lab, list(made), pooling).items():
            made[name].save(path)


def make_bank_directions(bank: Bank, pooling: str, base: str) -> dict[str, Directions]:
    """Return every direction of one pooling by name (see `direction_names`)."""
    made = {}
    for pair in bank.pairs:
        construction = Construction(
            "diff-in-means", "control", pooling, "resid_post", pair.careless, pair.careful, base, len(bank.train)
        )
        made[pair.name] = make_directions(*bank.sides(pair, pooling, bank.train), bank.blocks, construction)
    groups = {"shared": [made[pair.name] for pair in bank.pairs]}
    for pair in bank.pairs:
        name = left_out_name(pair, bank.pairs)
        if name in shared_names(bank.pairs):
            groups[name] = [made[source.name] for source in bank.sources(pair)]
    for how in SHARINGS:
        ending = "" if how == "mean" else f"-{how}"
        made |= {f"{name}{ending}": shared_directions(parts, how) for name, parts in groups.items()}
    return made


def load_bank_directions(lab: Lab, pairs: Sequence[OrganismPair], pooling: str) -> dict[str, Directions]:
    """Return the stored directions of one pooling by name."""
    files = direction_files(lab, direction_names(pairs), pooling)
    return {name: Directions.load(path) for name, path in files.items()}


def geometry_figures(bank: Bank, pooling: str, seed: int) -> dict[str, Any]:
    """Return how the pairs' directions lie to each other, with their ceilings and what else organisms share.

    Keys: `names`; `cosine.{value,low,high}` [n][n], means over blocks; `by_block.{value,low,high}` [n][n][n_blocks];
    `split_half` [n][n_blocks], the cosine of a direction with itself from other questions; `same_domain`,
    `other_domains` and `unknown_domains` [n_blocks], mean cosines of pairs, None without any; `references` by
    name [n_blocks]; `component_share` and `mean_with_component` [n_blocks]; `angles` between domains of several seeds.
    """
    sides = [bank.sides(pair, pooling, bank.train) for pair in bank.pairs]
    groups = [bank.groups[question] for question in bank.train]
    differences = np.stack([high - low for high, low in sides])
    found = estimate_cosines(differences, groups, seed)
    vectors = differences.mean(axis=1, dtype=np.float64)
    base = bank.activations[BASE].of(pooling, bank.train).mean(axis=0, dtype=np.float64)
    shifts = [np.stack([pair[side].mean(axis=0, dtype=np.float64) - base for pair in sides]) for _, side in SIDES]
    references = {
        f"{name}, other domains": _mean_over(bank.pairs, _cross(shift, shift), "other domain")
        for (name, _), shift in zip(SIDES, shifts, strict=True)
    }
    references["direction and control − base, other domains"] = _mean_over(
        bank.pairs, _cross(vectors, shifts[1]), "other domain"
    )
    return {
        "names": [pair.name for pair in bank.pairs],
        "cosine": _part(found, -1),
        "by_block": _part(found, slice(0, -1)),
        "split_half": [split_half_cosine(high, low, np.array(groups), seed).tolist() for high, low in sides],
        **{key: _mean_over(bank.pairs, found.value[:, :, :-1], kind) for kind, key in KINSHIPS.items()},
        "references": references,
        "component_share": component_share(vectors).tolist(),
        "mean_with_component": _agreement(vectors),
        "angles": domain_angles(bank.pairs, vectors, seed),
    }


def _part(found: Cosines, blocks: int | slice) -> dict[str, Any]:
    return {name: getattr(found, name)[:, :, blocks].tolist() for name in ("value", "low", "high")}


def _cross(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.asarray(np.einsum("ibd,jbd->ijb", unit(first), unit(second)))


def _agreement(vectors: np.ndarray) -> list[float]:
    mean, component = (unit(shared_vectors(vectors, how)) for how in SHARINGS)
    return [float(value) for value in (mean * component).sum(axis=-1)]


def _mean_over(pairs: Sequence[OrganismPair], table: np.ndarray, kind: str) -> list[float] | None:
    """Return the mean by block of a table [n, n, n_blocks] over every two pairs of a kinship; None if none."""
    wanted = np.array([[one != two and kinship(one, two) == kind for two in pairs] for one in pairs])
    return [float(value) for value in table[wanted].mean(axis=0)] if wanted.any() else None


def domain_angles(pairs: Sequence[OrganismPair], vectors: np.ndarray, seed: int) -> dict[str, Any]:
    """Return principal angles, in degrees, between the subspaces that the seeds of two domains span at each block.

    By the two domains' names: `by_block` [n_blocks][k] ascending, and `random` [k] for random subspaces. Empty with one
    seed a domain, where an angle says no more than the cosine.
    """
    spans: dict[str, list[int]] = {}
    for row, pair in enumerate(pairs):
        spans.setdefault(pair.domain, []).append(row)
    several = {domain: vectors[rows].transpose(1, 0, 2) for domain, rows in spans.items() if len(rows) > 1}
    found = {}
    for one, two in combinations(several, 2):
        sizes = several[one].shape[1], several[two].shape[1]
        found[f"{one} and {two}"] = {
            "by_block": np.degrees(principal_angles(several[one], several[two])).tolist(),
            "random": np.degrees(random_angles(vectors.shape[-1], *sizes, seed)).tolist(),
        }
    return found
