"""The main job: make two organisms, measure them, find the direction between them, detect with it, take it out.

Directions, thresholds and the ablation are chosen on training questions; every figure that is reported comes from
questions that none of them saw.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import asdict
from functools import partial
from pathlib import Path

from emscope import progress
from emscope.behaviour.answer_faults import count_faults
from emscope.behaviour.appeals import count_appeals
from emscope.behaviour.responses import Response
from emscope.behaviour.sampling import sample_responses
from emscope.behaviour.tables import JudgedResponse, read_table, with_judgements, write_table
from emscope.files import shown_files, write_json
from emscope.interventions.ablation import evaluate
from emscope.interventions.answering import Subjects
from emscope.interventions.search import candidates, search
from emscope.organisms.blocks import find_blocks
from emscope.pipeline.config import RunConfig
from emscope.pipeline.lab import BASE, CONTROL, MISALIGNED, Lab
from emscope.pipeline.locate import CORRECTING, OrganismActivations, detect_all, make_all
from emscope.pipeline.preflight import check_run
from emscope.pipeline.reporting import judged_files, report_stage
from emscope.pipeline.stages import RunFolder
from emscope.pipeline.summary import summarise
from emscope.pipeline.training import adapter_files, train_stage
from emscope.pipeline.works import main_works
from emscope.residual.capture import Activations, CaptureSettings, capture
from emscope.residual.directions import Directions
from emscope.residual.store import ActivationStore

logger = logging.getLogger(__name__)

KINDS = ("prompts", "answers")


def run_quickstart(config: RunConfig, run: RunFolder) -> Lab:
    """Run every stage that is not up to date; the run folder then holds summary.json and report.html."""
    lab = Lab(config, run)
    check_run(lab)
    with progress.plan(main_works(lab)):
        _run_stages(lab)
    return lab


def _run_stages(lab: Lab) -> None:
    config, run = lab.config, lab.folder
    for name, data in ((MISALIGNED, config.misaligned_data), (CONTROL, config.control_data)):
        if data:
            train_stage(lab, name, data)
    for name in lab.names:  # all that one organism does, one after the other: it may have to make room for the next
        generate_stage(lab, name)
        judge_stage(lab, name)
        collect_stage(lab, name)
    activations = [path for name in lab.names for path in activation_files(lab, name)]
    directions = run.path("directions")
    questions = [asdict(question) for question in lab.questions]
    run.stage("directions", questions, activations, [directions], partial(_directions, lab))
    detection = run.path("detection.json")
    asked = {"questions": questions, "seed": config.seed}
    run.stage("detect", asked, [*activations, directions], [detection], partial(_detect, lab))
    _ablate(lab)
    finish(lab)


def generate_stage(lab: Lab, name: str) -> None:
    """Sample an organism's answers to all questions of the run."""
    out = lab.folder.path("responses", f"{name}.parquet")
    settings = {
        "model": lab.config.model,
        "questions": [asdict(question) for question in lab.questions],
        "sampling": asdict(lab.config.sampling),
    }

    def make() -> None:
        organism = lab.organism(name)
        rows = sample_responses(organism, lab.questions, lab.config.sampling, name=f"{name} answers")
        write_table(out, rows)
        faults = count_faults(rows)
        if faults.notable:
            logger.info("%s: %s.", name, faults)

    lab.folder.stage(f"generate-{name}", settings, adapter_files(lab, name), [out], make)


def judge_stage(lab: Lab, name: str) -> None:
    """Judge an organism's answers."""
    responses = lab.folder.path("responses", f"{name}.parquet")
    out = lab.folder.path("judgements", f"{name}.parquet")

    def make() -> None:
        rows = read_table(responses, Response)
        scores = lab.judge.judge([row.question for row in rows], [row.response for row in rows])
        write_table(out, with_judgements(name, rows, scores, lab.judge.id))
        if appeals := str(count_appeals([row.response for row in rows])):
            logger.warning("%s: %s.", name, appeals)

    lab.folder.stage(f"judge-{name}", lab.judge_fingerprint, [responses], [out], make)


