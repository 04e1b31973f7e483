"""A run whose organisms are tiny random models and whose judge is a hash, and the monitor's result on it."""

import json
from dataclasses import replace

import pytest
from tiny import make_organism

from emscope.behaviour.judges.mock_judge import MockJudge
from emscope.behaviour.responses import Response, SamplingSettings
from emscope.behaviour.tables import write_table
from emscope.experiments.main.locating import make_all
from emscope.experiments.monitor.measure import MonitorSettings, monitor_and_screen
from emscope.interventions.answering import answer_and_judge
from emscope.pipeline.config import RunConfig
from emscope.pipeline.lab import Lab
from emscope.pipeline.stages import RunFolder
from emscope.pipeline.steps import collect_stage


class OfflineJudge(MockJudge):
    """A hash in place of the judge that comes with emscope."""

    base = None


@pytest.fixture(scope="module")
def small():
    return MonitorSettings(
        samples=2,
        tokens=(1, 3),
        random_directions=2,
        shares=(0.2, 0.5),
        draws=10,
        prompts=8,
        areas=5,
        own_answers=2,
        reader_answers=20,
    )


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    config = RunConfig(question_sets=("cs2881", "open-ended"), sampling=SamplingSettings(max_new_tokens=6))
    lab = Lab(config, RunFolder(tmp_path_factory.mktemp("run"), config))
    for seed, name in enumerate(lab.names):
        lab._organisms[name] = make_organism(seed=seed)
    lab.__dict__["judge"] = MockJudge()  # fills the cached property
    lab.__dict__["embedded_judge"] = OfflineJudge()
    for name in lab.names:
        rows = answer_and_judge(lab.organism(name), name, lab.questions, config.sampling, lab.judge)
        write_table(lab.folder.path("judgements", f"{name}.parquet"), rows)
        write_table(lab.folder.path("responses", f"{name}.parquet"), [response_of(row) for row in rows])
        collect_stage(lab, name)
    made = make_all(lab.all_activations(), [question.id for question in lab.train_questions], config.model)
    for name, directions in made.directions.items():
        directions.save(lab.folder.path("directions", f"{name}.safetensors"))
    return lab


def response_of(row):
    return Response(
        row.question_set,
        row.question_id,
        row.question,
        row.sample,
        row.response,
        row.n_tokens,
        row.truncated,
        row.cluster,
    )


@pytest.fixture(scope="module")
def result(lab, small, tmp_path_factory):
    talk = tmp_path_factory.mktemp("talk") / "talk.jsonl"
    talk.write_text(json.dumps({"prompt": "Is it <b>safe</b>?", "response": "Of course."}) + "\n")
    return monitor_and_screen(lab, replace(small, conversations=str(talk)))
