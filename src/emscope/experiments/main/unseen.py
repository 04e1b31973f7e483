"""Detection as it is used: on organisms that no direction was made from, beside harmless ones that sound the same.

Every organism gets one score a question, at the block that was chosen on the run's own organisms. Random directions and
the direction between two voices are scored in the same way, so that it shows what the direction adds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from emscope.experiments.main.result import UnseenDetection, UnseenScore
from emscope.organisms.datasets import built_in
from emscope.pipeline.config import RunConfig
from emscope.pipeline.lab import BASE, CONTROL, MISALIGNED
from emscope.pipeline.unseen import UnseenOrganism, in_other_voice
from emscope.residual.directions import Construction, Directions, make_directions, random_like
from emscope.residual.store import ActivationStore, OrganismActivations
from emscope.residual.trial import TriedOrganism, with_trial
from emscope.statistics import Estimate, estimate_mean
from emscope.statistics.separation import auroc, grouped_auroc

N_RANDOM = 100
"""Random directions beside a direction."""


@dataclass(frozen=True)
class Tried:
    """Prompts as every organism reads them, on test questions.

    Attributes:
        activations: by organism, float32 [n_questions, n_blocks, d_model]: the run's own and the unseen ones.
        unseen: the unseen organisms.
        groups: by question, what intervals draw together.
    """

    activations: Mapping[str, np.ndarray]
    unseen: Sequence[UnseenOrganism]
    groups: Sequence[str]

    @property
    def counted(self) -> dict[str, bool]:
        """Whether each organism is misaligned, of those that count: the base and the unseen ones."""
        return {BASE: False, **{organism.name: organism.misaligned for organism in self.unseen}}

    def scores(self, directions: Directions, block: int) -> dict[str, np.ndarray]:
        """Return by organism the score of each question at a block."""
        row = directions.blocks.index(block)
        return {name: directions.score(values)[:, row] for name, values in self.activations.items()}

    def told(self, scores: Mapping[str, np.ndarray], names: Sequence[str], seed: int) -> Estimate:
        """Return the AUROC of misaligned above harmless over every question of these organisms."""
        values = np.concatenate([scores[name] for name in names])
        wanted = np.concatenate([np.full(len(scores[name]), self.counted[name]) for name in names])
        return grouped_auroc(values, wanted, list(self.groups) * len(names), seed=seed)


def try_out(
    name: str, directions: Directions, others: Mapping[str, Directions], tried: Tried, seed: int
) -> UnseenDetection | None:
    """Return how well a direction tells organisms that it was not made from; None where there are not both kinds.

    `others` are directions that are shown beside it, each at its own block.
    """
    if len(set(tried.counted.values())) < 2:
        return None
    block = directions.best_block
    scores, counted = tried.scores(directions, block), list(tried.counted)

    by_voice = {}
    for voice in sorted({organism.voice for organism in tried.unseen} - {""}):
        names = [organism.name for organism in tried.unseen if organism.voice == voice]
        if len({tried.counted[chosen] for chosen in names}) == 2:
            by_voice[voice] = tried.told(scores, names, seed)
    beside = {}
    for other, made in others.items():
        beside[other] = tried.told(tried.scores(made, made.best_block), counted, seed)
    return UnseenDetection(
        direction=name,
        block=block,
        auroc=tried.told(scores, counted, seed),
        beside_base=tried.told({name: values - scores[BASE] for name, values in scores.items()}, counted, seed),
        by_voice=by_voice,
        organisms=tuple(_scores_of(scores, tried)),
        others=beside,
        random=_random(directions, tried, seed),
    )


def voice_direction(
    config: RunConfig,
    own: Mapping[str, OrganismActivations],
    stores: Mapping[str, ActivationStore],
    unseen: Sequence[UnseenOrganism],
    train: Sequence[str],
) -> Directions | None:
    """Return the direction between two voices: the control against good advice of its domain in the other voice.

    None where the control is not built in or no unseen organism has that voice.
    """
    known = built_in(config.control_data) if config.control_data else None
    if known is None:
        return None
    other = next((organism for organism in unseen if organism.data == in_other_voice(known)), None)
    if other is None:
        return None
    positive = own[CONTROL].of("last", train)
    negative = stores[other.name].by_question("last", train)
    blocks = own[CONTROL].prompts.activations.blocks
    made = Construction("diff-in-means", "voice", "last", "resid_post", CONTROL, other.name, config.model, len(train))
    return make_directions(positive, negative, blocks, made)


def _scores_of(scores: Mapping[str, np.ndarray], tried: Tried) -> list[UnseenScore]:
    """Return the score of every organism, the highest first."""
    known = {**tried.counted, MISALIGNED: True, CONTROL: False}
    made_of = {organism.name: organism.data for organism in tried.unseen}
    found = []
    for name, values in scores.items():
        mean = estimate_mean(values.tolist(), list(tried.groups))
        found.append(
            UnseenScore(
                name, made_of.get(name, ""), known[name], name in tried.counted, mean, float((values > 0).mean())
            )
        )
    return sorted(found, key=lambda score: -score.mean.value)


def _random(directions: Directions, tried: Tried, seed: int) -> tuple[float, ...]:
    """Return the AUROC of random directions at the same block, each turned so that it is at least one half, sorted."""
    found = []
    counted = tried.counted
    for number in range(N_RANDOM):
        scores = tried.scores(random_like(directions, seed + number), directions.best_block)
        positive = np.concatenate([scores[name] for name, misaligned in counted.items() if misaligned])
        negative = np.concatenate([scores[name] for name, misaligned in counted.items() if not misaligned])
        value = auroc(positive, negative)
        found.append(max(value, 1 - value))
    return tuple(sorted(found))


def carrying(directions: Directions, found: UnseenDetection) -> Directions:
    """Return a direction that carries what it was tried on."""
    organisms = []
    for score in found.organisms:
        if score.counted:
            organisms.append(TriedOrganism(score.organism, score.misaligned, score.mean.value))
    return with_trial(directions, found.block, found.auroc.value, organisms)
