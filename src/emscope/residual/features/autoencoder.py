"""A sparse autoencoder for use: codes of activations, and what each feature writes into the residual stream.

Every decoder row has length 1 here, so a code is how far along its feature's direction a token lies; autoencoders with
longer rows are brought to that form when they are loaded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from scipy.sparse import csr_matrix, vstack
from torch import Tensor

from emscope.errors import UserError

Architecture = Literal["topk", "standard", "jumprelu", "gated"]
ROWS = 2048  # tokens encoded at a time: 2048 x 4608 pre-activations are 38 MB


@dataclass(frozen=True)
class SparseAutoencoder:
    """x̂ = b + Σⱼ aⱼ(x) wⱼ with few aⱼ > 0.

    Attributes:
        architecture: topk keeps the `k` largest pre-activations, standard those above 0, jumprelu those above a
            threshold of their own, gated those whose gate is open.
        encoder: float32 [d_model, n_features].
        encoder_bias: float32 [n_features].
        decoder: unit rows, float32 [n_features, d_model].
        decoder_bias: float32 [d_model].
        block: the block whose output it reads and writes.
        centred: whether the decoder's bias is taken off the input first.
        k: features a token, of topk.
        threshold: of jumprelu, float32 [n_features].
        gate: of gated: the gate's bias and the magnitude's log scale, float32 [2, n_features].
        scale: what codes are multiplied by so that decoder rows can have length 1; None for 1.
    """

    architecture: Architecture
    encoder: Tensor
    encoder_bias: Tensor
    decoder: Tensor
    decoder_bias: Tensor
    block: int
    centred: bool = True
    k: int = 0
    threshold: Tensor | None = None
    gate: Tensor | None = None
    scale: Tensor | None = None

    @property
    def n_features(self) -> int:
        """How many features there are."""
        return int(self.decoder.shape[0])

    @property
    def width(self) -> int:
        """d_model."""
        return int(self.decoder.shape[1])

    def check_width(self, d_model: int, n_blocks: int) -> None:
        """Refuse a model of another shape.

        Raises:
            UserError: the width differs, or the block does not exist there.
        """
        if self.width != d_model or not 0 <= self.block < n_blocks:
            raise UserError(
                f"This autoencoder is for width {self.width} and block {self.block}, but the model has width {d_model} "
                f"and {n_blocks} blocks."
            )

    def to(self, device: torch.device) -> SparseAutoencoder:
        """Return it on a device."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        moved: dict[str, Any] = {name: tensor.to(device) for name, tensor in tensors.items()}
        return replace(self, **moved)

    def encode(self, values: Tensor) -> Tensor:
        """Return the codes [n_tokens, n_features] of activations float32 [n_tokens, d_model]."""
        inputs = values - self.decoder_bias if self.centred else values
        products = inputs @ self.encoder
        codes = self._active(products)
        return codes if self.scale is None else codes * self.scale

    def _active(self, products: Tensor) -> Tensor:
        if self.gate is not None:
            opened = products + self.gate[0] > 0
            return torch.relu(products * self.gate[1].exp() + self.encoder_bias) * opened
        pre = products + self.encoder_bias
        if self.architecture == "topk":
            kept, places = pre.topk(min(self.k, pre.shape[-1]), dim=-1, sorted=False)
            return torch.zeros_like(pre).scatter_(-1, places, kept.relu_())
        codes = torch.relu(pre)
        return codes if self.threshold is None else codes * (pre > self.threshold)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the reconstruction [n_tokens, d_model] of codes [n_tokens, n_features]."""
        return codes @ self.decoder + self.decoder_bias

    def __call__(self, values: Tensor) -> Tensor:
        """Return the reconstruction of activations [n_tokens, d_model]."""
        return self.decode(self.encode(values))

    def written_by(self, values: Tensor, features: Tensor) -> Tensor:
        """Return what some features (int64 [n]) add to the reconstruction of activations, [n_tokens, d_model]."""
        return self.encode(values)[:, features] @ self.decoder[features]


def sparse_codes(autoencoder: SparseAutoencoder, values: np.ndarray) -> csr_matrix:
    """Return the codes of activations [n_tokens, d_model] as a sparse float32 matrix [n_tokens, n_features]."""
    parts = []
    with torch.inference_mode():
        for start in range(0, len(values), ROWS):
            rows = torch.from_numpy(values[start : start + ROWS]).to(autoencoder.decoder.device)
            parts.append(csr_matrix(autoencoder.encode(rows).cpu().numpy()))
    return vstack(parts, format="csr")


@dataclass(frozen=True)
class Quality:
    """How well an autoencoder describes activations it was not trained on.

    Attributes:
        variance_explained: 1 − Σ‖x − x̂‖² / Σ‖x − mean‖².
        features_per_token: mean number of active features (L0).
        dead: share of features that are active at none of these tokens.
        dense: share that are active at more than a tenth of them.
        n_tokens: how many tokens this was measured on.
    """

    variance_explained: float
    features_per_token: float
    dead: float
    dense: float
    n_tokens: int


def quality(autoencoder: SparseAutoencoder, values: np.ndarray, codes: csr_matrix) -> Quality:
    """Return the quality on activations [n_tokens, d_model] with the given codes."""
    decoder, bias = autoencoder.decoder.cpu().numpy(), autoencoder.decoder_bias.cpu().numpy()
    missed = 0.0
    for start in range(0, len(values), ROWS):
        rows = slice(start, start + ROWS)
        missed += float(np.square(values[rows] - bias - codes[rows] @ decoder).sum(dtype=np.float64))
    total = float(values.var(axis=0, dtype=np.float64).sum() * len(values))
    rates = codes.getnnz(axis=0) / len(values)
    per_token = codes.nnz / len(values)
    return Quality(1 - missed / total, per_token, float((rates == 0).mean()), float((rates > 0.1).mean()), len(values))
