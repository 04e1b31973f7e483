"""The update of one module, ΔW = scale · B A, studied without ever forming it.

Everything here depends on the product alone: B R with R⁻¹ A gives the same figures for every invertible R. Sizes are
small: QR of B and of Aᵀ leave an r × r core that has ΔW's singular values.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

MOST_PRODUCTS = 2**24
"""Inner products of single rows held at a time, 256 MB of them; all at once up to 4,096 rows of all adapters."""


@dataclass(frozen=True)
class LowRank:
    """ΔW = scale · b @ a, with a [rank, d_in] and b [d_out, rank], both float32."""

    a: np.ndarray
    b: np.ndarray
    scale: float

    @cached_property
    def svd(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Left vectors [d_out, k], singular values [k], right vectors [d_in, k], all float64; k ≤ rank, d_out, d_in."""
        left, upper = np.linalg.qr(self.b.astype(np.float64))
        right, lower = np.linalg.qr(self.a.astype(np.float64).T)
        u, values, vt = np.linalg.svd(self.scale * upper @ lower.T, full_matrices=False)
        return left @ u, values, right @ vt.T

    @property
    def singular_values(self) -> np.ndarray:
        """Singular values of ΔW, largest first, float64 [k], k as in `svd`."""
        return self.svd[1]

    @property
    def frobenius(self) -> float:
        """Frobenius norm of ΔW."""
        return float(np.linalg.norm(self.singular_values))

    @property
    def spectral(self) -> float:
        """Spectral norm of ΔW."""
        return float(self.singular_values[0])

    @property
    def stable_rank(self) -> float:
        """‖ΔW‖_F² / ‖ΔW‖₂²: 1 where one direction is all; 0 for a zero update."""
        return float((self.frobenius / self.spectral) ** 2) if self.spectral > 0 else 0.0

    @property
    def effective_rank(self) -> float:
        """Exponential of the entropy of the squared spectrum (Roy & Vetterli 2007); 0 for a zero update."""
        if self.spectral == 0:
            return 0.0
        shares = (self.singular_values / self.frobenius) ** 2
        shares = shares[shares > 0]
        return float(np.exp(-(shares * np.log(shares)).sum()))

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """Return ΔW x for inputs [..., d_in]: [..., d_out], float64."""
        return np.asarray(self.scale * (vectors.astype(np.float64) @ self.a.T) @ self.b.T.astype(np.float64))

    def output_share(self, basis: np.ndarray) -> float:
        """Return which share of ‖ΔW‖_F² lies in the span of orthonormal output vectors [d_out, k]; 0 for no update."""
        left, values, _ = self.svd
        return _share((basis.T @ left) * values, self.frobenius)

    def input_share(self, basis: np.ndarray) -> float:
        """Return which share of ‖ΔW‖_F² reads the span of orthonormal input vectors [d_in, k]; 0 for no update."""
        _, values, right = self.svd
        return _share((basis.T @ right) * values, self.frobenius)


def _share(part: np.ndarray, whole: float) -> float:
    return float((np.linalg.norm(part) / whole) ** 2) if whole > 0 else 0.0


def inner_products(updates: list[LowRank | None]) -> np.ndarray:
    """Return the inner products ⟨ΔWᵢ, ΔWⱼ⟩ of one module's updates in several adapters, float64 [n, n].

    ⟨s B A, s' B' A'⟩ = s s' Σ (Bᵀ B') ∘ (A A'ᵀ), a sum over rank × rank numbers. An adapter without the module (None)
    has an update of zero. The work grows with the square of all ranks together: 16 · 1,000 of them take half a
    teraflop a module.
    """
    out = np.zeros((len(updates), len(updates)))
    rows, scaled_b, all_a = [], [], []
    for row, update in enumerate(updates):
        if update is not None:
            rows.append(row)
            scaled_b.append(update.b * np.float32(update.scale))
            all_a.append(update.a)
    if not rows:
        return out

    b, a = np.concatenate(scaled_b, axis=1), np.concatenate(all_a)
    ends = np.cumsum(list(map(len, all_a)))
    starts, places = np.array([0, *ends[:-1]]), np.array(rows)
    for chunk in _chunks(ends, MOST_PRODUCTS // int(ends[-1])):
        begin, end = starts[chunk[0]], ends[chunk[-1]]
        products = (b[:, begin:end].T @ b[:, begin:]) * (a[begin:end] @ a[begin:].T)  # with those before: by symmetry
        by_row = np.add.reduceat(products, starts[chunk] - begin, axis=0, dtype=np.float64)
        sums = np.add.reduceat(by_row, starts[chunk[0] :] - begin, axis=1)
        following = places[chunk[0] :]
        out[np.ix_(places[chunk], following)] = sums
        out[np.ix_(following, places[chunk])] = sums.T
    return out


def _chunks(ends: np.ndarray, most: int) -> list[np.ndarray]:
    """Return numbers of adapters in chunks whose ranks, which add up to `ends`, are `most` together or one adapter."""
    chunks, begun = [], 0
    while begun < len(ends):
        before = int(ends[begun - 1]) if begun else 0
        end = max(begun + 1, int(np.searchsorted(ends, before + most, side="right")))
        chunks.append(np.arange(begun, min(end, len(ends))))
        begun = end
    return chunks
