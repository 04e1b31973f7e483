"""Train one vector on a run's careless rows and add it to the base: is one vector enough to misalign it?

The coefficient is chosen on development questions; what is reported of it comes from test questions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from emscope import progress
from emscope.behaviour.questions import Question
from emscope.behaviour.tables import write_table
from emscope.errors import UserError
from emscope.experiments.bench import DEV, TEST, SteeredRow, direction_names, files_read, trials_of
from emscope.experiments.induce.result import (
    CAREFUL,
    CARELESS,
    RANDOM,
    Bars,
    InduceResult,
    VectorRow,
    VectorTraining,
)
from emscope.experiments.induce.vectors import VectorBench, by_set, cosines, downstream
from emscope.experiments.shape import experiment_stage, left_open
from emscope.files import write_json
from emscope.interventions.steering import Steering, SteeringTrial, choose_induction
from emscope.interventions.trained import TrainedVector, VectorSettings, train_vector
from emscope.organisms.blocks import check_blocks, find_blocks
from emscope.organisms.train import encode_conversations, readable_length
from emscope.outside import read_json
from emscope.pipeline.data import is_trained_elsewhere
from emscope.pipeline.lab import BASE, MISALIGNED, Lab
from emscope.pipeline.works import ROW, answering
from emscope.plain import fitted, plain
from emscope.sequences import spread

COHERENT_ENOUGH = 0.8
"""Share of coherent answers that a chosen coefficient leaves, where one does."""
DEPTH = 0.5
"""Where the vector is added unless a block is named, as a share of the depth."""
STEMS = {CARELESS: "careless", CAREFUL: "careful"}
"""What the files of a trained vector are called."""


@dataclass(frozen=True)
class InduceSettings:
    """Where a vector is trained, on what, and on how many questions it is tried.

    Attributes:
        block: the block after which the vector is added; not said, at half of the depth.
        data: careless rows; by default the run's own.
        control_data: careful rows; by default the run's own, none if it has none.
        vector: how vectors are trained.
        coefficients: multiples of the vector tried on the base.
        dial_questions: development questions asked at each coefficient.
        test_questions: test questions asked of what was chosen; not said, all.
        kl_questions: questions whose answers measure a disturbance and where the vector leads.
    """

    block: int | None = left_open(-1)
    data: str | None = left_open("")
    control_data: str | None = left_open("")
    vector: VectorSettings = field(default_factory=VectorSettings)
    coefficients: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25)
    dial_questions: int = 20
    test_questions: int | None = left_open(0)
    kl_questions: int = 10

    def __post_init__(self) -> None:
        """Refuse settings that choose nothing."""
        if min(self.coefficients, default=0) <= 0:
            raise UserError("Coefficients must be above 0: they induce what the vector was trained on.")
        if min(self.dial_questions, self.kl_questions) < 2 or self.test_questions == 0:
            raise UserError("Inducing needs at least two questions to choose the coefficient and for the disturbance.")


def measure(lab: Lab, settings: InduceSettings) -> InduceResult:
    """Train what is missing, and write experiments/induce.json and judgements/induce.parquet of the run.

    Raises:
        UserError: a block that the model does not have, or organisms trained elsewhere and no rows given.
    """
    n_blocks = len(find_blocks(lab.organism(BASE).model))
    (block,) = check_blocks([int(n_blocks * DEPTH) if settings.block is None else settings.block], n_blocks)
    data = _data(lab, settings)
    answers_file = lab.judgements_file("induce")

    with progress.plan(_works(lab, settings, data)):
        vectors = {}
        for name, rows in data.items():
            vectors[name] = _vector_stage(lab, settings.vector, block, name, rows)

        inputs = [*vectors.values(), *files_read(lab)]

        def result() -> InduceResult:
            bench = VectorBench(lab, block, settings.kl_questions, vectors)
            induced = _result(bench, settings, data)
            write_table(answers_file, bench.kept)
            return induced

        return experiment_stage(lab, "induce", InduceResult, settings, inputs, result, [answers_file])


def _data(lab: Lab, settings: InduceSettings) -> dict[str, str]:
    """Return the rows that each vector is trained on.

    Raises:
        UserError: the run's organisms were trained elsewhere, and no rows are named.
    """
    careless = settings.data or lab.config.misaligned_data
    careful = settings.control_data or lab.config.control_data
    for data, setting in ((careless, "data"), (careful, "control_data")):
        if is_trained_elsewhere(data):
            raise UserError(
                f"The run's organism was trained elsewhere ({data}): name its rows with the setting {setting}."
            )
    return {CARELESS: careless, CAREFUL: careful} if careful else {CARELESS: careless}


def _works(lab: Lab, settings: InduceSettings, data: Mapping[str, str]) -> dict[str, float | None]:
    """Return the stages of the experiment with their work."""
    works: dict[str, float | None] = {}
    for name, rows in data.items():
        n_rows = len(lab.training_data(rows).train)
        works[f"induce-vector-{STEMS[name]}"] = ROW * n_rows * settings.vector.epochs

    n_dial = len(data) * len(settings.coefficients) * min(settings.dial_questions, len(lab.dev_questions))
    n_test = min(settings.test_questions or len(lab.test_questions), len(lab.test_questions))
    n_answers = n_dial + (len(lab.names) + 1 + len(data)) * n_test
    works["induce"] = answering(n_answers, lab.config.sampling, altered=True)
    return works


def _vector_stage(lab: Lab, settings: VectorSettings, block: int, name: str, data: str) -> Path:
    """Train a vector on rows chosen like an organism's, unless it is there, and return its file."""
    out = lab.folder.path("experiments", "induce", f"{STEMS[name]}.safetensors")
    rows = lab.training_data(data)
    seeded = replace(settings, seed=lab.config.seed)

    def make() -> None:
        base = lab.trainable_base()
        chats = encode_conversations(base.tokenizer, rows.train, readable_length(base, seeded.max_length))
        trained = train_vector(base, chats, block, seeded, data)
        trained.directions.save(out)
        write_json(_record_of(out), plain(_training(trained, len(chats))))

    key = {"model": lab.config.model, "block": block, "rows": rows.train, "vector": asdict(seeded)}
    lab.folder.stage(f"induce-vector-{STEMS[name]}", key, [], [out, _record_of(out)], make)
    return out


