"""Hot loops beside what a machine can do, and the report of it."""

import dataclasses
import json
import platform
from pathlib import Path

import pytest
import torch

from emscope.errors import UserError
from emscope.organisms.device import Placement
from emscope.pipeline.roofline import loops, machine, measure
from emscope.pipeline.roofline.loops import LoopSizes, Pace, hot_loops, sizes_for
from emscope.pipeline.roofline.machine import bandwidths, product_rate
from emscope.pipeline.roofline.measure import LOOPS, measure_limits, public_name
from emscope.pipeline.roofline.report import LimitsReport, Repeats, gemm_roof
from emscope.pipeline.roofline.shape import Work, shape_of
from emscope.pipeline.roofline.subject import random_organism

SIZES = LoopSizes(prompts=6, answers=4, new_tokens=5, judged=5, steps=2, train_batch=2)


@pytest.fixture(autouse=True, scope="module")
def _small_arrays():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(machine.ARRAY_BYTES, "cpu", 1 << 20)
        patch.setitem(machine.LARGEST_SQUARE, "cpu", 64)
        yield


@pytest.fixture(scope="module")
def subject():
    return random_organism("tiny", Placement("cpu", torch.float32, "a test"))


@pytest.fixture(scope="module")
def report(subject):
    return measure_limits(subject, SIZES, repeats=2, rows=(1, 16), seconds=0.001)


def test_every_loop_is_measured_below_its_limit(report):
    assert tuple(loop.name for loop in report.loops) == LOOPS
    assert report.not_measured == {}
    for loop in report.loops:
        assert 0 < loop.rate.smallest <= loop.rate.median <= loop.rate.largest
        assert 0 < loop.roof_share < 1
        assert loop.roof_share == pytest.approx(max(loop.gemm_share, loop.bandwidth_share))
        assert loop.own_share >= loop.gemm_share
        assert 0 <= loop.padding < 1


def test_work_of_the_loops_is_that_of_their_texts(subject):
    paces = {loop.name: loop.run() for loop in hot_loops(subject, SIZES)}
    assert paces["sampling"].units == SIZES.answers * SIZES.new_tokens  # random weights never end an answer
    assert paces["sampling"].work == paces["ablation"].work
    assert paces["sampling"].work.passes == 1 + SIZES.new_tokens  # the shared beginning, then the rest and each token
    for pace in paces.values():
        assert pace.run_tokens >= pace.work.tokens
        assert pace.work.passes > 0


def test_training_is_measured_as_a_run_has_it(subject, monkeypatch):
    seen, whole = [], loops.packed_blocks

    def noted(model):
        seen.append(whole(model) is not None)
        return whole(model)

    monkeypatch.setattr("emscope.organisms.trainer.packed_blocks", noted)
    (loop,) = [loop for loop in hot_loops(subject, SIZES) if loop.trains]
    pace = loop.run()
    assert seen == [True]  # no hook of the measurement keeps the packed blocks away
    assert (pace.work.passes, pace.run_tokens) == (SIZES.steps, pace.work.tokens)


def test_training_leaves_the_base_as_it_was(subject):
    before = {name: weight.clone() for name, weight in subject.model.state_dict().items()}
    next(loop for loop in hot_loops(subject, SIZES) if loop.trains).run()
    after = subject.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(weight.requires_grad for weight in subject.model.parameters())


def test_a_report_is_read_as_it_was_written_and_tells_nothing_private(report, tmp_path):
    file = tmp_path / "report.json"
    report.write(file)
    assert LimitsReport.read(file) == report
    text = file.read_text()
    for private in (platform.node(), str(Path.home()), str(tmp_path)):
        assert len(private) < 3 or private not in text


def test_the_name_of_a_users_model_is_not_in_a_report(organism):
    source = dataclasses.replace(organism.source, name="/home/me/secret-model")
    told = public_name(dataclasses.replace(organism, source=source), shape_of(organism.model))
    assert "secret" not in told
    assert told.startswith("llama, ")


