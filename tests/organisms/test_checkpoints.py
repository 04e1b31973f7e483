from itertools import product

import pytest

from emscope.organisms.checkpoints import checkpoints_of, keep_adapters, last_resumable, steps_saved

STATES = ("whole", "half", "cut", "adapter")


def write(folder, states):
    for step, state in states.items():
        path = folder / "checkpoints" / f"checkpoint-{step}"
        path.mkdir(parents=True)
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            (path / name).write_text("adapter")
        if state != "adapter":
            (path / "optimizer.pt").write_text("moments")
        if state in ("whole", "cut"):
            (path / "trainer_state.json").write_text('{"global_step": 9' + "}" * (state == "whole"))


@pytest.mark.parametrize("states", list(product(STATES, repeat=3)))
def test_training_goes_on_from_the_last_checkpoint_that_was_written_whole(tmp_path, states):
    by_step = dict(zip((5, 10, 100), states, strict=True))
    write(tmp_path, by_step)
    whole = [step for step, state in by_step.items() if state == "whole"]
    found = last_resumable(tmp_path)
    assert (found and int(found.name[11:])) == (whole[-1] if whole else None)


def test_only_adapters_are_kept(tmp_path):
    write(tmp_path, {5: "whole", 10: "half"})
    keep_adapters(tmp_path)
    assert list(checkpoints_of(tmp_path)) == [5, 10]
    kept = {path.name for checkpoint in checkpoints_of(tmp_path).values() for path in checkpoint.iterdir()}
    assert kept == {"adapter_config.json", "adapter_model.safetensors"}
    assert last_resumable(tmp_path) is None


@pytest.mark.parametrize(("total", "every", "steps"), [(6, 2, {2, 4, 6}), (7, 3, {3, 6, 7}), (2, 5, {2})])
def test_the_last_step_is_always_saved(total, every, steps):
    assert steps_saved(total, every) == steps
