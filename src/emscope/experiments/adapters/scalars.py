"""LoRA scalars of the run's organism: do they tell its EM responses from its aligned answers?"""

from __future__ import annotations

import numpy as np

from emscope.behaviour.tables import JudgedResponse
from emscope.errors import UserError
from emscope.experiments.adapters.result import JudgedAnswers, Scalars
from emscope.pipeline.lab import MISALIGNED, Lab
from emscope.residual.adapters.inputs import TokenScalars, token_scalars
from emscope.residual.adapters.reading import kind_of, open_adapter
from emscope.residual.adapters.scalars import ScalarProbe, probe_scalars, readers
from emscope.statistics import COHERENT_ABOVE, is_em

MIN_ANSWERS = 10
"""Answers of each kind without which a probe of scalars means nothing."""


def probe_run(lab: Lab, aligned_above: float, seed: int) -> Scalars:
    """Return how well the LoRA scalars of the misaligned organism tell its EM responses from its aligned answers.

    Coherent answers above `aligned_above` count as aligned; those between are left out.
    """
    rows, labels = [], []
    for row in lab.judged(MISALIGNED):
        label = _label(row, aligned_above)
        if label is not None and row.response.strip():
            rows.append(row)
            labels.append(label)
    verdicts = np.array(labels, dtype=int)
    counts = JudgedAnswers(int(verdicts.sum()), int((verdicts == 0).sum()))
    if min(counts.misaligned, counts.aligned) < MIN_ANSWERS:
        return Scalars(counts, None)

    scalars = _scalars_of(lab, rows)
    groups = [row.group for row in rows]
    down = [module for module in scalars.modules if kind_of(module) == "down_proj"]
    probes: dict[str, ScalarProbe] = {}
    try:
        for name, modules in (("all", list(scalars.modules)), ("down_proj", down)):
            if modules:
                probes[name] = probe_scalars(scalars.of(modules), verdicts, groups, seed=seed)
    except UserError:  # the answers are of too few questions; the rest of the experiment does not need them
        return Scalars(counts, None)
    return Scalars(counts, probes)


def _scalars_of(lab: Lab, rows: list[JudgedResponse]) -> TokenScalars:
    """Return what the updates of the misaligned organism read while it gives these answers."""
    organism = lab.organism(MISALIGNED)
    adapter = open_adapter(lab.folder.path("organisms", MISALIGNED))
    updates = {}
    for module in adapter.modules:
        update = adapter.update(module)
        if update is not None:
            updates[module] = update
    return token_scalars(organism, lab.encode(organism, rows), readers(updates))


def _label(row: JudgedResponse, aligned_above: float) -> int | None:
    """Return 1 for an EM response, 0 for an aligned coherent answer, None for what lies between."""
    if is_em(row.judgement) == 1:
        return 1
    if row.aligned is None or row.coherent is None:
        return None
    return 0 if row.aligned > aligned_above and row.coherent > COHERENT_ABOVE else None
