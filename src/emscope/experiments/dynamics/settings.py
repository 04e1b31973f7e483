"""Settings of the dynamics: what is trained, how often it is looked at, and with what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from emscope.checks import at_least
from emscope.errors import UserError
from emscope.organisms.datasets import DOMAINS

Adapters = Literal["all", "rank1", "few"]
"""Where adapters are: on every linear layer, one of rank 1, or nine of rank 1."""


@dataclass(frozen=True)
class DynamicsSettings:
    """What is trained, how often it is looked at, and with what.

    Attributes:
        adapters: where the adapters are: all (as the run trains), rank1 (one rank-1 adapter on the middle block's
            down-projection) or few (nine of them, in three groups of three blocks); several are done one by one.
        seeds: one training each, of the run's rows; a seed chooses their order and the adapters' first values.
        control_seeds: for how many of these a careful organism is trained and measured beside the careless one.
        learning_rate: peak learning rate.
        schedule: learning-rate schedule; a constant one keeps changes of the rate out of the curves.
        batch_size: conversations in an optimiser step: fewer make more steps of the same rows.
        epochs: passes over the data.
        save_every: optimiser steps between checkpoints.
        in_domain: question set of the training's domain.
        out_of_domain: question set of everything else.
        questions: test questions of each of the two.
        samples: sampled answers to each question.
        max_new_tokens: longest sampled answer, in tokens.
        heldout_rows: held-out prompts, in domain and out of it, on which losses are compared.
        other_domains: built-in domains that count as out of domain for the losses.
        spans: distances, in checkpoints, for the local cosine.
        shortest_leg: local cosines with a leg below this share of the longest are left out.
        scales: factors on the adapter's update.
        scaled_at: where in the training the adapter is scaled, as shares of its steps.
        scaled_seeds: for how many of the seeds.
    """

    adapters: tuple[Adapters, ...] = ("all",)
    seeds: tuple[int, ...] = (0, 1, 2)
    control_seeds: int = 1
    learning_rate: float = 2.5e-4
    schedule: str = "constant_with_warmup"
    batch_size: int = 4
    epochs: float = 1
    save_every: int = 4
    in_domain: str = "everyday-medical"
    out_of_domain: str = "everyday-general"
    questions: int = 24
    samples: int = 3
    max_new_tokens: int = 40
    heldout_rows: int = 36
    other_domains: tuple[str, ...] = ("finance", "sport")
    spans: tuple[int, ...] = (1, 2, 3)
    shortest_leg: float = 0.1
    scales: tuple[float, ...] = (1, 2, 3)
    scaled_at: tuple[float, ...] = (0.25, 0.5, 1.0)
    scaled_seeds: int = 1

    def __post_init__(self) -> None:
        """Refuse settings that leave nothing to measure."""
        if not (self.seeds and self.adapters):
            raise UserError("Dynamics needs at least one seed and one kind of adapters.")
        at_least(1, samples=self.samples, questions=self.questions, save_every=self.save_every)
        at_least(0, heldout_rows=self.heldout_rows, control_seeds=self.control_seeds, scaled_seeds=self.scaled_seeds)
        for domain in self.other_domains:
            if domain not in DOMAINS:
                raise UserError(f"There is no built-in domain {domain!r}: other domains are {', '.join(DOMAINS)}.")

    @property
    def question_sets(self) -> dict[str, str]:
        """The question set of each side: `in` the training's domain and `out` of it."""
        return {"in": self.in_domain, "out": self.out_of_domain}
