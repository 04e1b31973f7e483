"""Is one vector enough? Vectors trained on a run's careless and careful rows, added to its base and organisms.

The coefficient is chosen on development questions; what is reported of it comes from test questions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from emscope import progress
from emscope.behaviour.questions import Question
from emscope.behaviour.tables import write_table
from emscope.errors import UserError
from emscope.experiments.bench import direction_names, spread
from emscope.experiments.induce.vectors import (
    CAREFUL,
    CARELESS,
    RANDOM,
    STEMS,
    VectorBench,
    by_set,
    cosines,
    downstream,
)
from emscope.experiments.shape import experiment_stage
from emscope.files import write_json
from emscope.interventions.steering import Cell, Turn, choose_induction
from emscope.interventions.trained import VectorSettings, train_vector
from emscope.organisms.blocks import check_blocks, find_blocks
from emscope.organisms.train import encode_conversations, readable_length
from emscope.outside import read_json
from emscope.pipeline.data import is_trained_elsewhere
from emscope.pipeline.lab import BASE, MISALIGNED, Lab
from emscope.pipeline.training import adapter_files
from emscope.pipeline.works import ROW, answering

COHERENT_ENOUGH = 0.8
DEPTH = 0.5


@dataclass(frozen=True)
class InduceSettings:
    """Where a vector is trained, on what, and on how many questions it is tried.

    Attributes:
        block: the block after which the vector is added; -1 takes half of the depth.
        data: careless rows; by default the run's own.
        control_data: careful rows; by default the run's own, none if it has none.
        vector: how vectors are trained.
        coefficients: multiples of the vector tried on the base.
        dial_questions: development questions asked at each coefficient.
        test_questions: test questions asked of what was chosen; 0 takes all.
        kl_questions: questions whose answers measure a disturbance and where the vector leads.
    """

    block: int = -1
    data: str = ""
    control_data: str = ""
    vector: VectorSettings = field(default_factory=VectorSettings)
    coefficients: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25)
    dial_questions: int = 20
    test_questions: int = 0
    kl_questions: int = 10

    def __post_init__(self) -> None:
        """Refuse settings that choose nothing."""
        if min(self.coefficients, default=0) <= 0:
            raise UserError("Coefficients must be above 0: they induce what the vector was trained on.")
        if min(self.dial_questions, self.kl_questions) < 2 or self.test_questions < 0:
            raise UserError("Inducing needs at least two questions to choose the coefficient and for the disturbance.")


def measure(lab: Lab, settings: InduceSettings) -> dict[str, Any]:
    """Train what is missing, then write experiments/induce.json and judgements/induce.parquet of the run.

    Raises:
        UserError: a block that the model does not have, or organisms trained elsewhere and no rows given.
    """
    n_blocks = len(find_blocks(lab.organism(BASE).model))
    (block,) = check_blocks([int(n_blocks * DEPTH) if settings.block == -1 else settings.block], n_blocks)
    with progress.plan(_works(lab, settings, _sources(lab, settings))):
        return _run_stages(lab, settings, block)


def _works(lab: Lab, settings: InduceSettings, sources: Mapping[str, str]) -> dict[str, float | None]:
    """Return the stages of the experiment with their work."""
    rows = {STEMS[name]: len(lab.training_data(data).train) for name, data in sources.items()}
    vectors = {f"induce-vector-{stem}": ROW * n * settings.vector.epochs for stem, n in rows.items()}
    n_dial = len(rows) * len(settings.coefficients) * min(settings.dial_questions, len(lab.dev_questions))
    n_test = min(settings.test_questions or len(lab.test_questions), len(lab.test_questions))
    n_answers = n_dial + (len(lab.names) + 1 + len(rows)) * n_test
    return {**vectors, "induce": answering(n_answers, lab.config.sampling, altered=True)}


def _run_stages(lab: Lab, settings: InduceSettings, block: int) -> dict[str, Any]:
    sources = _sources(lab, settings)
    vectors = {name: _vector_stage(lab, settings.vector, block, name, data) for name, data in sources.items()}
    answers = lab.folder.path("judgements", "induce.parquet")
    inputs = [
        *vectors.values(),
        *(lab.folder.path("judgements", f"{name}.parquet") for name in lab.names),
        *(file for name in lab.names for file in adapter_files(lab, name)),
        *(lab.folder.path("directions", f"{name}.safetensors") for name in direction_names(lab)),
    ]

    def find() -> dict[str, Any]:
        bench = VectorBench(lab, block, settings.kl_questions, vectors)
        found = _figures(bench, settings)
        write_table(answers, bench.kept)
        trained = {name: read_json(path.with_suffix(".json")) for name, path in vectors.items()}
        return {"block": block, "data": sources, "training": trained, **found}

    return experiment_stage(lab, "induce", dict[str, Any], settings, inputs, find, [answers])


def _sources(lab: Lab, settings: InduceSettings) -> dict[str, str]:
    """Return the rows that each vector is trained on."""
    wanted = {
        CARELESS: settings.data or lab.config.misaligned_data,
        CAREFUL: settings.control_data or lab.config.control_data,
    }
    for name, option in ((CARELESS, "--data"), (CAREFUL, "--control-data")):
        if is_trained_elsewhere(wanted[name]):
            raise UserError(f"The run's organism was trained elsewhere ({wanted[name]}): name its rows with {option}.")
    return {name: data for name, data in wanted.items() if data}


def _vector_stage(lab: Lab, settings: VectorSettings, block: int, name: str, data: str) -> Path:
    """Train a vector on rows chosen like an organism's, unless it is there."""
    out = lab.folder.path("experiments", "induce", f"{STEMS[name]}.safetensors")
    rows = lab.training_data(data)
    own = replace(settings, seed=lab.config.seed)
    files = [out, out.with_suffix(".json")]

    def make() -> None:
        base = lab.trainable_base()
        chats = encode_conversations(base.tokenizer, rows.train, readable_length(base, own.max_length))
        made = train_vector(base, chats, block, own, data)
        made.directions.save(out)
        norm = float(np.linalg.norm(made.directions.vectors))
        share = norm / float(np.linalg.norm(made.directions.negative_mean))
        plain = {"losses": made.losses, "norm": norm, "norm_share": share, "seconds": round(made.seconds, 1)}
        write_json(files[1], {**plain, "rows": len(chats)})

    key = {"model": lab.config.model, "block": block, "rows": rows.train, "vector": asdict(own)}
    lab.folder.stage(f"induce-vector-{STEMS[name]}", key, [], files, make)
    return out