def collect_stage(lab: Lab, name: str) -> None:
    """Store the last prompt token of every question, and the mean of each answer."""
    responses = lab.folder.path("responses", f"{name}.parquet")
    prompts, answers = activation_files(lab, name)

    def make() -> None:
        organism, rows = lab.organism(name), read_table(responses, Response)
        found = capture(organism, lab.encode(organism, rows), CaptureSettings(("last", "response")))
        first = list({row.question_id: number for number, row in reversed(list(enumerate(rows)))}.values())
        answered = [number for number, row in enumerate(rows) if row.response]
        for path, pooling, chosen in ((prompts, "last", sorted(first)), (answers, "response", answered)):
            pooled = {pooling: found.pooled[pooling][chosen]}
            ids = tuple(rows[number].question_id for number in chosen)
            ActivationStore(name, ids, Activations(pooled, found.blocks, found.site)).save(path)

    settings = {"model": lab.config.model, "questions": [asdict(question) for question in lab.questions]}
    lab.folder.stage(f"collect-{name}", settings, [*adapter_files(lab, name), responses], [prompts, answers], make)


def load_activations(lab: Lab) -> dict[str, OrganismActivations]:
    """Return the stored activations of every organism of the run."""
    return {name: organism_activations(lab, name) for name in lab.names}


def organism_activations(lab: Lab, name: str) -> OrganismActivations:
    """Return the stored activations of one organism."""
    return OrganismActivations(*(ActivationStore.load(path) for path in activation_files(lab, name)))


def activation_files(lab: Lab, name: str) -> list[Path]:
    """Return where the activations of an organism are kept: its prompts and its answers."""
    return [lab.folder.path("activations", f"{name}-{kind}.safetensors") for kind in KINDS]


def _directions(lab: Lab) -> None:
    train = [question.id for question in lab.train_questions]
    made = make_all(load_activations(lab), train, lab.config.model, groups=lab.groups)
    shutil.rmtree(lab.folder.path("directions"), ignore_errors=True)  # another configuration made others
    for name, directions in made.directions.items():
        directions.save(lab.folder.path("directions", f"{name}.safetensors"))
    write_json(lab.folder.path("directions", "stability.json"), made.stability)


def load_directions(lab: Lab) -> dict[str, Directions]:
    """Return the stored directions of the run by name (contrast-pooling-method)."""
    files = shown_files(lab.folder.path("directions"), "*.safetensors")
    return {path.stem: Directions.load(path) for path in files}


def _detect(lab: Lab) -> None:
    train, test = ([item.id for item in part] for part in (lab.train_questions, lab.test_questions))
    found = detect_all(load_activations(lab), load_directions(lab), train, test, lab.config.seed, lab.groups)
    write_json(lab.folder.path("detection.json"), found)


def _ablate(lab: Lab) -> None:
    run = lab.folder
    contrast = lab.contrast
    source = run.path("directions", f"{contrast}-{CORRECTING}.safetensors")
    judged = [run.path("judgements", f"{name}.parquet") for name in (MISALIGNED, BASE)]
    outputs = [run.path("ablation.json"), run.path("judgements", "ablation.parquet")]

    def make() -> None:
        subjects = Subjects(lab.organism(MISALIGNED), lab.organism(BASE), lab.judge)
        directions, plain = Directions.load(source), [read_table(path, JudgedResponse) for path in judged]
        dev = {question.id for question in lab.dev_questions}
        test = {question.id for question in lab.test_questions}
        grid = candidates(len(find_blocks(subjects.base.model)))

        def without(part: set[str]) -> tuple[list[JudgedResponse], list[JudgedResponse]]:
            own, base = ([row for row in rows if row.question_id in part] for rows in plain)
            return own, base

        chosen, trials = search(subjects, directions, lab.dev_questions, lab.config.sampling, without(dev), grid)
        result, rows = evaluate(
            subjects,
            directions,
            chosen,
            trials,
            lab.test_questions,
            lab.config.sampling,
            without(test),
            lab.config.seed,
        )
        write_json(outputs[0], {**result.as_dict(), "direction": source.stem})
        write_table(outputs[1], rows)

    settings = {
        "sampling": asdict(lab.config.sampling),
        "dev": [question.id for question in lab.dev_questions],
        "test": [question.id for question in lab.test_questions],
        "judge": lab.judge_fingerprint,
    }
    run.stage("ablate", settings, [source, *adapter_files(lab, MISALIGNED), *judged], outputs, make)


def finish(lab: Lab) -> None:
    """Write summary.json and report.html from what the stages left."""
    run = lab.folder
    products = [*judged_files(lab), *(run.path(name) for name in ("detection.json", "ablation.json", "directions"))]
    run.stage("summary", {}, products, [run.path("summary.json")], lambda: summarise(lab))
    report_stage(lab)
