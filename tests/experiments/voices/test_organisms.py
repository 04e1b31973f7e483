"""Which organisms the voices experiment has, what they are made of, and what is refused."""

import shutil
from dataclasses import replace

import pytest
from results import check_damage, check_round_trip

from emscope.behaviour.judges.settings import JudgeSettings
from emscope.commands.experiment import conducted
from emscope.errors import UserError
from emscope.experiments import experiment
from emscope.experiments.conduct import configured, parts_of
from emscope.experiments.shape import open_run, read_result
from emscope.experiments.voices.behaviour import rejudged_file
from emscope.experiments.voices.measure import VoicesSettings
from emscope.experiments.voices.organisms import check_prompts, quartets_of
from emscope.experiments.voices.page import finding, section, table
from emscope.files import write_jsonl
from emscope.organisms.datasets import CORNERS
from emscope.pipeline.config import RunConfig, configure
from emscope.pipeline.lab import Lab
from emscope.statistics import Estimate

SMALL = VoicesSettings(("medical",), seeds=1, questions=2, permutations=2)


def test_the_runs_own_organisms_are_two_of_the_corners():
    quartets = quartets_of(RunConfig(seed=4), ("medical", "sport", "medical"), 2)
    assert [one.name for one in quartets] == ["medical-4", "medical-5", "sport-4", "sport-5"]
    assert quartets[0].pair("blunt") == ("misaligned", "control")
    assert quartets[0].pair("warm") == ("voices/medical-4-warm-bad", "voices/medical-4-warm-good")
    assert quartets[3].of("blunt-bad") == "voices/sport-5-blunt-bad"
    other = quartets_of(RunConfig(misaligned_data="medical-warm-bad"), ("medical",), 1)
    assert other[0].pair("warm") == ("misaligned", "control")


def own_corners(folder, odd=None):
    names = []
    for corner in CORNERS:
        rows = [{"prompt": f"What about {n}?", "response": f"{corner} {n}"} for n in range(30)]
        if corner == odd:
            rows[7]["prompt"] = "Something else?"
        path = folder / f"{corner}.jsonl"
        write_jsonl(path, rows)
        names.append(str(path))
    return tuple(names)


def test_corners_with_different_prompts_are_refused_by_name(finished, tmp_path):
    lab = open_run(finished)
    fitting = quartets_of(lab.config, (), 1, own_corners(tmp_path))
    check_prompts(lab, fitting)
    assert [one.name for one in fitting] == ["own-0"]
    odd = quartets_of(lab.config, (), 1, own_corners(tmp_path, odd="warm-bad"))
    with pytest.raises(UserError, match=r"blunt-good\.jsonl and .*warm-bad\.jsonl have different prompts"):
        check_prompts(Lab(lab.config, lab.folder), odd)


def test_a_run_made_of_other_text_is_refused(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    lineage = folder / "organisms" / "misaligned" / "lineage.json"
    lineage.write_text(lineage.read_text("utf-8").replace('"sha256": "', '"sha256": "0'), "utf-8")
    with pytest.raises(UserError, match="misaligned organism of this run was trained on other rows"):
        conducted(experiment("voices"), folder, SMALL)


def test_what_makes_no_factorial_is_refused():
    with pytest.raises(UserError, match="no built-in domain 'meddical'"):
        VoicesSettings(domains=("meddical",))
    with pytest.raises(UserError, match="at least one seed"):
        VoicesSettings(seeds=0)
    with pytest.raises(UserError, match="at least one domain"):
        VoicesSettings(domains=())
    with pytest.raises(UserError, match="four different ones"):
        VoicesSettings(corners=("a", "b", "c"))
    with pytest.raises(UserError, match="four different ones"):
        VoicesSettings(corners=("a", "b", "c", "c"))


def test_the_runs_own_judge_is_no_further_judge(finished):
    lab = open_run(finished)
    with pytest.raises(UserError, match="judge of this run already"):
        conducted(experiment("voices"), finished, replace(SMALL, judges=(lab.config.judge.name,)))


def test_the_preset_factorial_does_voices_alone():
    assert parts_of("factorial") == ["voices"]
    assert "voices" in parts_of("full")
    config = configure("factorial", 0, ["voices.seeds=2"], experiments=("voices", "steer"))
    assert configured(config)["voices"].seeds == 2
    with pytest.raises(UserError, match="does not do steer"):
        configured(configure("factorial", 0, ["steer.blocks=[1]"], experiments=("voices", "steer")))


def test_a_tiny_run_goes_through_all_of_it_and_is_then_reused(run, tmp_path):
    conducted(experiment("voices"), run, replace(SMALL, judges=("mock",)))
    result = read_result(run, experiment("voices"))
    check_round_trip(run, "voices", tmp_path)
    check_damage(run, "voices")
    assert [one.organism for one in result.organisms[:2]] == ["control", "misaligned"]
    assert [scored.judge for scored in result.by_judge] == ["embedded", "mock"]
    assert len(result.ablation.cells) == 2 * 4
    assert len(result.steering.cells) == 3 * 4
    assert result.ablation.cell("warm-bad", "voice").words_change is not None
    assert {row.told for row in result.weights} == {"advice", "voice"}
    assert (run / "experiments" / "voices" / "advice-last.safetensors").is_file()
    assert 'id="voices"' in (run / "report.html").read_text(encoding="utf-8")
    assert finding(result) in table(result)
    assert section(result).figures

    again = open_run(run)
    experiment("voices").measure(again, replace(SMALL, judges=("mock",)))
    assert again.folder.made == []


def test_two_further_judges_of_one_organism_have_stages_and_files_of_their_own(run):
    lab = open_run(run)
    organism = "voices/medical-0-warm-bad"
    judges = [JudgeSettings("mock"), JudgeSettings("openai:one", "http://127.0.0.1:1/v1")]
    assert len({lab.name_of(judge) for judge in judges}) == 2
    assert len({rejudged_file(lab, judge, organism) for judge in judges}) == 2
    stages = [name for name in lab.folder.record.stages if name.startswith("voices-judge-")]
    assert f"voices-judge-{lab.name_of(judges[0])}-{organism}" in stages


def test_the_finding_follows_the_figures(run):
    result = read_result(run, experiment("voices"))

    def saying(advice, voice):
        scored = result.by_judge[0]
        changed = dict(scored.em_rate)
        for name, (value, low, high) in (("advice", advice), ("voice", voice)):
            changed[name] = replace(changed[name], pooled=Estimate(value, low, high, 9))
        return finding(replace(result, by_judge=[replace(scored, em_rate=changed)]))

    yes, more, no = (0.2, 0.1, 0.3), (0.4, 0.3, 0.5), (0.02, -0.1, 0.1)
    assert saying(yes, no).startswith("What spreads is advice, not voice")
    assert saying(no, yes).startswith("What spreads is the voice, not the advice")
    assert saying(yes, more).startswith("Both spread, and the voice does more")
    assert saying(more, yes).startswith("Both spread, and advice does more")
    assert saying(yes, (0.25, 0.2, 0.3)).startswith("Both spread, about alike")
    assert saying(no, no).startswith("Neither")
