"""What a configuration may ask for is said in one sentence that names the field, before anything is built."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from torch import nn

from emscope.errors import OutsideError, UserError
from emscope.organisms.building import Held, bounded_building
from emscope.organisms.limits import ADAPTER_FIELDS, check_adapter_config, check_config, check_index, patterns_of
from emscope.outside import Record

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def config(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps({"model_type": "llama", **fields}))
    return path


@pytest.mark.parametrize(
    "fields",
    [
        {"num_hidden_layers": 10**7},
        {"n_layer": 10**7},
        {"num_experts": 10**6},
        {"num_labels": 10**9},
        {"vocab_size": 10**13},
        {"text_config": {"num_hidden_layers": 10**7}},
        {"vision": [{"depth": 10**9}]},
        {"hidden_size": "16"},
        {"max_position_embeddings": "many"},
        {"rms_norm_eps": float("nan")},
        {"rope_parameters": "yarn"},
        {"quantization_config": [1]},
        {"text_config": 5},
    ],
)
def test_a_size_that_no_model_has_is_refused_by_its_name(fields, tmp_path):
    name = next(iter(fields))
    inner = fields[name]
    name = next(iter(inner)) if isinstance(inner, dict) else "depth" if name == "vision" else name
    with pytest.raises(OutsideError, match=rf"config\.json says '{name}' is .*mend it"):
        check_config(config(tmp_path, **fields))


def test_configurations_in_use_pass(tmp_path):
    check_config(
        config(
            tmp_path,
            rope_theta=10**15,
            num_hidden_layers=126,
            vocab_size=262_144,
            max_position_embeddings=10_485_760,
            time_step_limit=[0.0, float("inf")],
            rope_scaling=None,
            quantization_config={"bits": 4},
            sliding_window=-1,
        )
    )


@settings(max_examples=200, deadline=None)
@given(fields=st.dictionaries(st.sampled_from(sorted(ADAPTER_FIELDS)), VALUES, max_size=4))
def test_any_adapter_configuration_is_checked_in_a_sentence(fields):
    try:
        check_adapter_config(Record(fields, "adapter_config.json"))
        patterns_of(fields)
    except UserError as error:
        assert "\n" not in str(error)
        assert "adapter_config.json" in str(error)
        assert len(str(error)) < 600


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("r", "8"),
        ("r", [8]),
        ("r", -1),
        ("r", 10**9),
        ("lora_alpha", float("nan")),
        ("target_modules", {"q_proj": 1}),
        ("target_modules", ["q"] * 60_000),
        ("rank_pattern", {"q_proj": 10**9}),
        ("rank_pattern", {f"m{number}": 1 for number in range(30_000)}),
        ("alpha_pattern", [1]),
        ("layer_replication", [[0, 100_000]]),
        ("layer_replication", [[0, 4]] * 1000),
        ("layer_replication", [5]),
        ("layers_to_transform", [10**12]),
        ("modules_to_save", [5]),
        ("trainable_token_indices", {"embed_tokens": ["x"]}),
        ("use_dora", "yes"),
        ("base_model_name_or_path", 5),
        ("some_size", 10**15),
    ],
)
def test_a_field_that_peft_would_build_without_bound_is_refused(name, value):
    with pytest.raises(OutsideError, match=rf"^here(, {name})? says '\w+' is .*, not "):
        check_adapter_config(Record({"peft_type": "LORA", name: value}, "here"))


def test_what_peft_writes_passes():
    written = LoraConfig(
        r=8,
        target_modules=["q_proj"],
        rank_pattern={"v_proj": 4},
        layers_to_transform=[0, 1],
        modules_to_save=["lm_head"],
        layer_replication=[(0, 4), (2, 5)],
    ).to_dict()
    plain = json.loads(
        json.dumps(written, default=lambda value: sorted(value) if isinstance(value, set) else str(value))
    )
    check_adapter_config(Record(plain, "here"))


@pytest.mark.parametrize(
    "name",
    ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "x\0.safetensors", "a.bin", "gone.safetensors", 5],
)
def test_an_index_that_names_other_files_is_refused(name, tmp_path):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": {"x": name}}))
    with pytest.raises(OutsideError, match=r"index\.json.*(names the file|says 'x')"):
        check_index(path)


def test_building_ends_where_the_weights_cannot_fill_more():
    held, started = Held(tensors=10, numbers=100), time.monotonic()
    modules = pytest.raises(OutsideError, match=r"here asks for more than .* modules.*: mend it")
    with modules, bounded_building(held, "here", "mend it"):
        nn.ModuleList([nn.Sequential(nn.Identity()) for _ in range(10**6)])
    numbers = pytest.raises(OutsideError, match=r"here asks for more than .* numbers")
    with numbers, bounded_building(held, "here", "mend it"):
        nn.Linear(10**6, 10**6, device="meta")
    assert time.monotonic() - started < 60
    nn.Linear(10**6, 10**6, device="meta")  # nothing is bound outside
    with bounded_building(None, "here", "mend it"):
        nn.Linear(10**6, 10**6, device="meta")


def test_bounds_are_let_go_after_an_error():
    with pytest.raises(ZeroDivisionError), bounded_building(Held(1, 1), "here", "mend it"):
        _ = 1 / 0
    nn.Linear(10**6, 10**6, device="meta")
