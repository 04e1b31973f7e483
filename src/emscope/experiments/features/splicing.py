"""What a model loses with an autoencoder in it: the loss on held-out answers with a block's output replaced."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from emscope.experiments.features.corpus import CorpusPart
from emscope.experiments.features.result import NatsPerToken, SplicedLoss
from emscope.organisms.datasets import DOMAINS, Kind, Pair, load_domain
from emscope.organisms.device import OnEachDevice
from emscope.pipeline.lab import BASE, MISALIGNED, Lab
from emscope.residual.capture import encode_for_capture
from emscope.residual.features.autoencoder import SparseAutoencoder
from emscope.residual.features.tokens import answer_losses
from emscope.statistics import Estimate, bootstrap_questions

TEXTS = 60  # held-out texts that are read
READ: dict[str, Kind] = {BASE: "careful", MISALIGNED: "careless"}
"""The built-in answers that each organism reads: those it would give itself."""


def measure_spliced_losses(lab: Lab, autoencoder: SparseAutoencoder, fit: CorpusPart) -> dict[str, SplicedLoss]:
    """Return the loss of base and misaligned organism on held-out answers, by what stands in the block's place.

    recovered = (without − spliced) / (without − whole), where `without` puts the mean activation in place of each token
    (`recovered_from_zero`: zeros, an easier comparison). Intervals resample texts.
    """
    mean = torch.from_numpy(fit.tokens.values.mean(axis=0, dtype=np.float64).astype(np.float32))
    texts = _held_out_texts()

    losses: dict[str, SplicedLoss] = {}
    for name, kind in READ.items():
        organism = lab.organism(name)
        prompts, answers = [], []
        for text in texts:
            prompts.append(text.prompt)
            answers.append(text.answer(kind))
        chats = encode_for_capture(organism.tokenizer, prompts, answers, system=lab.config.sampling.system)
        replacements = _replacements(autoencoder, mean)
        sums: dict[str, np.ndarray] = {}
        for replacement, change in replacements.items():
            sums[replacement] = answer_losses(organism, chats, autoencoder.block, change)
        losses[name] = SplicedLoss(kind, _nats_per_token(sums), _recovered(sums, "mean"), _recovered(sums, "zero"))
    return losses


def _held_out_texts() -> list[Pair]:
    """Return every second held-out pair of answers of the built-in domains, up to TEXTS."""
    pairs: list[Pair] = []
    for domain in DOMAINS:
        pairs += [pair for pair in load_domain(domain) if pair.split == "heldout"]
    return pairs[::2][:TEXTS]


def _replacements(autoencoder: SparseAutoencoder, mean: Tensor) -> dict[str, Callable[[Tensor], Tensor] | None]:
    """Return what is put in place of the block's output, by name; None leaves it as it is."""
    moved_autoencoder, moved_mean = OnEachDevice(autoencoder), OnEachDevice(mean)

    def spliced(values: Tensor) -> Tensor:
        return moved_autoencoder.on(values.device)(values)

    def mean_everywhere(values: Tensor) -> Tensor:
        return moved_mean.on(values.device).expand_as(values)

    return {"whole": None, "spliced": spliced, "mean": mean_everywhere, "zero": torch.zeros_like}


def _nats_per_token(sums: Mapping[str, np.ndarray]) -> NatsPerToken:
    means = {name: float(table[:, 0].sum() / table[:, 1].sum()) for name, table in sums.items()}
    return NatsPerToken(**means)


def _recovered(sums: Mapping[str, np.ndarray], without: str) -> Estimate:
    """Return the share of the loss recovered, each text drawn whole."""
    table = np.stack([sums[without][:, 0], sums["spliced"][:, 0], sums["whole"][:, 0]], axis=1)

    def share(weights: np.ndarray) -> np.ndarray:
        replaced, spliced, whole = (weights @ table).T
        return np.asarray((replaced - spliced) / (replaced - whole))

    texts = list(map(str, range(len(table))))
    low, high = bootstrap_questions(texts, share)
    return Estimate(float(share(np.ones((1, len(table))))[0]), low, high, len(table))