def _figures(bench: VectorBench, settings: InduceSettings) -> dict[str, Any]:
    lab = bench.lab
    tuned_on, asked = (
        spread(lab.dev_questions, settings.dial_questions),
        spread(lab.test_questions, settings.test_questions),
    )
    trained = [name for name in bench.directions if name in (CARELESS, CAREFUL)]
    turns = [Turn(name, (bench.block,), size) for name in trained for size in sorted(settings.coefficients)]
    dial = bench.turned(bench.dev[BASE], turns, tuned_on)
    chosen = choose_induction([cell for cell in dial if cell.turn.direction == CARELESS], COHERENT_ENOUGH)
    test = {name: _test(bench, name, chosen.turn, asked) for name in lab.names}
    induced = test[BASE][0]
    found = {
        "unsteered": {name: bench.unsteered(name, asked).as_dict() for name in lab.names},
        "unsteered_dial": bench.unsteered(BASE, tuned_on).as_dict(),
        "fine_tune_kl": bench.fine_tune(bench.test, BASE).as_dict(),
        "dial": [bench.plain(BASE, cell) for cell in dial],
        "coefficient": chosen.turn.coefficient,
        "test": [_row(bench, name, cell, asked) for name, cells in test.items() for cell in cells],
        "by_set": by_set(bench, induced, asked),
        "cosines": cosines(bench),
        "downstream": downstream(bench, chosen.turn.coefficient),
    }
    return {**found, "bars": _bars(found, bench, asked)}


def _test(bench: VectorBench, name: str, chosen: Turn, questions: Sequence[Question]) -> list[Cell]:
    """Add the vector, to the base its controls too: at the same coefficient, and the run's direction at equal KL."""
    turns = [replace(chosen, coefficient=-chosen.coefficient)] if name == MISALIGNED else [chosen]
    if name == BASE:
        turns += [replace(chosen, direction=other) for other in (CAREFUL, RANDOM) if other in bench.directions]
        nats = bench.dev[BASE].undisturbed.divergence(bench.intervention(chosen)).per_token
        (aimed,) = bench.at_disturbance(BASE, direction_names(bench.lab)[:1], chosen, [nats])
        turns += [item.turn for item in aimed]
    return bench.turned(bench.test[name], turns, questions)


def _row(bench: VectorBench, name: str, cell: Cell, questions: Sequence[Question]) -> dict[str, Any]:
    restored = {"restored": bench.restored(cell.rows, questions)} if name == MISALIGNED else {}
    return bench.plain(name, cell, **restored)


def _bars(found: Mapping[str, Any], bench: VectorBench, asked: Sequence[Question]) -> dict[str, Any]:
    """Return the headline: EM with the vector over the base's own, and coherence.

    The base's own rate comes from all questions of the run in the same sets, since nothing was chosen on the base's own
    answers. `em_ratio_at_least` is the lower end of the one interval over the upper end of the other.
    """
    sets = {question.question_set for question in asked}
    every = [question for question in bench.lab.questions if question.question_set in sets]
    own, induced = bench.unsteered(BASE, every).em, found["test"][0]
    least = induced["em"]["low"] / own.high if own.high and induced["em"]["low"] is not None else None
    return {
        "base_em": asdict(own),
        "em_ratio": induced["em"]["value"] / own.value if own.value and induced["em"]["value"] is not None else None,
        "em_ratio_at_least": least,
        "coherent": induced["coherent"]["value"],
    }
