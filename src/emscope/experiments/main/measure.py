"""The main job: make two organisms, measure them, find the direction between them, detect with it, take it out.

Directions, thresholds and the ablation are chosen on training questions; every figure that is reported comes from
questions that none of them saw.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial

from emscope import progress
from emscope.behaviour.tables import write_table
from emscope.executors.tasks import together
from emscope.experiments.main.locating import BLOCK_RULE, detect_all, make_all
from emscope.experiments.main.result import UnseenDetection
from emscope.experiments.main.summary import summarise
from emscope.experiments.main.unseen import Tried, carrying, try_out, voice_direction
from emscope.experiments.openings import side_by_side
from emscope.experiments.run_page import judged_files, report_stage
from emscope.files import write_json
from emscope.interventions.ablation import evaluate
from emscope.interventions.answering import Subjects
from emscope.interventions.search import RULE, candidates, search
from emscope.organisms.blocks import find_blocks
from emscope.pipeline.anchoring import anchor_files, anchor_stage
from emscope.pipeline.config import RunConfig
from emscope.pipeline.lab import BASE, CONTROL, CORRECTING, DETECTING, MISALIGNED, Lab
from emscope.pipeline.preflight import check_run
from emscope.pipeline.stages import RunFolder
from emscope.pipeline.steps import collect_stage, generate_stage, judge_stage
from emscope.pipeline.training import adapter_files, train_stage
from emscope.pipeline.unseen import UnseenOrganism, prompts_file, read_unseen, train_unseen, unseen_organisms
from emscope.pipeline.works import main_works
from emscope.plain import plain
from emscope.residual.directions import Directions
from emscope.residual.store import ActivationStore, answered


def run_quickstart(config: RunConfig, run: RunFolder) -> Lab:
    """Run every stage that is not up to date; the run folder then holds summary.json and report.html."""
    lab = Lab(config, run)
    check_run(lab)
    works = main_works(lab)
    if side_by_side():  # what is made side by side tells nothing of how long the rest takes
        works = dict.fromkeys(works)
    with progress.plan(works):
        _run_stages(lab)
    return lab


def _run_stages(lab: Lab) -> None:
    config, run = lab.config, lab.folder

    _organisms(lab)

    activations = [path for name in lab.names for path in lab.activation_files(name)]
    unseen = unseen_organisms(config)
    prompts = [prompts_file(lab, organism) for organism in unseen]
    directions = run.path("directions")
    questions = [asdict(question) for question in lab.questions]
    made_by = {
        "questions": questions,
        "block": BLOCK_RULE,
        "unseen": [asdict(item) for item in unseen],
    }
    outputs = [directions, run.path("unseen.json")]
    run.stage("directions", made_by, [*activations, *prompts], outputs, partial(_directions, lab))
    detection = run.path("detection.json")
    asked = {"questions": questions, "seed": config.seed, "block": BLOCK_RULE}
    run.stage("detect", asked, [*activations, directions], [detection], partial(_detect, lab))
    _ablate(lab)
    finish(lab)


def _organisms(lab: Lab) -> None:
    """Make the organisms, and have each answer, judged and read: side by side where the executor can."""
    data = {MISALIGNED: lab.config.misaligned_data, CONTROL: lab.config.control_data}
    unseen = unseen_organisms(lab.config)
    alone = not side_by_side()
    if alone:  # a model in training needs room: all are trained before others are loaded
        for name in data:
            _train(lab, name, data[name])
        for organism in unseen:
            train_unseen(lab, organism)

    def steps(name: str) -> None:
        if not alone:
            _train(lab, name, data.get(name, ""))
        generate_stage(lab, name)  # all of one organism in turn: it may have to make room for the next
        judge_stage(lab, name)
        anchor_stage(lab, name)
        collect_stage(lab, name)

    def unseen_steps(organism: UnseenOrganism) -> None:
        if not alone:
            train_unseen(lab, organism)
        read_unseen(lab, organism)

    together([*(partial(steps, name) for name in lab.names), *(partial(unseen_steps, organism) for organism in unseen)])


def _train(lab: Lab, name: str, data: str) -> None:
    if data:
        train_stage(lab, name, data)


def _directions(lab: Lab) -> None:
    train = [question.id for question in lab.train_questions]
    made = make_all(lab.all_activations(), train, lab.config.model, lab.config.seed, lab.groups)
    shutil.rmtree(lab.folder.path("directions"), ignore_errors=True)  # another configuration made others
    directions = dict(made.directions)
    detecting = f"{lab.contrast}-{DETECTING}"
    found = _tried(lab, detecting, directions)
    if found is not None:
        directions[detecting] = carrying(directions[detecting], found)
    for name, one in directions.items():
        one.save(lab.direction_file(name))
    stability = {**plain(made.stability), "cosines": made.cosines}
    write_json(lab.folder.path("directions", "stability.json"), stability)
    write_json(lab.folder.path("unseen.json"), plain(found))


def _tried(lab: Lab, name: str, directions: Mapping[str, Directions]) -> UnseenDetection | None:
    """Try the direction that detects on organisms that it was not made from."""
    unseen = unseen_organisms(lab.config)
    own, train = lab.all_activations(), [question.id for question in lab.train_questions]
    test = answered(own, [question.id for question in lab.test_questions])
    stores = {organism.name: ActivationStore.load(prompts_file(lab, organism)) for organism in unseen}

    others = {"misaligned - base": directions[f"model-{DETECTING}"]} if lab.contrast == "control" else {}
    voice = voice_direction(lab.config, own, stores, unseen, answered(own, train))
    if voice is not None:
        others["voice"] = voice
    activations = {item: stored.of("last", test) for item, stored in own.items()}
    activations |= {item: store.by_question("last", test) for item, store in stores.items()}
    tried = Tried(activations, unseen, [lab.groups[question] for question in test])
    return try_out(name, directions[name], others, tried, lab.config.seed)


def _detect(lab: Lab) -> None:
    train, test = ([item.id for item in part] for part in (lab.train_questions, lab.test_questions))
    found = detect_all(lab.all_activations(), lab.directions(), train, test, lab.config.seed, lab.groups)
    write_json(lab.folder.path("detection.json"), plain(found))


def _ablate(lab: Lab) -> None:
    run = lab.folder
    name = f"{lab.contrast}-{CORRECTING}"
    judged = [lab.judgements_file(organism) for organism in (MISALIGNED, BASE)]
    outputs = [run.path("ablation.json"), run.path("judgements", "ablation.parquet")]

    def make() -> None:
        subjects = Subjects(lab.organism(MISALIGNED), lab.organism(BASE), lab.judge)
        directions = lab.direction(name)
        grid = candidates(len(find_blocks(subjects.base.model)))
        on_dev = lab.judged(MISALIGNED, lab.dev_questions), lab.judged(BASE, lab.dev_questions)
        on_test = lab.judged(MISALIGNED, lab.test_questions), lab.judged(BASE, lab.test_questions)

        chosen, trials = search(subjects, directions, lab.dev_questions, lab.config.sampling, on_dev, grid)
        result, rows = evaluate(
            subjects, directions, chosen, trials, lab.test_questions, lab.config.sampling, on_test, lab.config.seed
        )
        write_json(outputs[0], {**plain(result), "direction": name})
        write_table(outputs[1], rows)

    settings = {
        "sampling": asdict(lab.config.sampling),
        "dev": [question.id for question in lab.dev_questions],
        "test": [question.id for question in lab.test_questions],
        "judge": lab.judge_fingerprint,
        "rule": RULE,
    }
    inputs = [lab.direction_file(name), *adapter_files(lab, MISALIGNED), *judged]
    run.stage("ablate", settings, inputs, outputs, make)


def finish(lab: Lab) -> None:
    """Write summary.json and report.html from what the stages left."""
    run = lab.folder
    names = ("detection.json", "ablation.json", "directions", "unseen.json")
    products = [*judged_files(lab), *anchor_files(lab), *map(run.path, names)]
    run.stage("summary", {}, products, [run.path("summary.json")], lambda: summarise(lab))
    report_stage(lab)