def _record_of(vector: Path) -> Path:
    """Return where it is kept how a vector's training went."""
    return vector.with_suffix(".json")


def _training(trained: TrainedVector, n_rows: int) -> VectorTraining:
    norm = float(np.linalg.norm(trained.directions.vectors))
    share = norm / float(np.linalg.norm(trained.directions.negative_mean))
    return VectorTraining(trained.losses, norm, share, round(trained.seconds, 1), n_rows)


def _result(bench: VectorBench, settings: InduceSettings, data: Mapping[str, str]) -> InduceResult:
    """Turn the dial on the base, choose, and report the vector and its controls on test questions."""
    lab = bench.lab
    dial_questions = spread(lab.dev_questions, settings.dial_questions)
    test_questions = spread(lab.test_questions, settings.test_questions)

    steerings = []
    for vector in data:
        steerings += [Steering(vector, (bench.block,), size) for size in sorted(settings.coefficients)]
    dial = bench.tried(BASE, DEV, steerings, dial_questions)
    chosen = choose_induction([trial for trial in dial if trial.steering.direction == CARELESS], COHERENT_ENOUGH)

    ways = {name: _tested(bench, name, chosen.steering) for name in lab.names}
    asked = [bench.steered(name, TEST, ways[name], test_questions) for name in lab.names]
    test: list[VectorRow] = []
    induction = None
    for (name, steerings), cells in zip(ways.items(), bench.measured("test questions", asked), strict=True):
        trials = trials_of(steerings, cells)
        induction = induction or trials[0]  # the base comes first, and of it the vector itself
        for trial in trials:
            restored = bench.restored(trial.answers, test_questions) if name == MISALIGNED else None
            test.append(bench.row(VectorRow, name, trial, restored=restored))
    assert induction is not None

    return InduceResult(
        block=bench.block,
        data=data,
        training={name: _read_training(path) for name, path in bench.vectors.items()},
        unsteered=bench.all_unsteered(test_questions),
        unsteered_dial=bench.unsteered(BASE, dial_questions),
        fine_tune_kl=bench.fine_tune(bench.test, BASE),
        dial=tuple(bench.row(SteeredRow, BASE, trial) for trial in dial),
        coefficient=chosen.steering.coefficient,
        test=tuple(test),
        by_set=by_set(bench, induction, test_questions),
        cosines=cosines(bench),
        downstream=downstream(bench, chosen.steering.coefficient),
        bars=_bars(bench, induction, test_questions),
    )


def _read_training(vector: Path) -> VectorTraining:
    file = _record_of(vector)
    return fitted(VectorTraining, read_json(file), file)


def _tested(bench: VectorBench, name: str, chosen: Steering) -> list[Steering]:
    """Return how an organism is steered in the test.

    The vector is added, and taken from the misaligned organism. The base has its controls too: others at the same
    coefficient, and the run's direction at the same disturbance.
    """
    if name == MISALIGNED:
        return [replace(chosen, coefficient=-chosen.coefficient)]
    steerings = [chosen]
    if name == BASE:
        for other in (CAREFUL, RANDOM):
            if other in bench.directions:
                steerings.append(replace(chosen, direction=other))
        nats = bench.dev[BASE].undisturbed.divergence(bench.intervention(chosen)).per_token
        (aimed,) = bench.at_disturbance(BASE, direction_names(bench.lab)[:1], chosen, [nats])
        steerings.append(aimed.steering)
    return steerings


def _bars(bench: VectorBench, induction: SteeringTrial, questions: Sequence[Question]) -> Bars:
    """Return what claims are held against: EM with the vector over the base's own, and coherence."""
    sets = {question.question_set for question in questions}
    every = [question for question in bench.lab.questions if question.question_set in sets]
    base_em, em = bench.unsteered(BASE, every).em, induction.figures.em
    return Bars(
        base_em=base_em,
        em_ratio=em.value / base_em.value if base_em.value else None,
        em_ratio_at_least=em.low / base_em.high if base_em.high else None,
        coherent=induction.figures.coherent.value,
    )
