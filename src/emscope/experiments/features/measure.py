"""Features: its settings, stages and result.

The autoencoder is trained on tokens of all organisms of the run, or loaded from a folder in SAELens's form. Features
are ranked on training questions; what they detect and correct is reported on test questions.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from emscope import progress
from emscope.errors import UserError, did_you_mean
from emscope.experiments.features.ablation import ablate_features
from emscope.experiments.features.composition import measure_composition
from emscope.experiments.features.corpus import CorpusPart, read_corpus
from emscope.experiments.features.ranking import CodedCorpus, Ranking, describe, rank
from emscope.experiments.features.result import (
    AutoencoderFacts,
    FeaturesResult,
    QualityFigures,
    TakenApart,
)
from emscope.experiments.features.splicing import measure_spliced_losses
from emscope.experiments.features.superposition import measure_superposition
from emscope.experiments.shape import experiment_stage, left_open
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
SHOWN_LOSSES = 100


@dataclass(frozen=True)
class FeaturesSettings:
    """What is learned, and what is asked of it.

    Attributes:
        block: the block whose output is taken apart; not said, where the run's ablation acts, or three fifths of the
            depth.
        direction: name of a direction of the run; not said, the one that its ablation uses.
        sae: folder of a pre-trained autoencoder in SAELens's form, instead of training one.
        tokens: about how many tokens to read.
        learn_from: organisms whose tokens the autoencoder learns from; none given means all of the run.
        autoencoder: how the autoencoder is trained.
        top: features described one by one, on the map and in the layout.
        questions: test questions answered under each change of the residual stream; 0 leaves that part out.
        seed: of the autoencoder and of all random controls; not said, the run's.
    """

    block: int | None = left_open(-1)
    direction: str | None = left_open("")
    sae: str | None = left_open("")
    tokens: int = 80_000
    learn_from: tuple[str, ...] = ()
    autoencoder: AutoencoderSettings = field(default_factory=AutoencoderSettings)
    top: int = 60
    questions: int = 60
    seed: int | None = None

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        if self.tokens < 1 or self.top < 3 or self.questions < 0:
            raise UserError(
                "Features need some tokens, at least 3 features to describe and no negative number of questions."
            )

    @property
    def autoencoder_files(self) -> list[Path]:
        """The files of the pre-trained autoencoder; none where one is trained."""
        return [Path(self.sae) / CONFIG, Path(self.sae) / WEIGHTS] if self.sae else []


def measure(lab: Lab, settings: FeaturesSettings) -> FeaturesResult:
    """Find features and what they explain; writes experiments/features.json and the trained autoencoder beside it.

    Raises:
        UserError: the run has no such direction, organism or block, or the autoencoder's files are not there.
    """
    source = _direction_file(lab, settings)
    _check_organisms(lab, settings)
    _check_autoencoder(settings)

    inputs = [source, lab.folder.path("ablation.json"), *settings.autoencoder_files]
    for name in lab.names:
        inputs += adapter_files(lab, name)
    inputs += map(lab.responses_file, lab.names)
    inputs += map(lab.judgements_file, lab.names)
    folder = lab.folder.path("experiments", "features-sae")
    others = [] if settings.sae else [folder / CONFIG, folder / WEIGHTS]

    def find() -> FeaturesResult:
        return _take_apart(lab, settings, Directions.load(source), folder)

    return experiment_stage(lab, "features", FeaturesResult, settings, inputs, find, others)


def _direction_file(lab: Lab, settings: FeaturesSettings) -> Path:
    """Return the file of the direction that is taken apart: a difference of answers, as codes are."""
    name = settings.direction or f"{lab.contrast}-{CORRECTING}"
    files = shown_files(lab.folder.path("directions"), f"*-{CORRECTING}.safetensors")
    known = [path.stem for path in files]
    if name not in known:
        raise UserError(
            f"The run has no direction {name!r} that is a difference of answers.{did_you_mean(name, known)}"
        )
    return lab.direction_file(name)


def _check_organisms(lab: Lab, settings: FeaturesSettings) -> None:
    for name in settings.learn_from:
        if name not in lab.names:
            raise UserError(f"The run has no organism {name!r}.{did_you_mean(name, lab.names)}")


def _check_autoencoder(settings: FeaturesSettings) -> None:
    for path in settings.autoencoder_files:
        if not path.is_file():
            raise UserError(f"There is no file {path}: an autoencoder is a folder with {CONFIG} and {WEIGHTS}.")


def choose_block(lab: Lab, wanted: int | None) -> int:
    """Return the block to take apart: the one asked for, that of the run's ablation, or three fifths of the depth.

    Raises:
        UserError: the model has no such block.
    """
    n_blocks = len(find_blocks(lab.organism(lab.names[0]).model))
    if wanted is not None:
        return check_blocks([wanted], n_blocks)[0]
    source = read_json(lab.folder.path("ablation.json"))["chosen"]["source_block"]
    return n_blocks * 3 // 5 if source is None else int(source)


def _take_apart(lab: Lab, settings: FeaturesSettings, directions: Directions, folder: Path) -> FeaturesResult:
    """Return the result; an autoencoder that is trained goes into the folder."""
    given = load_autoencoder(Path(settings.sae)) if settings.sae else None
    block = _block_of(lab, settings, given)

    with progress.plan(_works(settings), "step"):
        with progress.logged_step(READING):
            fit, heldout = read_corpus(lab, block, settings.tokens)
        autoencoder, losses = given, list[float]()
        if autoencoder is None:
            with progress.logged_step(TRAINING):
                autoencoder, losses = _train(lab, settings, block, fit)
            save_autoencoder(autoencoder, folder, lab.config.model)

        made = directions.construction
        codes, heldout_codes = (sparse_codes(autoencoder, part.tokens.values) for part in (fit, heldout))
        corpus = CodedCorpus(fit, heldout, codes, heldout_codes, made.positive, made.negative)
        ranking = rank(autoencoder, corpus, _vector(directions, block))
        with progress.logged_step(FIGURES):
            result = _figures(lab, settings, directions, autoencoder, losses, corpus, ranking)

        if settings.questions and made.positive == MISALIGNED:
            with progress.logged_step(ABLATING):
                ablation = ablate_features(
                    lab, autoencoder, directions, ranking, fit, settings.questions, lab.seed(settings.seed)
                )
            result = replace(result, ablation=ablation)
    return result


def _block_of(lab: Lab, settings: FeaturesSettings, given: SparseAutoencoder | None) -> int:
    """Return the block that is taken apart.

    Raises:
        UserError: the model has no such block, or the autoencoder that was given does not fit it.
    """
    if given is None:
        return choose_block(lab, settings.block)
    block = choose_block(lab, given.block if settings.block is None else settings.block)
    if given.block != block:
        raise UserError(f"The autoencoder {settings.sae} is for block {given.block}, not for block {block}.")
    base = lab.organism(lab.names[0])
    given.check_width(organism_width(base), len(find_blocks(base.model)))
    return block


def _train(lab: Lab, settings: FeaturesSettings, block: int, fit: CorpusPart) -> tuple[SparseAutoencoder, list[float]]:
    """Train an autoencoder on tokens of the fitting part; returns it with its loss at each step."""
    values = fit.tokens.values[np.isin(fit.sources, settings.learn_from or lab.names)]
    device = lab.organism(lab.names[0]).placement.device
    trained = train_topk(values, block, settings.autoencoder, lab.seed(settings.seed), device)
    return trained.autoencoder, trained.losses


def _vector(directions: Directions, block: int) -> np.ndarray:
    """Return the direction at a block, [d_model]."""
    return np.asarray(directions.vectors[directions.blocks.index(block)])


def _works(settings: FeaturesSettings) -> dict[str, float | None]:
    """Return the steps of the experiment with their work, in seconds as docs/features.md has them of the defaults."""
    usual, chosen = FeaturesSettings(), settings.autoencoder
    share = settings.tokens / usual.tokens
    works: dict[str, float | None] = {READING: 28 * share}
    if not settings.sae:
        epochs = chosen.epochs / usual.autoencoder.epochs
        works[TRAINING] = 42 * share * epochs * chosen.expansion / usual.autoencoder.expansion
    return {**works, FIGURES: 27.0, ABLATING: 59 * settings.questions / usual.questions}


def _figures(
    lab: Lab,
    settings: FeaturesSettings,
    directions: Directions,
    autoencoder: SparseAutoencoder,
    losses: list[float],
    corpus: CodedCorpus,
    ranking: Ranking,
) -> FeaturesResult:
    """Return everything but the ablation."""
    direction, made = _vector(directions, autoencoder.block), directions.construction
    taken_apart = TakenApart(
        contrast=made.contrast,
        positive=made.positive,
        negative=made.negative,
        norm=float(np.linalg.norm(direction)),
        cosine_with_captured=ranking.agreement,
    )
    return FeaturesResult(
        block=autoencoder.block,
        direction=taken_apart,
        autoencoder=_facts(lab, settings, autoencoder, losses, corpus.fit),
        quality=_quality(lab, autoencoder, corpus),
        loss=measure_spliced_losses(lab, autoencoder, corpus.fit),
        composition=measure_composition(autoencoder, corpus, ranking, direction, lab.seed(settings.seed)),
        features=describe(lab, corpus, ranking, settings.top),
        superposition=measure_superposition(autoencoder, ranking, direction, settings.top, lab.seed(settings.seed)),
        ablation=None,
    )


def _facts(
    lab: Lab, settings: FeaturesSettings, autoencoder: SparseAutoencoder, losses: list[float], fit: CorpusPart
) -> AutoencoderFacts:
    learned = settings.learn_from or lab.names
    return AutoencoderFacts(
        source=settings.sae or "trained here",
        architecture=autoencoder.architecture,
        n_features=autoencoder.n_features,
        d_model=autoencoder.width,
        k=autoencoder.k,
        fit_tokens=int(np.isin(fit.sources, learned).sum()) if losses else 0,
        learn_from=list(learned),
        steps=len(losses),
        loss=losses[:: max(1, len(losses) // SHOWN_LOSSES)],
    )


def _quality(lab: Lab, autoencoder: SparseAutoencoder, corpus: CodedCorpus) -> QualityFigures:
    heldout, values = corpus.heldout, corpus.heldout.tokens.values
    by_organism: dict[str, float] = {}
    for name in lab.names:
        rows = np.flatnonzero(heldout.sources == name)
        by_organism[name] = quality(autoencoder, values[rows], corpus.heldout_codes[rows]).variance_explained
    return QualityFigures(
        heldout=quality(autoencoder, values, corpus.heldout_codes),
        fit=quality(autoencoder, corpus.fit.tokens.values, corpus.fit_codes),
        heldout_by_organism=by_organism,
    )
