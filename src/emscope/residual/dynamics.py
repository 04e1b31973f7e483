"""Paths of adapter matrices through training, from the inner products of their checkpoints alone.

Norms, turns, cosines between moves and the principal components of the path all follow from one small matrix of inner
products per adapter matrix, so no checkpoint is read twice. For each adapted module there are three paths: A, B, and
the update BA, which does not depend on how it is split into B and A (BR and R⁻¹A are the same update).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from emscope.errors import OutsideError, UserError
from emscope.organisms.checkpoints import ADAPTER_WEIGHTS
from emscope.organisms.tensor_file import TensorFile, computing, open_tensors
from emscope.tensors import load_tensors, save_tensors

FACTORS = ("A", "B", "BA")
"""The two matrices of a LoRA adapter, and their product."""
WRAPPER = "base_model.model."
A_WEIGHT, B_WEIGHT = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True)
class MatrixPath:
    """The path of one matrix, or of several laid end to end, as inner products of its positions.

    Attributes:
        gram: inner products of the flattened matrix at each pair of checkpoints, float64 [n, n].
    """

    gram: np.ndarray

    @property
    def norms(self) -> np.ndarray:
        """Frobenius norm at each checkpoint, [n]."""
        return np.sqrt(np.maximum(np.diag(self.gram), 0.0))

    @property
    def cosine_to_final(self) -> np.ndarray:
        """Cosine of each checkpoint's matrix with the last one's, [n]; NaN where the matrix is zero."""
        return _cosine(self.gram[:, -1], self.norms * self.norms[-1])

    @property
    def cosine_to_previous(self) -> np.ndarray:
        """Cosine of each checkpoint's matrix with the one before, [n]; NaN at the first and where one is zero."""
        cosines = _cosine(np.diag(self.gram, 1), self.norms[1:] * self.norms[:-1])
        return np.concatenate([[np.nan], cosines])

    @property
    def step_lengths(self) -> np.ndarray:
        """Distance from the checkpoint before, [n]; NaN at the first."""
        squares = np.diag(self.gram)[1:] + np.diag(self.gram)[:-1] - 2 * np.diag(self.gram, 1)
        return np.concatenate([[np.nan], np.sqrt(np.maximum(squares, 0.0))])

    def local_cosine(self, k: int, shortest: float = 0.0) -> np.ndarray:
        """Return cos(B[t−k] − B[t], B[t+k] − B[t]) at each checkpoint t, [n] (Turner et al. 2506.11613).

        Both differences point away from t: −1 is a straight path, 0 a right-angled turn, +1 a step back the way it
        came. NaN within k of an end, and where a leg is shorter than `shortest` times the longest leg of that k.
        """
        n, result = len(self.gram), np.full(len(self.gram), np.nan)
        if n <= 2 * k:
            return result
        here, before, after = np.arange(k, n - k), np.arange(n - 2 * k), np.arange(2 * k, n)
        gram = self.gram

        def distance(there: np.ndarray) -> np.ndarray:
            squares = gram[there, there] + gram[here, here] - 2 * gram[there, here]
            return np.asarray(np.sqrt(np.maximum(squares, 0.0)))

        inner = gram[before, after] - gram[before, here] - gram[here, after] + gram[here, here]
        arriving, leaving = distance(before), distance(after)
        longest = max(arriving.max(), leaving.max())
        long_enough = np.minimum(arriving, leaving) >= shortest * longest
        result[here] = np.where(long_enough, _cosine(inner, arriving * leaving), np.nan)
        return result

    def principal_components(self, n_components: int = 3) -> tuple[np.ndarray, np.ndarray]:
        """Return the checkpoints' coordinates [n, n_components] about their mean, and the share of variance of each."""
        n = len(self.gram)
        centring = np.eye(n) - 1 / n
        values, vectors = np.linalg.eigh(centring @ self.gram @ centring)
        values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
        coordinates = vectors[:, :n_components] * np.sqrt(values[:n_components])
        signs = np.where(coordinates[-1] < 0, -1.0, 1.0)  # a component's sign is free: the path ends on the right
        return coordinates * signs, values[:n_components] / max(float(values.sum()), 1e-300)

    def shuffled(self, seed: int) -> MatrixPath:
        """Return the path of the same moves in random order: the same start and end, no special time to turn."""
        n = len(self.gram)
        moves = np.eye(n) - np.eye(n, k=-1)  # row 0 is the start itself
        order = np.concatenate([[0], 1 + np.random.default_rng(seed).permutation(n - 1)])
        again = np.tri(n) @ moves[order]
        return MatrixPath(again @ self.gram @ again.T)