def changed(file, change):
    value = json.loads(file.read_text())
    change(value)
    file.write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda value: value.update(version=2), "is a report of version 2, and this emscope reads 1"),
        (lambda value: value.update(kind="other"), "is no report of emscope bench"),
        (lambda value: value["loops"][0].pop("rate"), "does not say 'rate'"),
        (lambda value: value["loops"][0].update(bound="luck"), "not arithmetic or memory"),
        (lambda value: value["gemm"].update({"float32 1": 3}), "not an object"),
        (lambda value: value["gemm"].update({"a b c": value["gemm"]["float32 1"]}), "names a product 'a b c'"),
    ],
)
def test_a_report_that_cannot_be_used_is_refused(report, tmp_path, change, sentence):
    file = tmp_path / "report.json"
    report.write(file)
    changed(file, change)
    with pytest.raises(UserError, match=sentence):
        LimitsReport.read(file)


def test_a_loop_without_enough_memory_is_left_out_and_said(subject, monkeypatch):
    def fails():
        raise torch.OutOfMemoryError("CUDA out of memory")

    def loops(organism, sizes):
        found = hot_loops(organism, sizes)
        return [dataclasses.replace(loop, run=fails) if loop.name == "training" else loop for loop in found]

    monkeypatch.setattr(measure, "hot_loops", loops)
    found = measure_limits(subject, SIZES, repeats=1, only=("training", "capture"), rows=(1,), seconds=0.001)
    assert [loop.name for loop in found.loops] == ["capture"]
    assert found.not_measured == {"training": "training needs more memory than there is: lower train_batch"}
    with pytest.raises(UserError, match="No loop could be measured: training needs more memory"):
        measure_limits(subject, SIZES, repeats=1, only=("training",), rows=(1,), seconds=0.001)


def test_a_fault_is_not_taken_for_a_lack_of_memory(subject, monkeypatch):
    def fails():
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(
        measure, "hot_loops", lambda *given: [dataclasses.replace(loop, run=fails) for loop in hot_loops(*given)]
    )
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        measure_limits(subject, SIZES, repeats=1, rows=(1,), seconds=0.001)


def test_float16_that_is_trained_in_float32_is_not_measured_as_training(subject):
    old_card = dataclasses.replace(subject, placement=Placement("cpu", torch.float16, "an old card"))
    rounds = measure._Rounds(old_card, [loop for loop in hot_loops(subject, SIZES) if loop.trains])
    rounds._run(rounds.loops[0], counted=True)
    assert "float16 is too coarse" in rounds.not_measured["training"]


def test_the_roof_of_few_rows_is_lower():
    rates = {"float32 1": 1.0, "float32 16": 4.0, "float32 64": 3.0, "float32 square": 9.0, "bfloat16 64": 20.0}
    gemm = {name: Repeats.of([rate]) for name, rate in rates.items()}
    found = [gemm_roof(gemm, "float32", rows) for rows in (0.5, 1, 15, 16, 1000)]
    assert found == [1.0, 1.0, 1.0, 4.0, 4.0]
    assert gemm_roof(gemm, "float32") == 9.0


def test_rates_are_of_the_work_done():
    weights = [torch.randn(64, 64)]
    assert product_rate(weights, 64, 0.01) > product_rate(weights, 1, 0.01)
    assert set(bandwidths("cpu")) == {"read", "copy", "triad"}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_quick_sizes_are_smaller_and_larger_models_do_less_on_a_cpu(subject, device):
    shape = shape_of(subject.model)
    whole, quick = sizes_for(device, shape), sizes_for(device, shape, quick=True)
    assert quick.prompts < whole.prompts
    assert quick.steps < whole.steps
    large = dataclasses.replace(shape, block_weights=10**10)
    assert (sizes_for(device, large).answers < whole.answers) == (device == "cpu")


def test_an_unknown_loop_is_refused(subject):
    with pytest.raises(UserError, match="There is no loop 'sampel'"):
        measure_limits(subject, SIZES, only=("sampel",))


def test_sizes_of_nothing_are_refused():
    with pytest.raises(UserError, match="steps must be 1 or more"):
        LoopSizes(steps=0)


def test_a_pace_keeps_what_ran_apart_from_what_was_needed(subject):
    (loop,) = [loop for loop in hot_loops(subject, SIZES) if loop.name == "capture"]
    pace = loop.run()
    assert isinstance(pace, Pace)
    assert pace.work == dataclasses.replace(pace.work, logits=0)
    assert isinstance(pace.work, Work)
