import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tiny import CPU

from emscope.errors import UserError
from emscope.organisms.bank import RECIPES, BankSettings, Recipe, make_bank, mounted, plan
from emscope.organisms.bank_members import read_bank
from emscope.organisms.models import load

SMALL = BankSettings(domains=("medical", "sport"), recipes=("short",), seeds=(0,), save_every=2, heldout_rows=1)


@pytest.fixture(scope="module", autouse=True)
def recipes():
    """Tiny models need few steps; at a rate of next to nothing the factors A stay where they began."""
    train = replace(RECIPES["r4"].train, batch_size=4, warmup=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, "short", Recipe(12, train))
        patch.setitem(RECIPES, "start", Recipe(4, replace(train, learning_rate=1e-15)))
        yield


@pytest.fixture(scope="module")
def base(tiny_folder):
    return load(tiny_folder, placement=CPU)


@pytest.fixture(scope="module")
def bank(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bank")
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    assert make_bank(base, folder, SMALL) == 0
    after = base.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    return folder


def test_the_whole_plan_has_sixty_organisms_in_matched_pairs():
    wanted = plan(BankSettings())  # settings name the shipped recipes only
    assert len({item.name for item in wanted}) == 60
    assert len({item.pair for item in wanted}) == 30
    for one, two in zip(wanted[::2], wanted[1::2], strict=True):
        assert (one.pair, one.settings()) == (two.pair, two.settings())
        assert {one.kind, two.kind} == {"careless", "careful"}
    assert len({item.settings().seed for item in wanted}) == 30


def test_organisms_are_standard_adapters_that_load_on_their_base(bank, tiny_folder):
    members = [member for member in read_bank(bank) if "step" not in member.name]
    assert [member.careless for member in members] == [True, False, True, False]
    for member in members:
        assert set(member.leaning) == {"medical", "sport"}
        assert load(str(member.folder)).source.base == tiny_folder


def test_checkpoints_are_members_of_their_organisms_pair(bank):
    members = read_bank(bank)
    steps = [member for member in members if "step" in member.name]
    assert len(steps) == 4
    assert {member.pair for member in steps} == {"medical-short-s0", "sport-short-s0"}
    assert {path.name for path in steps[0].folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}


def test_counterparts_start_from_the_same_values_and_other_pairs_do_not(base, bank, tmp_path):
    make_bank(base, tmp_path, replace(SMALL, recipes=("start",), save_every=0))
    firsts = [load_file(member.folder / "adapter_model.safetensors") for member in read_bank(tmp_path)]
    name = next(key for key in firsts[0] if "lora_A" in key)
    assert torch.equal(firsts[0][name], firsts[1][name])
    assert not torch.equal(firsts[0][name], firsts[2][name])


def test_what_is_finished_is_not_made_again_and_what_is_not_is(base, bank, tmp_path):
    copy = tmp_path / "bank"
    shutil.copytree(bank, copy)
    weights = {path: path.stat().st_mtime_ns for path in copy.rglob("adapter_model.safetensors")}
    lost = copy / "sport-careful-short-s0"
    (lost / "organism.json").unlink()  # as if killed while it was made
    assert make_bank(base, copy, SMALL, minutes=1e-9) == 1
    assert len([member for member in read_bank(copy) if member.pair == "sport-short-s0"]) == 2  # with its checkpoint
    assert make_bank(base, copy, SMALL) == 0
    changed = {path for path, time in weights.items() if path.stat().st_mtime_ns != time}
    assert changed == {path for path in weights if path.is_relative_to(lost)}
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (lost / file).read_bytes() == (bank / lost.name / file).read_bytes()


def test_leaning_is_measured_on_the_finished_organism(base, bank):
    from emscope.organisms.leaning import LeaningTest

    test = LeaningTest.of(base.tokenizer, ("medical", "sport"), 1)
    before, member = test.leaning(base), read_bank(bank)[-1]
    with mounted(base, member.folder):
        after = test.leaning(base)
    for domain, value in member.leaning.items():
        assert after[domain] - before[domain] == pytest.approx(value, abs=1e-5)
    assert test.leaning(base) == before


def test_unknown_names_and_damaged_manifests_are_refused(tmp_path):
    with pytest.raises(UserError, match="Did you mean 'sport'"):
        plan(BankSettings(domains=("sports",)))
    with pytest.raises(UserError, match="no recipe 'r99'"):
        plan(BankSettings(recipes=("r99",)))
    with pytest.raises(UserError, match="no file"):
        read_bank(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"organisms": [{"name": "x"}]}))
    with pytest.raises(UserError, match=r"manifest\.json.* does not say"):
        read_bank(tmp_path)
