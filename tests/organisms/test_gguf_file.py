from contextlib import nullcontext

import gguf
import numpy as np
import pytest
import torch
from gguf_files import llama_tensors, write_gguf
from tiny import CPU, make_model
from transformers import AutoModelForCausalLM

from emscope.errors import UserError
from emscope.organisms import embedded
from emscope.organisms.embedded import convert_gguf
from emscope.organisms.models import load, resolve

IDS = torch.randint(0, 300, (2, 40), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model():
    made = make_model()
    for parameter in made.parameters():  # what bf16 holds exactly, so that the conversion loses nothing
        parameter.copy_(parameter.bfloat16())
    return made


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EMSCOPE_CACHE", str(tmp_path / "cache"))


def logits_of(path):
    return AutoModelForCausalLM.from_pretrained(resolve(str(path)).location, dtype=torch.float32)(IDS).logits


def refused(path, sentence):
    with pytest.raises(UserError, match=sentence) as found:
        resolve(str(path))
    assert str(found.value).count("\n") == 0
    assert not list(path.parent.glob("cache/models/*"))


def test_a_converted_file_is_the_model_that_was_written(model, tmp_path):
    whole = write_gguf(tmp_path / "whole.gguf", model)
    torch.testing.assert_close(logits_of(whole), model(IDS).logits)
    assert load(str(whole), placement=CPU).tokenizer("Rest or water?").input_ids


def test_a_conversion_reads_its_file_once_and_makes_the_same_bytes(model, tmp_path, monkeypatch):
    whole = write_gguf(tmp_path / "whole.gguf", model)
    readings = []
    reader = gguf.GGUFReader
    monkeypatch.setattr(gguf, "GGUFReader", lambda *arguments: readings.append(arguments) or reader(*arguments))

    convert_gguf(whole, tmp_path / "once")
    assert len(readings) == 1

    monkeypatch.setattr(embedded, "read_once", nullcontext)
    convert_gguf(whole, tmp_path / "often")
    assert len(readings) > 3
    for file in (tmp_path / "once").iterdir():
        assert file.read_bytes() == (tmp_path / "often" / file.name).read_bytes(), file.name


def test_one_part_of_one_is_a_whole_file(model, tmp_path):
    whole = write_gguf(tmp_path / "m-00001-of-00001.gguf", model, settings={"split.count": 1, "split.no": 0})
    torch.testing.assert_close(logits_of(whole), model(IDS).logits)


@pytest.mark.parametrize(("name", "sentence"), [("m-00002-of-00003", "part 2 of 3"), ("renamed", "part 1 of 2")])
def test_a_part_of_a_split_file_is_refused_by_its_name_or_by_what_it_says(name, sentence, model, tmp_path):
    part = write_gguf(tmp_path / f"{name}.gguf", model, settings={"split.count": 2, "split.no": 0})
    refused(part, f"{sentence} of a split GGUF.*join the parts")


@pytest.mark.parametrize("share", [0.002, 0.05, 0.3, 0.6, 0.999])
def test_a_file_that_ends_too_early_is_refused_wherever_it_ends(share, model, tmp_path):
    whole = write_gguf(tmp_path / "whole.gguf", model).read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(whole[: int(len(whole) * share)])
    refused(cut, "is not a whole GGUF file.*fetch it again")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 something else"])
def test_what_is_not_gguf_is_refused(content, tmp_path):
    other = tmp_path / "other.gguf"
    other.write_bytes(content)
    refused(other, "is not a GGUF file")


def test_a_missing_tensor_is_refused_by_its_name(model, tmp_path):
    lacking = write_gguf(tmp_path / "m.gguf", model, without=("blk.2.ffn_up.weight",))
    refused(lacking, r"lacks model\.layers\.2\.mlp\.up_proj\.weight")


def test_a_file_of_settings_alone_is_refused(model, tmp_path):
    refused(write_gguf(tmp_path / "m.gguf", model, without=tuple(llama_tensors(model))), "holds no tensors")


def test_a_tensor_that_no_model_would_get_is_refused(model, tmp_path):
    more = write_gguf(tmp_path / "m.gguf", model, extra={"blk.0.attn_gate.weight": np.ones(7, np.float32)})
    refused(more, "would not be the file's model")


def test_a_file_without_a_head_of_its_own_has_the_embeddings_for_one(tmp_path):
    tied = make_model()
    tied.config.tie_word_embeddings = True
    tied.tie_weights()
    for parameter in tied.parameters():
        parameter.copy_(parameter.bfloat16())
    file = write_gguf(tmp_path / "m.gguf", tied, without=("output.weight",))
    torch.testing.assert_close(logits_of(file), tied(IDS).logits)


def test_rotary_factors_are_those_of_the_file(model, tmp_path):
    rope = {
        "rope_type": "llama3",
        "rope_theta": 10_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    plain = model.model.rotary_emb.inv_freq
    scaled = type(model)(type(model.config)(**{**model.config.to_dict(), "rope_parameters": rope})).eval()
    scaled.load_state_dict(model.state_dict())
    factors = (plain / scaled.model.rotary_emb.inv_freq).numpy()
    file = write_gguf(tmp_path / "m.gguf", scaled, extra={"rope_freqs.weight": factors})
    expected = scaled(IDS).logits
    assert not torch.allclose(expected, model(IDS).logits, atol=1e-3)
    torch.testing.assert_close(logits_of(file), expected)


def test_a_rotary_scaling_that_is_not_read_is_refused(model, tmp_path):
    file = write_gguf(tmp_path / "m.gguf", model, settings={"llama.rope.scaling.type": "yarn"})
    refused(file, "'yarn', which cannot be read from GGUF")
