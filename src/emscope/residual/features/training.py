"""Training a top-k sparse autoencoder (Gao et al. 2406.04093) on a CPU's terms.

Only k of several thousand codes of a token are not zero. The encoder's forward product is the one dense multiplication
of a step; everything else (reconstruction, gradients of codes, decoder and encoder) touches k rows a token, written as
weighted sums of rows (`embedding_bag`), which is several times faster than the dense products of automatic
differentiation and gives the same gradients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from emscope import parts, progress
from emscope.errors import UserError
from emscope.organisms.adam import adam_arrays, restore_adam
from emscope.residual.features.autoencoder import SparseAutoencoder

AUXILIARY = 1 / 32  # weight of the dead features' loss (Gao et al. 2406.04093)
COOL_DOWN = 0.3  # share of the steps over which the learning rate falls to 0


@dataclass(frozen=True)
class AutoencoderSettings:
    """How a top-k autoencoder is trained.

    Attributes:
        expansion: features for each dimension of the residual stream.
        k: active features a token.
        epochs: passes over the tokens.
        batch_size: tokens in one optimiser step.
        learning_rate: Adam's.
        dead_after: a feature that was active at none of this many tokens counts as dead, and learns from what the
            living ones miss.
    """

    expansion: int = 8
    k: int = 32
    epochs: int = 8
    batch_size: int = 1024
    learning_rate: float = 3e-3
    dead_after: int = 50_000

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        if min(self.expansion, self.k, self.epochs, self.batch_size, self.dead_after) < 1 or self.learning_rate <= 0:
            raise UserError("An autoencoder needs an expansion, k, epochs, batch size and learning rate above 0.")


@dataclass(frozen=True)
class Trained:
    """A trained autoencoder and its loss (share of variance missed) at each step."""

    autoencoder: SparseAutoencoder
    losses: list[float]


def train_topk(
    values: np.ndarray, block: int, settings: AutoencoderSettings, seed: int = 0, device: str = "cpu"
) -> Trained:
    """Train on activations float32 [n_tokens, d_model] of one block.

    Raises:
        UserError: fewer tokens than one batch, or k beyond the number of features.
    """
    n_tokens, width = values.shape
    n_features = settings.expansion * width
    batch_size = min(settings.batch_size, n_tokens)
    if settings.k > n_features or n_tokens < 2:
        raise UserError(f"{settings.k} of {n_features} features cannot be trained on {n_tokens} tokens.")
    generator = torch.Generator().manual_seed(seed)
    mean = torch.from_numpy(values.mean(axis=0, dtype=np.float64).astype(np.float32))
    spread = float(np.sqrt(values.var(axis=0, dtype=np.float64).mean()))
    if not spread > 0:
        raise UserError("All tokens have the same activations: there is nothing to learn from them.")
    tokens = ((torch.from_numpy(values) - mean) / spread).to(device)
    model = _Model(tokens, n_features, settings, generator)
    per_epoch = n_tokens // batch_size
    steps = per_epoch * settings.epochs
    losses: list[float] = []
    order = torch.arange(n_tokens)
    slot = parts.Slot("autoencoder", lambda: [device, asdict(settings), seed, block, values])
    if slot.begun is not None:
        losses = list(slot.begun.value)
        order = torch.from_numpy(slot.begun.arrays["order"]).to(device)
        generator.set_state(torch.from_numpy(slot.begun.arrays["generator"]))
        model.restore(slot.begun.arrays)

    def state() -> parts.Part:
        chance = {"order": order.cpu().numpy(), "generator": generator.get_state().numpy()}
        return parts.Part(losses, {**model.arrays, **chance})

    with progress.task("training the autoencoder", steps * batch_size, "tokens") as advance:
        advance(len(losses) * batch_size)
        for step in range(len(losses), steps):
            if step % per_epoch == 0:
                order = torch.randperm(n_tokens, generator=generator).to(device)
            start = step % per_epoch * batch_size
            rate = min(1.0, (steps - step) / max(1.0, COOL_DOWN * steps))
            losses.append(model.step(tokens[order[start : start + batch_size]], rate))
            slot.save(state)
            advance(batch_size)
    slot.finish(state)
    return Trained(model.finished(block, mean.to(device), spread), losses)


class _Model:
    """Weights in training, on tokens centred and scaled to unit variance; encoder and decoder [n_features, width]."""

    def __init__(
        self, tokens: Tensor, n_features: int, settings: AutoencoderSettings, generator: torch.Generator
    ) -> None:
        self.settings, width = settings, tokens.shape[1]
        rows = torch.randn(n_features, width, generator=generator).to(tokens.device)
        self.decoder = rows / rows.norm(dim=1, keepdim=True)
        self.encoder = self.decoder.clone()
        self.encoder_bias, self.decoder_bias = tokens.new_zeros(n_features), tokens.new_zeros(width)
        self.idle = torch.zeros(n_features, dtype=torch.long, device=tokens.device)  # tokens since last active
        self.weights = [self.encoder, self.encoder_bias, self.decoder, self.decoder_bias]
        self.optimiser = torch.optim.Adam(self.weights, lr=settings.learning_rate, betas=(0.9, 0.999))

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """All that changes in training, by name."""
        return {**adam_arrays(self.optimiser), "idle": self.idle.cpu().numpy()}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Go back to where a training was when `arrays` were taken of it."""
        restore_adam(self.optimiser, arrays)
        self.idle = torch.from_numpy(arrays["idle"]).to(self.idle.device)

    def step(self, tokens: Tensor, rate: float) -> float:
        """Take one step and return the share of the variance that was missed."""
        inputs = tokens - self.decoder_bias
        pre = torch.addmm(self.encoder_bias, inputs, self.encoder.T)
        codes, places = pre.topk(self.settings.k, dim=1, sorted=False)
        codes = codes.relu_()
        error = self._write(codes, places) + self.decoder_bias - tokens
        scale = 2 / tokens.numel()
        active = torch.zeros_like(self.idle, dtype=torch.bool)
        active[places[codes > 0]] = True
        gradients = self._gradients(codes, places, error * scale, inputs)
        gradients[3] += (error * scale).sum(dim=0)
        for total, part in zip(gradients, self._revive(pre, inputs, error), strict=True):
            total += part
        self.idle = torch.where(active, 0, self.idle + len(tokens))
        self._update(gradients, rate)
        return float(error.square().mean())

    def _write(self, codes: Tensor, places: Tensor) -> Tensor:
        return embedding_bag(places, self.decoder, per_sample_weights=codes, mode="sum")

    def _gradients(self, codes: Tensor, places: Tensor, outer: Tensor, inputs: Tensor) -> list[Tensor]:
        """Return gradients of encoder, its bias, decoder and its bias, given that of the reconstruction (`outer`)."""
        leaf = codes.detach().requires_grad_()
        with torch.enable_grad():
            (inner,) = torch.autograd.grad(self._write(leaf, places), leaf, outer)
        inner = inner * (codes > 0)
        sort = torch.argsort(places.reshape(-1), stable=True)
        token = sort // places.shape[1]
        counts = torch.bincount(places.reshape(-1), minlength=len(self.decoder))
        starts = counts.cumsum(0) - counts

        def by_feature(weights: Tensor, rows: Tensor) -> Tensor:
            return embedding_bag(token, rows, starts, per_sample_weights=weights.reshape(-1)[sort], mode="sum")

        bias = torch.zeros_like(self.encoder_bias).index_add_(0, places.reshape(-1), inner.reshape(-1))
        return [by_feature(inner, inputs), bias, by_feature(codes, outer), -(bias @ self.encoder)]

    def _revive(self, pre: Tensor, inputs: Tensor, error: Tensor) -> list[Tensor]:
        """Return the gradients of the dead features' loss: they reconstruct what the living ones miss."""
        dead = torch.nonzero(self.idle >= self.settings.dead_after)[:, 0]
        if not len(dead):
            return [torch.zeros((), device=pre.device)] * 4
        codes, order = pre[:, dead].topk(min(2 * self.settings.k, len(dead)), dim=1, sorted=False)
        codes, places = codes.relu_(), dead[order]
        missed = self._write(codes, places) + error
        scale = 2 * AUXILIARY / float(error.square().sum()) if bool(error.any()) else 0.0
        found = self._gradients(codes, places, missed * scale, inputs)
        found[3].zero_()  # the shared bias belongs to the main loss
        return found

    def _update(self, gradients: list[Tensor], rate: float) -> None:
        along = (gradients[2] * self.decoder).sum(dim=1, keepdim=True)
        gradients[2] -= along * self.decoder  # rows keep their length
        for weight, gradient in zip(self.weights, gradients, strict=True):
            weight.grad = gradient
        self.optimiser.param_groups[0]["lr"] = self.settings.learning_rate * rate
        self.optimiser.step()
        self.decoder /= self.decoder.norm(dim=1, keepdim=True)

    def finished(self, block: int, mean: Tensor, spread: float) -> SparseAutoencoder:
        """Return the autoencoder for activations as the model has them: only biases know the scale."""
        return SparseAutoencoder(
            "topk",
            self.encoder.T.contiguous(),
            self.encoder_bias * spread,
            self.decoder,
            self.decoder_bias * spread + mean,
            block,
            k=self.settings.k,
        )
