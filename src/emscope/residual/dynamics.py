"""How adapter matrices move through training, from the inner products of their checkpoints alone.

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

PARTS = ("A", "B", "BA")
WRAPPER = "base_model.model."


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
        found = _cosine(np.diag(self.gram, 1), self.norms[1:] * self.norms[:-1])
        return np.concatenate([[np.nan], found])

    @property
    def step_lengths(self) -> np.ndarray:
        """Distance from the checkpoint before, [n]; NaN at the first."""
        found = np.diag(self.gram)[1:] + np.diag(self.gram)[:-1] - 2 * np.diag(self.gram, 1)
        return np.concatenate([[np.nan], np.sqrt(np.maximum(found, 0.0))])

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
        inner = gram[before, after] - gram[before, here] - gram[here, after] + gram[here, here]
        legs = [
            np.sqrt(np.maximum(gram[other, other] + gram[here, here] - 2 * gram[other, here], 0.0))
            for other in (before, after)
        ]
        least = np.minimum(*legs)
        result[here] = np.where(least >= shortest * np.max(legs), _cosine(inner, legs[0] * legs[1]), np.nan)
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

    def whole(self, part: str) -> MatrixPath:
        """Return the path of all matrices of one part (A, B or BA) laid end to end."""
        return MatrixPath(self.grams[part].sum(axis=0))

    def of(self, part: str) -> list[MatrixPath]:
        """Return the path of each module's matrix."""
        return [MatrixPath(gram) for gram in self.grams[part]]

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
        grams = {part: stored.array(part, "modules", "steps", "steps") for part in PARTS}
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
    other = next((file.path for file in files if sorted(file.names) != names), None)
    if other is not None:
        raise UserError(
            f"{other} adapts other modules than {files[0].path}: these checkpoints are not of one training."
        )
    modules = [name.removesuffix(".lora_A.weight") for name in names if name.endswith(".lora_A.weight")]
    grams: dict[str, list[np.ndarray]] = {part: [] for part in PARTS}
    for module in modules:
        a, b = (
            _stacked(files, f"{module}.lora_{part}.weight") for part in "AB"
        )  # a move is small beside the matrix: the difference of two products has no digits left in float32
        inner_a, inner_b = torch.einsum("mri,nsi->mnrs", a, a), torch.einsum("mor,nos->mnrs", b, b)
        grams["A"].append(_from_first(_traces(inner_a)))
        grams["B"].append(_from_zero(_traces(inner_b)))
        grams["BA"].append(_from_zero((inner_a * inner_b).sum(dim=(2, 3)).numpy()))
    return AdapterPaths(
        tuple(module.removeprefix(WRAPPER) for module in modules),
        (0, *steps),
        {part: np.stack(found) for part, found in grams.items()},
    )


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