def _cosine(inner: np.ndarray, norms: np.ndarray) -> np.ndarray:
    return np.where(norms > 0, np.clip(inner / np.where(norms > 0, norms, 1.0), -1.0, 1.0), np.nan)


@dataclass(frozen=True)
class AdapterPaths:
    """The paths of every adapter matrix of one training.

    Attributes:
        modules: names of the adapted modules.
        steps: optimiser step of each checkpoint, 0 first.
        grams: for each of A, B and BA, float64 [n_modules, n_checkpoints, n_checkpoints]; BA without LoRA's scale.
    """

    modules: tuple[str, ...]
    steps: tuple[int, ...]
    grams: dict[str, np.ndarray]

    def whole(self, factor: str) -> MatrixPath:
        """Return the path of all matrices of one factor (A, B, or their product BA) laid end to end."""
        return MatrixPath(self.grams[factor].sum(axis=0))

    def of(self, factor: str) -> list[MatrixPath]:
        """Return the path of each module's matrix."""
        return [MatrixPath(gram) for gram in self.grams[factor]]

    def save(self, path: Path) -> None:
        """Write the paths."""
        save_tensors(path, self.grams, {"kind": "adapter paths", "modules": self.modules, "steps": self.steps})

    @classmethod
    def load(cls, path: Path) -> AdapterPaths:
        """Read paths.

        Raises:
            UserError: the file is missing, damaged or holds something else.
        """
        stored = load_tensors(path, "adapter paths")
        modules, steps = stored.metadata.texts("modules"), stored.metadata.wholes("steps")
        stored.sizes.update(modules=len(modules), steps=len(steps))
        grams = {factor: stored.array(factor, "modules", "steps", "steps") for factor in FACTORS}
        return cls(tuple(modules), tuple(steps), grams)


def read_paths(checkpoints: Sequence[Path], steps: Sequence[int]) -> AdapterPaths:
    """Return the paths through adapter folders, in order; before the first of them B, and so BA, is zero at step 0.

    A's first values are not on disk, so its path begins as it stands at the first checkpoint.

    Raises:
        UserError: fewer than two checkpoints, one that is not whole, or one with other modules.
    """
    if len(checkpoints) < 2:
        raise UserError("A path needs at least two checkpoints: train longer, or save more often.")
    files = [open_tensors(folder / ADAPTER_WEIGHTS) for folder in checkpoints]
    names = sorted(files[0].names)
    for file in files[1:]:
        if sorted(file.names) != names:
            raise UserError(
                f"{file.path} adapts other modules than {files[0].path}: these checkpoints are not of one training."
            )

    modules, of_a, of_b, of_product = [], [], [], []
    for name in names:
        if not name.endswith(A_WEIGHT):
            continue
        module = name.removesuffix(A_WEIGHT)
        a, b = _stacked(files, name), _stacked(files, f"{module}{B_WEIGHT}")
        inner_a, inner_b = torch.einsum("mri,nsi->mnrs", a, a), torch.einsum("mor,nos->mnrs", b, b)
        modules.append(module.removeprefix(WRAPPER))
        of_a.append(_from_first(_traces(inner_a)))
        of_b.append(_from_zero(_traces(inner_b)))
        of_product.append(_from_zero((inner_a * inner_b).sum(dim=(2, 3)).numpy()))

    grams = {"A": np.stack(of_a), "B": np.stack(of_b), "BA": np.stack(of_product)}
    return AdapterPaths(tuple(modules), (0, *steps), grams)


def _stacked(files: Sequence[TensorFile], name: str) -> torch.Tensor:
    """Return one factor at every checkpoint, float64 [checkpoints, rows, columns].

    Raises:
        UserError: it is not finite, or has another shape at some checkpoint.
    """
    tensors = [file.tensor(name) for file in files]
    for file, tensor in zip(files, tensors, strict=True):
        with computing(file.path):
            finite = bool(tensor.double().isfinite().all())
        if tensor.dim() != 2 or tensor.shape != tensors[0].shape:
            raise OutsideError(file.path, f"holds {name} in another shape than the first checkpoint", "train again")
        if not finite:
            raise OutsideError(file.path, f"holds NaN or infinite weights in {name}", "train again")
    # a move is small beside the matrix: the difference of two products has no digits left in float32
    return torch.stack([tensor.double() for tensor in tensors])


def _traces(inner: torch.Tensor) -> np.ndarray:
    return np.asarray(inner.diagonal(dim1=2, dim2=3).sum(dim=-1).numpy())


def _from_zero(gram: np.ndarray) -> np.ndarray:
    return np.pad(gram, ((1, 0), (1, 0)))


def _from_first(gram: np.ndarray) -> np.ndarray:
    return np.pad(gram, ((1, 0), (1, 0)), mode="edge")
