"""`transfer`: do organisms of different domains and seeds share one direction, and does one organism's serve another?

Organisms are trained on several domains with several seeds, each beside a control organism. Their directions are
compared; each direction detects and corrects every organism; and what several organisms share is tried on one left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from emscope import parts, progress
from emscope.experiments.shape import experiment_stage
from emscope.experiments.transfer.ablation import (
    Correction,
    ablation_figures,
    ablation_stages,
    behaviour_figures,
    cell_file,
    least_cell,
    names_for,
)
from emscope.experiments.transfer.detection import detection_figures
from emscope.experiments.transfer.directions import (
    POOLINGS,
    Bank,
    direction_files,
    direction_names,
    direction_stage,
    geometry_figures,
    load_bank_directions,
)
from emscope.experiments.transfer.pairs import (
    OrganismPair,
    given_config,
    organism_stages,
    pairs_of,
    training_config,
)
from emscope.pipeline.lab import BASE, Lab
from emscope.pipeline.preflight import check_data
from emscope.pipeline.works import SHORT, answering, organism_works

AUROC_BAR, RESTORED_BAR, COSINE_BAR = 0.9, 0.6, 0.8


@dataclass(frozen=True)
class TransferSettings:
    """Which organisms are compared, and how they are corrected.

    Attributes:
        domains: built-in domains that organisms are trained on.
        seeds: pairs of organisms of each domain, from the run's seed on; the run's own pair is one of them.
        questions: test questions on which each ablation is measured, spread over all of them evenly.
        block: block at which directions are subtracted; by default where the run's own ablation subtracts.
        strength: how many times a direction is subtracted; by default what the run's own ablation chose.
        own_domain: what the run's own data are about (medical, finance, sport or another word), where they are not
            built in; not said, its pair counts neither as the same nor as another domain.
        organisms: pairs of your own, each as name=misaligned,control: data files, or folders or hub ids of adapters or
            whole models; the name says what they are about.
    """

    domains: tuple[str, ...] = ("medical", "finance", "sport")
    seeds: int = 1
    questions: int = 48
    block: int | None = None
    strength: float | None = None
    own_domain: str = ""
    organisms: tuple[str, ...] = ()


def measure(lab: Lab, settings: TransferSettings) -> dict[str, Any]:
    """Train what is missing, then write experiments/transfer.json, the directions beside it, and the report's section.

    Raises:
        UserError: settings that make no comparison (see `pairs_of`), or a block that the model does not have.
    """
    pairs = pairs_of(lab.config, settings.domains, settings.seeds, settings.own_domain, settings.organisms)
    for pair in pairs:
        for data in pair.made_of:
            check_data(Lab(given_config(lab.config), lab.folder), data)
    correction = Correction.of(lab, settings.block, settings.strength, settings.questions)
    with progress.plan(_works(lab, pairs, correction)):
        return _run_stages(lab, settings, pairs, correction)


def _works(lab: Lab, pairs: Sequence[OrganismPair], correction: Correction) -> dict[str, float | None]:
    """Return the stages of the experiment with their work."""
    works: dict[str, float | None] = {}
    for pair in pairs:
        for name, data in zip(pair.organisms, pair.sources, strict=False):
            if name not in lab.names:
                config = given_config(lab.config) if pair.made_of else training_config(lab.config, data, pair.seed)
                works |= organism_works(Lab(config, lab.folder), name, data)
    works["transfer-directions"] = SHORT
    ablated = answering(len(correction.questions), lab.config.sampling, altered=True)
    works |= {f"transfer-ablate-{pair.name}-less-{name}": ablated for pair in pairs for name in names_for(pair, pairs)}
    return {**works, "transfer": 20 * SHORT}


def _run_stages(
    lab: Lab, settings: TransferSettings, pairs: Sequence[OrganismPair], correction: Correction
) -> dict[str, Any]:
    for pair in pairs:
        organism_stages(lab, pair)
    direction_stage(lab, pairs)
    ablation_stages(lab, pairs, correction)
    organisms = list(dict.fromkeys([BASE, *(name for pair in pairs for name in pair.organisms)]))
    inputs = [
        *(path for name in organisms for path in lab.activation_files(name)),
        *(lab.folder.path("judgements", f"{name}.parquet") for name in organisms),
        *(path for pooling in POOLINGS for path in direction_files(lab, direction_names(pairs), pooling).values()),
        *(cell_file(lab, pair, name) for pair in pairs for name in names_for(pair, pairs)),
    ]
    return experiment_stage(lab, "transfer", dict[str, Any], settings, inputs, partial(find, lab, pairs, correction))


def find(lab: Lab, pairs: Sequence[OrganismPair], correction: Correction) -> dict[str, Any]:
    """Return the figures of the experiment under the keys that docs/transfer.md lists."""
    bank, seed = Bank.of(lab, pairs), lab.config.seed
    detectors = load_bank_directions(lab, pairs, "last")
    found = {
        "pairs": [{"name": pair.name, **asdict(pair)} for pair in pairs],
        "blocks": list(bank.blocks),
        "questions": {"train": len(bank.train), "test": len(bank.test)},
        "behaviour": _figures("behaviour", partial(behaviour_figures, lab, pairs)),
        "geometry": {
            pooling: _figures(f"geometry {pooling}", partial(geometry_figures, bank, pooling, seed))
            for pooling in POOLINGS
        },
        "detection": _figures("detection", partial(detection_figures, bank, detectors, seed)),
        "ablation": _figures("ablation", partial(ablation_figures, lab, pairs, correction)),
    }
    return {**found, "bars": bars(found)}


def _figures(name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return figures that depend on the stage's files and settings alone, kept if the experiment is stopped later."""
    return parts.kept_value(name, lambda: None, make)


def bars(found: dict[str, Any]) -> dict[str, Any]:
    """Return the figures the experiment is held against, and whether each is reached; empty with a single domain.

    Each is of the worst case: the direction of one domain on the organism of another that it serves least. A pair of
    unknown domain has no part in them.
    """
    detection = found["detection"]["summary"].get("other domain")
    if detection is None:
        return {}
    ablation = found["ablation"]["summary"]["other domain"]
    least = least_cell(found["ablation"]["cells"], "other domain")
    close = [value > COSINE_BAR for value in found["geometry"]["response"]["other_domains"]]
    return {
        "auroc": {"least": detection["least"], "bar": AUROC_BAR, "reached": detection["least"] >= AUROC_BAR},
        "restored": {
            "least": least,
            "pooled": ablation["restored"],
            "bar": RESTORED_BAR,
            "reached": least["value"] >= RESTORED_BAR,
            "pooled_reached": ablation["restored"]["value"] >= RESTORED_BAR,
        },
        "cosine": {"blocks_above": sum(close), "blocks": len(close), "bar": COSINE_BAR},
    }
