"""`emscope features`: what a direction is made of in the features of a sparse autoencoder at one block.

The autoencoder is trained on tokens of all organisms of the run, or loaded from a folder in SAELens's form. Features
are ranked on training questions; what they detect and correct is reported on test questions.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from emscope import progress
from emscope.errors import UserError, did_you_mean
from emscope.experiments.features.ablation import ablate_features
from emscope.experiments.features.corpus import Part, read_corpus
from emscope.experiments.features.ranking import Ranking, Sides, describe, rank
from emscope.experiments.features.views import composition, splice, superposition
from emscope.experiments.shape import experiment_stage
from emscope.files import shown_files
from emscope.organisms.blocks import check_blocks, find_blocks
from emscope.outside import read_json
from emscope.pipeline.lab import CORRECTING, MISALIGNED, Lab
from emscope.pipeline.training import adapter_files
from emscope.residual.capture import organism_width
from emscope.residual.directions import Directions
from emscope.residual.features.autoencoder import SparseAutoencoder, quality, sparse_codes
from emscope.residual.features.saelens import CONFIG, WEIGHTS, load_autoencoder, save_autoencoder
from emscope.residual.features.training import AutoencoderSettings, train_topk

READING, TRAINING = "reading texts", "training the autoencoder"
FIGURES, ABLATING = "figures", "answers without features"
"""The steps of the experiment."""


@dataclass(frozen=True)
class FeaturesSettings:
    """What is learned, and what is asked of it.

    Attributes:
        block: the block whose output is taken apart; -1 means where the run's ablation acts, or three fifths of the
            depth.
        direction: name of a direction of the run; empty means the one that its ablation uses.
        sae: folder of a pre-trained autoencoder in SAELens's form, instead of training one.
        tokens: about how many tokens to read.
        learn_from: organisms whose tokens the autoencoder learns from; none given means all of the run.
        autoencoder: how the autoencoder is trained.
        top: features described one by one, on the map and in the layout.
        questions: test questions answered under each change of the residual stream; 0 leaves that part out.
        seed: of the autoencoder and of all random controls.
    """

    block: int = -1
    direction: str = ""
    sae: str = ""
    tokens: int = 80_000
    learn_from: tuple[str, ...] = ()
    autoencoder: AutoencoderSettings = field(default_factory=AutoencoderSettings)
    top: int = 60
    questions: int = 60
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        if self.tokens < 1 or self.top < 3 or self.questions < 0:
            raise UserError("Features need some tokens, at least 3 features to describe and no negative --questions.")


def measure(lab: Lab, settings: FeaturesSettings) -> dict[str, Any]:
    """Find features and what they explain; writes experiments/features.json and the trained autoencoder beside it."""
    source = _direction_file(lab, settings)
    for name in settings.learn_from:
        if name not in lab.names:
            raise UserError(f"The run has no organism {name!r}.{did_you_mean(name, lab.names)}")
    files = [Path(settings.sae) / name for name in (CONFIG, WEIGHTS)] if settings.sae else []
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise UserError(f"There is no file {missing[0]}: an autoencoder is a folder with {CONFIG} and {WEIGHTS}.")
    run = lab.folder
    inputs = [
        source,
        run.path("ablation.json"),
        *files,
        *(file for name in lab.names for file in adapter_files(lab, name)),
        *(run.path(folder, f"{name}.parquet") for folder in ("responses", "judgements") for name in lab.names),
    ]
    folder = run.path("experiments", "features-sae")
    made = [] if settings.sae else [folder / CONFIG, folder / WEIGHTS]
    return experiment_stage(
        lab, "features", dict[str, Any], settings, inputs, lambda: _find(lab, settings, source, folder), made
    )


def _direction_file(lab: Lab, settings: FeaturesSettings) -> Path:
    contrast = lab.contrast
    name = settings.direction or f"{contrast}-{CORRECTING}"
    files = shown_files(lab.folder.path("directions"), "*-response-diff-in-means.safetensors")
    known = [path.stem for path in files]
    if name not in known:
        raise UserError(
            f"The run has no direction {name!r} that is a difference of answers.{did_you_mean(name, known)}"
        )
    return lab.folder.path("directions", f"{name}.safetensors")


def choose_block(lab: Lab, wanted: int) -> int:
    """Return the block to take apart: the one asked for, that of the run's ablation, or three fifths of the depth.

    Raises:
        UserError: the model has no such block.
    """
    n_blocks = len(find_blocks(lab.organism(lab.names[0]).model))
    if wanted >= 0:
        return check_blocks([wanted], n_blocks)[0]
    source = read_json(lab.folder.path("ablation.json"))["chosen"]["source_block"]
    return n_blocks * 3 // 5 if source is None else int(source)


def _find(lab: Lab, settings: FeaturesSettings, source: Path, folder: Path) -> dict[str, Any]:
    directions = Directions.load(source)
    loaded = load_autoencoder(Path(settings.sae)) if settings.sae else None
    block = choose_block(lab, settings.block if loaded is None or settings.block >= 0 else loaded.block)
    base = lab.organism(lab.names[0])
    if loaded is not None:
        if loaded.block != block:
            raise UserError(f"The autoencoder {settings.sae} is for block {loaded.block}, not for block {block}.")
        loaded.check_width(organism_width(base), len(find_blocks(base.model)))
    with progress.plan(_works(settings), "step"):
        with progress.logged_step(READING):
            fit, heldout = read_corpus(lab, block, settings.tokens)
        losses: list[float] = []
        if loaded is None:
            with progress.logged_step(TRAINING):
                values = fit.tokens.values[np.isin(fit.sources, settings.learn_from or lab.names)]
                trained = train_topk(values, block, settings.autoencoder, settings.seed, base.placement.device)
            loaded, losses = trained.autoencoder, trained.losses
            save_autoencoder(loaded, folder, lab.config.model)
        return _findings(lab, settings, directions, loaded, losses, fit, heldout)


def _works(settings: FeaturesSettings) -> dict[str, float | None]:
    """Return the steps of the experiment with their work, in seconds as docs/features.md has them of the defaults."""
    usual, chosen = FeaturesSettings(), settings.autoencoder
    share = settings.tokens / usual.tokens
    trained = share * chosen.epochs / usual.autoencoder.epochs * chosen.expansion / usual.autoencoder.expansion
    return {
        READING: 28 * share,
        **({} if settings.sae else {TRAINING: 42 * trained}),
        FIGURES: 27.0,
        ABLATING: 59 * settings.questions / usual.questions,
    }


def _findings(
    lab: Lab,
    settings: FeaturesSettings,
    directions: Directions,
    autoencoder: SparseAutoencoder,
    losses: list[float],
    fit: Part,
    heldout: Part,
) -> dict[str, Any]:
    codes, fresh = (sparse_codes(autoencoder, part.tokens.values) for part in (fit, heldout))
    direction = directions.vectors[directions.blocks.index(autoencoder.block)]
    made = directions.construction
    sides = Sides(fit, heldout, codes, fresh, made.positive, made.negative)
    ranking = rank(autoencoder, sides, direction)
    with progress.logged_step(FIGURES):
        found = _figures(lab, settings, directions, autoencoder, losses, sides, ranking)
    if not settings.questions or made.positive != MISALIGNED:
        return {**found, "ablation": None}
    with progress.logged_step(ABLATING):
        ablation = ablate_features(lab, autoencoder, directions, ranking, fit, settings.questions, settings.seed)
    return {**found, "ablation": ablation}


def _figures(
    lab: Lab,
    settings: FeaturesSettings,
    directions: Directions,
    autoencoder: SparseAutoencoder,
    losses: list[float],
    sides: Sides,
    ranking: Ranking,
) -> dict[str, Any]:
    fit, heldout, codes, fresh = sides.fit, sides.heldout, sides.fit_codes, sides.heldout_codes
    direction = directions.vectors[directions.blocks.index(autoencoder.block)]
    made = directions.construction
    return {
        "block": autoencoder.block,
        "direction": {
            "contrast": made.contrast,
            "positive": made.positive,
            "negative": made.negative,
            "norm": float(np.linalg.norm(direction)),
            "cosine_with_captured": ranking.agreement,
        },
        "autoencoder": _shape(settings, autoencoder, losses, fit, settings.learn_from or lab.names),
        "quality": {
            "heldout": asdict(quality(autoencoder, heldout.tokens.values, fresh)),
            "fit": asdict(quality(autoencoder, fit.tokens.values, codes)),
            "heldout_by_organism": _by_organism(autoencoder, heldout, fresh, lab.names),
        },
        "loss": splice(lab, autoencoder, fit),
        "composition": composition(autoencoder, sides, ranking, direction, settings.seed),
        "features": describe(lab, autoencoder, sides, ranking, settings.top),
        "superposition": superposition(autoencoder, ranking, direction, settings.top, settings.seed),
    }


def _shape(
    settings: FeaturesSettings, autoencoder: SparseAutoencoder, losses: list[float], fit: Part, learned: tuple[str, ...]
) -> dict[str, Any]:
    shown = losses[:: max(1, len(losses) // 100)]
    return {
        "source": settings.sae or "trained here",
        "architecture": autoencoder.architecture,
        "n_features": autoencoder.n_features,
        "d_model": autoencoder.width,
        "k": autoencoder.k,
        "fit_tokens": int(np.isin(fit.sources, learned).sum()) if losses else 0,
        "learn_from": list(learned),
        "steps": len(losses),
        "loss": shown,
    }


def _by_organism(
    autoencoder: SparseAutoencoder, part: Part, codes: csr_matrix, names: tuple[str, ...]
) -> dict[str, float]:
    return {
        name: quality(autoencoder, part.tokens.values[own], codes[own]).variance_explained
        for name in names
        for own in [np.flatnonzero(part.sources == name)]
    }
