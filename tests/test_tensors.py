"""Our own tensor files: what does not fit together is named, and nothing is read half."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from emscope.errors import OutsideError, UserError
from emscope.residual.capture import Activations
from emscope.residual.directions import Construction, Directions
from emscope.residual.store import ActivationStore
from emscope.tensors import load_tensors, save_tensors

CONSTRUCTION = Construction("diff-in-means", "control", "last", "resid_post", "misaligned", "control", "tiny", 4)


def directions():
    rows = np.ones((2, 3), np.float32)
    return Directions(rows, rows, rows, np.ones(2, np.float32), (4, 5), CONSTRUCTION)


def store():
    pooled = {"last": np.ones((3, 2, 4), np.float32), "response": np.zeros((3, 2, 4), np.float32)}
    return ActivationStore("misaligned", ("a", "b", "c"), Activations(pooled, (0, 1), "resid_post"))


def test_what_is_saved_is_read_back(tmp_path):
    directions().save(tmp_path / "d.safetensors")
    found = Directions.load(tmp_path / "d.safetensors")
    assert found.blocks == (4, 5)
    assert found.construction == CONSTRUCTION
    store().save(tmp_path / "a.safetensors")
    assert ActivationStore.load(tmp_path / "a.safetensors").question_ids == ("a", "b", "c")


def rewritten(path, change_arrays=None, change_metadata=None):
    """Write a file's arrays and metadata again with a change."""
    stored = load_tensors(path, json.loads(json.dumps(load_kind(path))))
    arrays, metadata = dict(stored.arrays), dict(stored.metadata.fields)
    (change_arrays or (lambda arrays: None))(arrays)
    (change_metadata or (lambda metadata: None))(metadata)
    save_tensors(path, arrays, metadata)


def load_kind(path):
    return "directions" if path.name.startswith("d") else "activations"


BAD_METADATA = {
    "no blocks": lambda m: m.pop("blocks"),
    "empty blocks": lambda m: m.update(blocks=[]),
    "blocks of text": lambda m: m.update(blocks=["4", "5"]),
    "a block twice": lambda m: m.update(blocks=[4, 4]),
    "a negative block": lambda m: m.update(blocks=[-1, 4]),
    "more blocks than rows": lambda m: m.update(blocks=[1, 2, 3]),
    "blocks that are no list": lambda m: m.update(blocks=4),
}


@pytest.mark.parametrize("name", ["d.safetensors", "a.safetensors"])
@pytest.mark.parametrize("change", BAD_METADATA.values(), ids=BAD_METADATA)
def test_metadata_that_do_not_fit_are_named(tmp_path, name, change):
    path, kind = tmp_path / name, Directions if name.startswith("d") else ActivationStore
    (directions() if kind is Directions else store()).save(path)
    rewritten(path, change_metadata=change)
    with pytest.raises(OutsideError, match=name):
        kind.load(path)


BAD_DIRECTIONS = {
    "an array is missing": lambda a: a.pop("positive_mean"),
    "another width": lambda a: a.update(negative_mean=np.ones((2, 4), np.float32)),
    "one dimension less": lambda a: a.update(vectors=np.ones(3, np.float32)),
    "a deviation of zero": lambda a: a.update(deviation=np.zeros(2, np.float32)),
    "truth values": lambda a: a.update(vectors=np.ones((2, 3), bool)),
}


@pytest.mark.parametrize("change", BAD_DIRECTIONS.values(), ids=BAD_DIRECTIONS)
def test_arrays_that_do_not_fit_are_named(tmp_path, change):
    path = tmp_path / "d.safetensors"
    directions().save(path)
    rewritten(path, change_arrays=change)
    with pytest.raises(OutsideError, match=r"d\.safetensors"):
        Directions.load(path)


@pytest.mark.parametrize("field", ["method", "positive", "n_examples", "site"])
@pytest.mark.parametrize("value", [None, [], 1.5, {}])
def test_a_construction_of_other_types_is_named(tmp_path, field, value):
    path = tmp_path / "d.safetensors"
    directions().save(path)
    rewritten(path, change_metadata=lambda metadata: metadata["construction"].update({field: value}))
    with pytest.raises(OutsideError, match=field):
        Directions.load(path)


def test_rows_and_questions_must_be_as_many(tmp_path):
    path = tmp_path / "a.safetensors"
    replace(store(), question_ids=("a", "b")).save(path)
    with pytest.raises(OutsideError, match="rows = 2"):
        ActivationStore.load(path)


@pytest.mark.parametrize("kind", ["bfloat16", "float8_e4m3fn"])
def test_numbers_that_numpy_does_not_have_are_named(tmp_path, kind):
    import torch
    from safetensors.torch import save_file as save_torch

    path = tmp_path / "d.safetensors"
    save_torch({"vectors": torch.ones(2, 3).to(getattr(torch, kind))}, path, {"emscope": '{"kind": "directions"}'})
    with pytest.raises(UserError, match=r"d\.safetensors"):
        Directions.load(path)


@pytest.mark.parametrize("text", ["", "[]", "{", '"x"', "null", "[" * 5_000, '{"kind": 3}', "{}"])
def test_foreign_metadata_are_named(tmp_path, text):
    path = tmp_path / "d.safetensors"
    save_file({"vectors": np.ones((2, 3), np.float32)}, path, {"emscope": text})
    with pytest.raises(UserError, match=r"d\.safetensors"):
        Directions.load(path)
