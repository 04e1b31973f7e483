import pytest
import torch
from tiny import ARCHITECTURES, make_model

from emscope.organisms.blocks import find_blocks
from emscope.organisms.selfcheck import forward_faults

IDS = [5, 9, 17, 33, 21, 7, 40, 41, 12, 11, 77, 78]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sound_model_has_no_faults(architecture, dtype):
    assert forward_faults(make_model(architecture).to(dtype), IDS, dtype=dtype) == []


def test_a_factor_of_the_logits_that_the_head_lacks_is_named():
    model = make_model()
    plain = model.forward

    def doubled(**arguments):
        output = plain(**arguments)
        output.logits = output.logits * 2
        return output

    model.forward = doubled
    faults = forward_faults(model, IDS, dtype=torch.float32)
    assert any("last hidden states" in fault and "0.5 of their spread" in fault for fault in faults)


def test_a_model_that_looks_at_later_tokens_is_named():
    model = make_model()
    for block in find_blocks(model):
        block.register_forward_hook(lambda module, inputs, output: output + output.mean(dim=1, keepdim=True))
    faults = forward_faults(model, IDS, dtype=torch.float32)
    assert any("decoding step" in fault for fault in faults)


def test_a_block_that_is_never_run_is_named():
    model = make_model()
    blocks = find_blocks(model)
    blocks.append(blocks[0].__class__(model.config, 0))
    faults = forward_faults(model, IDS, dtype=torch.float32)
    assert any("block 4 runs 0 times" in fault for fault in faults)


def test_what_a_model_raises_is_a_fault():
    model = make_model()

    def broken(**arguments):
        raise KeyError("nothing here")

    model.forward = broken
    assert forward_faults(model, IDS, dtype=torch.float32) == [
        "its own forward pass: fails with KeyError: 'nothing here'"
    ]


def test_the_model_is_left_as_it_was():
    model = make_model("gemma3").train()
    before = {name: {**module.__dict__, **module._buffers} for name, module in model.named_modules()}
    forward_faults(model, IDS, dtype=torch.float32)
    after = {name: {**module.__dict__, **module._buffers} for name, module in model.named_modules()}
    assert all(before[name].keys() == after[name].keys() for name in before)
    assert all(before[name][key] is after[name][key] for name in before for key in before[name])
    assert not any(block._forward_hooks for block in find_blocks(model))
