import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import ANSWERS, CPU, PROMPTS

from emscope.errors import UserError
from emscope.organisms.chat import messages_of
from emscope.organisms.datasets import Conversations
from emscope.organisms.models import load
from emscope.organisms.settings import TrainSettings
from emscope.organisms.train import train_adapter
from emscope.residual.adapters.features import extract, read_geometry
from emscope.residual.adapters.reading import block_of, kind_of, open_adapter
from emscope.residual.capture import encode_for_capture
from emscope.residual.directions import Construction, Directions

DATA = Conversations("texts", [messages_of(*pair) for pair in zip(PROMPTS, ANSWERS, strict=True)], [])
FAST = TrainSettings(rank=3, epochs=2, batch_size=5, learning_rate=2e-2)
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def adapters(tiny_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    train_adapter(tiny_folder, DATA, folder / "plain", FAST, placement=CPU)
    attention = dataclasses.replace(FAST, rank=2, rslora=True, targets=("q_proj", "o_proj"), seed=1)
    train_adapter(tiny_folder, DATA, folder / "attention", attention, placement=CPU)
    return folder


@pytest.fixture(scope="module")
def geometry(tiny_folder, adapters):
    base = load(tiny_folder, placement=CPU)
    chats = encode_for_capture(base.tokenizer, PROMPTS, ANSWERS)
    return read_geometry(base, chats, open_adapter(adapters / "plain").modules, top=4)


def regauged(folder, out):
    """Copy an adapter with every B, A replaced by B R, R⁻¹ A."""
    shutil.copytree(folder, out)
    tensors = load_file(out / WEIGHTS)
    for name in [name for name in tensors if "lora_A" in name]:
        other = name.replace("lora_A", "lora_B")
        mix = torch.randn(len(tensors[name]), len(tensors[name])) + 3 * torch.eye(len(tensors[name]))
        tensors[name], tensors[other] = torch.linalg.inv(mix) @ tensors[name], tensors[other] @ mix
    save_file(tensors, out / WEIGHTS)
    return out


def known(seed=0):
    vectors = np.random.default_rng(seed).standard_normal((4, 32)).astype(np.float32)
    made = Construction("diff-in-means", "control", "response", "resid_post", "m", "c", "tiny", 2)
    return Directions(vectors, vectors, -vectors, np.ones(4, np.float32), (0, 1, 2, 3), made)


@pytest.mark.parametrize("name", ["plain", "attention"])
def test_the_scale_is_what_peft_uses(adapters, tiny_folder, name):
    """ΔW from our factors equals merged weights minus the base's."""
    adapter = open_adapter(adapters / name)
    merged, base = load(str(adapters / name), placement=CPU).model, load(tiny_folder, placement=CPU).model
    assert set(adapter.scales.values()) == {32 / 3 if name == "plain" else 32 / np.sqrt(2)}
    for module in adapter.modules[:4]:
        change = merged.get_submodule(module).weight - base.get_submodule(module).weight
        update = adapter.update(module)
        np.testing.assert_allclose(update.apply(np.eye(change.shape[1])).T, change.numpy(), atol=1e-4)


def test_features_do_not_depend_on_the_factors(adapters, geometry, tmp_path):
    other = regauged(adapters / "plain", tmp_path / "other")
    found = extract([open_adapter(adapters / "plain"), open_adapter(other)], geometry, {"direction": known()})
    for table in found.tables.values():
        np.testing.assert_allclose(table[0], table[1], atol=1e-3)
    for kernel in [*found.kernels.values(), *found.by_block.values()]:
        np.testing.assert_allclose(kernel, np.ones((2, 2)), atol=1e-3)


def test_features_are_those_of_the_whole_matrices(adapters, geometry):
    adapter, module = open_adapter(adapters / "plain"), "model.layers.1.mlp.down_proj"
    found = extract([adapter], geometry, {"direction": known()})
    whole = adapter.update(module).apply(np.eye(64)).T
    row = found.modules.index(module)
    assert found.tables["norms"][0, row, 0] == pytest.approx(np.log10(np.linalg.norm(whole)), abs=1e-5)
    unit, write = known().units[1], whole @ geometry.inputs[module]
    writer = [name for name in found.modules if kind_of(name) in ("o_proj", "down_proj")].index(module)
    share, cosine = found.tables["direction"][0, writer]
    assert share == pytest.approx(np.linalg.norm(unit @ whole) ** 2 / np.linalg.norm(whole) ** 2, rel=1e-4)
    assert cosine == pytest.approx(unit @ write / np.linalg.norm(write), abs=1e-5)


def test_the_geometry_holds_the_bases_leading_singular_vectors(tiny_folder, geometry):
    weight = load(tiny_folder, placement=CPU).model.get_submodule("model.layers.1.mlp.down_proj").weight.numpy()
    left, right = geometry.left["model.layers.1.mlp.down_proj"], geometry.right["model.layers.1.mlp.down_proj"]
    best = (np.linalg.svd(weight, compute_uv=False)[:4] ** 2).sum()
    assert np.linalg.norm(left.T @ weight) ** 2 > 0.99 * best
    assert np.linalg.norm(weight @ right) ** 2 > 0.99 * best


def test_an_adapter_of_fewer_modules_has_gaps_and_a_whole_kernel(adapters, geometry):
    found = extract([open_adapter(adapters / name) for name in ("plain", "attention")], geometry)
    gaps = np.isnan(found.tables["norms"][1, :, 0])
    assert gaps.sum() == 4 * 5
    assert not np.isnan(found.tables["norms"][0]).any()
    for kernel in found.kernels.values():
        np.testing.assert_allclose(np.diag(kernel), 1)
        assert np.linalg.eigvalsh(kernel).min() > 0


def test_a_reversed_update_has_the_same_norms_and_the_opposite_write(adapters, geometry, tmp_path):
    shutil.copytree(adapters / "plain", tmp_path / "reversed")
    tensors = load_file(tmp_path / "reversed" / WEIGHTS)
    save_file({name: -x if "lora_B" in name else x for name, x in tensors.items()}, tmp_path / "reversed" / WEIGHTS)
    both = [open_adapter(adapters / "plain"), open_adapter(tmp_path / "reversed")]
    found = extract(both, geometry, {"direction": known()})
    np.testing.assert_allclose(found.tables["norms"][0], found.tables["norms"][1])
    np.testing.assert_allclose(found.tables["direction"][0, :, 1], -found.tables["direction"][1, :, 1])
    for kernel in found.kernels.values():
        np.testing.assert_allclose(kernel, [[1, -1], [-1, 1]], atol=1e-6)


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora", "OLoRA", "corda", "loftq", "lora_ga", "new_one"])
def test_an_adapter_whose_start_changed_the_base_is_refused(adapters, tmp_path, start):
    shutil.copytree(adapters / "plain", tmp_path / "other")
    config = json.loads((tmp_path / "other" / "adapter_config.json").read_text())
    for kept in ("gaussian", "eva", "orthogonal", False):
        (tmp_path / "other" / "adapter_config.json").write_text(json.dumps({**config, "init_lora_weights": kept}))
        assert open_adapter(tmp_path / "other").modules
    (tmp_path / "other" / "adapter_config.json").write_text(json.dumps({**config, "init_lora_weights": start}))
    with pytest.raises(UserError, match="changes the base's weights"):
        open_adapter(tmp_path / "other")


def test_names_of_modules():
    assert block_of("model.layers.12.mlp.down_proj") == 12
    assert kind_of("model.layers.12.mlp.down_proj") == "down_proj"
    with pytest.raises(UserError, match="no decoder block"):
        block_of("lm_head")


def test_hostile_and_other_adapters_are_refused(adapters, tmp_path):
    with pytest.raises(UserError, match="no adapter folder"):
        open_adapter(tmp_path)
    copies = {}
    for name in ("cut", "nan", "saved", "dora"):
        copies[name] = shutil.copytree(adapters / "plain", tmp_path / name)
    path = copies["cut"] / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        open_adapter(copies["cut"])
    tensors = load_file(copies["nan"] / WEIGHTS)
    save_file({name: x * float("nan") for name, x in tensors.items()}, copies["nan"] / WEIGHTS)
    damaged = open_adapter(copies["nan"])
    with pytest.raises(UserError, match="NaN"):
        damaged.update(damaged.modules[0])
    save_file({**tensors, "base_model.model.lm_head.weight": torch.ones(2)}, copies["saved"] / WEIGHTS)
    with pytest.raises(UserError, match="lm_head"):
        open_adapter(copies["saved"])
    config = json.loads((copies["dora"] / "adapter_config.json").read_text())
    (copies["dora"] / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    with pytest.raises(UserError, match="not a plain LoRA"):
        open_adapter(copies["dora"])
