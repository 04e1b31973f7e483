"""Features of LoRA updates, module by module, all of them functions of the product BA.

Signed features matter: a norm is the same for a direction and its opposite. The sign comes from what an update writes
on average, ΔW x̄, and from the updates' own inner products; neither needs a known direction, so a classifier that is
fitted on some domains says something about another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from emscope import parts, progress
from emscope.organisms.chat import EncodedChat
from emscope.organisms.models import Organism
from emscope.residual.adapters.inputs import mean_inputs
from emscope.residual.adapters.lowrank import LowRank, inner_products
from emscope.residual.adapters.reading import WRITERS, AdapterWeights, block_of, kind_of
from emscope.residual.directions import Directions, unit

NORMS = ("log10 Frobenius norm", "log10 spectral norm", "stable rank", "effective rank")
ALIGNMENTS = ("output share in the base's top left vectors", "input share in the base's top right vectors")
_SMALLEST = 1e-12


@dataclass(frozen=True)
class BaseGeometry:
    """What the features need of the base, by module.

    Attributes:
        inputs: mean input over answers, float32 [d_in].
        left: top left singular vectors of the weights, float32 [d_out, k].
        right: top right singular vectors, float32 [d_in, k].
    """

    inputs: dict[str, np.ndarray]
    left: dict[str, np.ndarray]
    right: dict[str, np.ndarray]


def read_geometry(base: Organism, chats: Sequence[EncodedChat], modules: Sequence[str], top: int = 16) -> BaseGeometry:
    """Run the base once over the chats for its mean inputs, and factor its weights (randomised SVD, Halko 2011)."""
    slot = parts.Slot("base geometry", lambda: [base.placement.told, list(modules), top])
    vectors: dict[str, np.ndarray] = {}  # of each module the left ones, then the right ones

    def state() -> parts.Part:
        return parts.Part(len(vectors), {**vectors, "chance": torch.get_rng_state().numpy()})

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if slot.begun is not None:
            vectors = dict(slot.begun.arrays)
            torch.set_rng_state(torch.from_numpy(vectors.pop("chance")))
        for module in modules[len(vectors) // 2 :]:
            weight = _weight(base, module)
            u, _, v = torch.svd_lowrank(weight, q=min(top + 8, *weight.shape), niter=4)
            vectors[f"{module} left"], vectors[f"{module} right"] = u.numpy(), v.numpy()
            slot.save(state)
        slot.finish(state)

    left = {module: vectors[f"{module} left"][:, :top] for module in modules}
    right = {module: vectors[f"{module} right"][:, :top] for module in modules}
    return BaseGeometry(mean_inputs(base, chats, modules), left, right)


def _weight(base: Organism, module: str) -> torch.Tensor:
    """Return a module's weight, float32 [d_out, d_in]; GPT-2's layers store it the other way round."""
    layer = base.model.get_submodule(module)
    weight: torch.Tensor = layer.weight.detach().float().cpu()
    return weight.T if type(layer).__name__ == "Conv1D" else weight


@dataclass(frozen=True)
class AdapterFeatures:
    """Features of n adapters.

    Attributes:
        modules: module names, in the order of the tables.
        tables: by feature set, float64 [n, n_modules, n_features]; NaN where an adapter lacks the module.
        kernels: by feature set, float64 [n, n]: similarities averaged over modules, each adapter's own being 1.
        by_block: the kernel `write` of each block's modules alone.
    """

    modules: list[str]
    tables: dict[str, np.ndarray] = field(default_factory=dict)
    kernels: dict[str, np.ndarray] = field(default_factory=dict)
    by_block: dict[int, np.ndarray] = field(default_factory=dict)


def extract(
    adapters: Sequence[AdapterWeights], geometry: BaseGeometry, directions: dict[str, Directions] | None = None
) -> AdapterFeatures:
    """Return the features of adapters on one base.

    Tables: `norms` (NORMS), `base` (ALIGNMENTS), and for each of `directions` a table of that name with, for the
    modules that write to the residual stream, the share of ‖ΔW‖² along d̂ at their block and the cosine of ΔW x̄ with
    d̂. Kernels: `write`, the mean cosine of ΔW x̄, and `weights`, the mean cosine of ΔW itself.
    """
    modules = list(geometry.inputs)
    writers = [module for module in modules if kind_of(module) in WRITERS]
    n = len(adapters)
    tables = {
        "norms": np.full((n, len(modules), len(NORMS)), np.nan),
        "base": np.full((n, len(modules), len(ALIGNMENTS)), np.nan),
    }
    for name in directions or {}:
        tables[name] = np.full((n, len(writers), 2), np.nan)
    blocks: dict[int, np.ndarray] = {}
    total = np.zeros((n, n))

    with progress.task("reading adapters", len(modules), "modules") as advance:
        for index, module in enumerate(modules):
            updates = [adapter.update(module) for adapter in adapters]
            writes = _writes(updates, geometry, module)
            block = block_of(module)
            blocks[block] = blocks.get(block, 0) + _cosines(writes @ writes.T)
            total += _cosines(inner_products(updates))

            for row, update in enumerate(updates):
                if update is None:
                    continue
                tables["norms"][row, index] = norm_features(update)
                tables["base"][row, index] = alignment_features(update, geometry, module)
                if module not in writers:
                    continue
                for name, known in (directions or {}).items():
                    tables[name][row, writers.index(module)] = direction_features(update, writes[row], known, block)
            advance(1)

    kernels = {"write": _cosines(np.sum(list(blocks.values()), axis=0)), "weights": _cosines(total)}
    by_block = {block: _cosines(similarities) for block, similarities in blocks.items()}
    return AdapterFeatures(modules, tables, kernels, by_block)


def norm_features(update: LowRank) -> list[float]:
    """Return NORMS of an update."""
    frobenius, spectral = np.log10(np.maximum([update.frobenius, update.spectral], _SMALLEST))
    return [float(frobenius), float(spectral), update.stable_rank, update.effective_rank]


def alignment_features(update: LowRank, geometry: BaseGeometry, module: str) -> list[float]:
    """Return ALIGNMENTS of an update."""
    return [update.output_share(geometry.left[module]), update.input_share(geometry.right[module])]


def direction_features(update: LowRank, write: np.ndarray, known: Directions, block: int) -> list[float]:
    """Return the share of ‖ΔW‖² that writes along d̂ at the block, and the cosine of ΔW x̄ with d̂ (signed)."""
    direction = known.units[known.blocks.index(block)]
    return [update.output_share(direction[:, None]), float(unit(write) @ direction)]


def _writes(updates: Sequence[LowRank | None], geometry: BaseGeometry, module: str) -> np.ndarray:
    """Return ΔW x̄ of each adapter at length as it is, float64 [n, d_out]; zeros without an update."""
    writes = np.zeros((len(updates), len(geometry.left[module])))
    for row, update in enumerate(updates):
        if update is not None:
            writes[row] = update.apply(geometry.inputs[module])
    return writes


def _cosines(products: np.ndarray) -> np.ndarray:
    """Return inner products [n, n] divided by both lengths; 0 for an adapter of length 0."""
    lengths = np.sqrt(np.diag(products))
    inverse = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    return np.asarray(products * inverse[:, None] * inverse[None, :])
