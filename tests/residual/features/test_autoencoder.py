import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from emscope.errors import UserError
from emscope.residual.features.autoencoder import SparseAutoencoder, quality, sparse_codes
from emscope.residual.features.saelens import load_autoencoder, save_autoencoder

D, N = 6, 10


def tensors_of(architecture, seed=0):
    torch.manual_seed(seed)
    tensors = {"W_enc": torch.randn(D, N), "W_dec": torch.randn(N, D) * 3, "b_dec": torch.randn(D)}
    names = {
        "topk": ["b_enc"],
        "standard": ["b_enc"],
        "jumprelu": ["b_enc", "threshold"],
        "gated": ["b_gate", "b_mag", "r_mag"],
    }[architecture]
    tensors.update({name: torch.randn(N) * 0.3 for name in names})
    if "threshold" in tensors:
        tensors["threshold"] = tensors["threshold"].abs()
    return tensors


def write(folder, kind, tensors=None, **options):
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architecture": kind,
        "d_in": D,
        "d_sae": N,
        "metadata": {"hook_name": "blocks.2.hook_resid_post"},
    }
    (folder / "cfg.json").write_text(json.dumps({**config, **options}))
    save_file(tensors_of(kind) if tensors is None else tensors, str(folder / "sae_weights.safetensors"))
    return folder


def plain(architecture, tensors, values, *, k=3, rescale=False, centred=True):
    """The published definitions, written down once more."""
    inputs = values - tensors["b_dec"] if centred else values
    norms = tensors["W_dec"].norm(dim=1)
    pre = inputs @ tensors["W_enc"]
    if architecture == "gated":
        codes = torch.relu(inputs @ (tensors["W_enc"] * tensors["r_mag"].exp()) + tensors["b_mag"])
        codes = codes * (pre + tensors["b_gate"] > 0)
    elif architecture == "jumprelu":
        pre = pre + tensors["b_enc"]
        codes = torch.relu(pre) * (pre > tensors["threshold"])
    else:
        codes = pre + tensors["b_enc"]
        if architecture == "topk":
            codes = codes * norms if rescale else codes
            codes = codes * (codes >= codes.topk(k, dim=1).values[:, -1:])
        codes = torch.relu(codes)
        if rescale:
            codes = codes / norms
    return codes @ tensors["W_dec"] + tensors["b_dec"]


@pytest.mark.parametrize("architecture", ["topk", "standard", "jumprelu", "gated"])
@pytest.mark.parametrize("centred", [True, False])
def test_loaded_autoencoders_reconstruct_as_defined(tmp_path, architecture, centred):
    folder = write(tmp_path / "sae", architecture, k=3, apply_b_dec_to_input=centred)
    values = torch.randn(50, D)
    loaded = load_autoencoder(folder)
    wanted = plain(architecture, tensors_of(architecture), values, centred=centred)
    torch.testing.assert_close(loaded(values), wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(loaded.decoder.norm(dim=1), torch.ones(N))
    assert loaded.block == 2


def test_topk_that_chooses_by_rescaled_codes(tmp_path):
    folder = write(tmp_path / "sae", "topk", k=3, rescale_acts_by_decoder_norm=True)
    values = torch.randn(50, D)
    wanted = plain("topk", tensors_of("topk"), values, rescale=True)
    torch.testing.assert_close(load_autoencoder(folder)(values), wanted, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(wanted, plain("topk", tensors_of("topk"), values), atol=1e-2)


def test_older_configurations_name_topk_as_an_activation(tmp_path):
    options = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}, "hook_name": "blocks.3.hook_resid_pre"}
    loaded = load_autoencoder(write(tmp_path / "sae", "standard", tensors_of("topk"), **options))
    assert (loaded.architecture, loaded.k, loaded.block) == ("topk", 3, 2)


def test_what_is_saved_is_read_back(tmp_path):
    made = load_autoencoder(write(tmp_path / "one", "topk", k=3, rescale_acts_by_decoder_norm=True))
    save_autoencoder(made, tmp_path / "two", "tiny")
    values = torch.randn(50, D)
    torch.testing.assert_close(load_autoencoder(tmp_path / "two")(values), made(values))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"normalize_activations": "layer_norm"}, "normalize_activations='layer_norm'"),
        ({"reshape_activations": "hook_z"}, "does not imitate"),
        ({"architecture": "transcoder"}, "architecture 'transcoder'"),
        ({"metadata": {"hook_name": "blocks.2.hook_mlp_out"}}, "hook_mlp_out"),
        ({"metadata": {"hook_name": "blocks.0.hook_resid_pre"}}, "hook_resid_pre"),
        ({"k": 11}, "k=11 of 10"),
        ({"k": 0}, "k=0 of 10"),
        ({"k": "many"}, "k='many'"),
        ({"k": 2.5}, "k=2.5"),
        ({"k": None, "activation_fn_kwargs": [3]}, "activation_fn_kwargs"),
        ({"architecture": ["topk"]}, "architecture"),
        ({"activation_fn_str": "tanh-relu"}, "tanh-relu"),
        ({"architecture": "standard", "activation_fn_str": "tanh-relu"}, "tanh-relu"),
        ({"architecture": "standard", "activation_fn": "gelu"}, "gelu"),
        ({"model_from_pretrained_kwargs": {"center_writing_weights": True}}, "center_writing_weights"),
        (
            {
                "metadata": {
                    "hook_name": "blocks.2.hook_resid_post",
                    "model_from_pretrained_kwargs": {"center_writing_weights": True},
                }
            },
            "center_writing_weights",
        ),
        ({"model_from_pretrained_kwargs": "centred"}, "model_from_pretrained_kwargs"),
    ],
)
def test_what_cannot_be_imitated_is_refused(tmp_path, options, words):
    with pytest.raises(UserError, match=words):
        load_autoencoder(write(tmp_path / "sae", "topk", **{"k": 3, **options}))


def test_damaged_folders_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path, tmp_path / "file"):
        with pytest.raises(UserError, match=r"no file .*cfg\.json"):
            load_autoencoder(folder)
    whole = tensors_of("topk")
    for change, words in (
        ({"b_enc": torch.zeros(N - 1)}, "b_enc of shape"),
        ({"W_enc": torch.zeros(N, D)}, "W_enc of shape"),
        ({"b_dec": torch.full((D,), float("nan"))}, "NaN"),
        ({"W_dec": torch.zeros(N, D)}, "write nothing"),
    ):
        with pytest.raises(UserError, match=words):
            load_autoencoder(write(tmp_path / "sae", "topk", {**whole, **change}, k=3))
    with pytest.raises(UserError, match="no tensor 'threshold'"):
        load_autoencoder(write(tmp_path / "sae", "jumprelu", whole))
    (tmp_path / "sae" / "sae_weights.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match="not a whole safetensors"):
        load_autoencoder(tmp_path / "sae")
    (tmp_path / "sae" / "sae_weights.safetensors").unlink()
    with pytest.raises(UserError, match="There is no file"):
        load_autoencoder(tmp_path / "sae")


def test_another_width_or_depth_is_refused(tmp_path):
    loaded = load_autoencoder(write(tmp_path / "sae", "standard"))
    loaded.check_width(D, 3)
    for shape in ((D + 1, 3), (D, 2)):
        with pytest.raises(UserError, match="width"):
            loaded.check_width(*shape)


def orthonormal(k):
    return SparseAutoencoder("topk", torch.eye(D), torch.zeros(D), torch.eye(D), torch.zeros(D), 0, k=k)


def test_quality_of_a_perfect_and_of_a_mean_reconstruction():
    values = np.abs(np.random.default_rng(0).standard_normal((5000, D))).astype(np.float32)
    perfect = orthonormal(D)
    found = quality(perfect, values, sparse_codes(perfect, values))
    assert found.variance_explained == pytest.approx(1, abs=1e-6)
    assert (found.features_per_token, found.dead, found.dense) == (D, 0, 1)
    mean = torch.from_numpy(values.mean(axis=0))
    blind = SparseAutoencoder("standard", torch.zeros(D, N), -torch.ones(N), torch.eye(N)[:, :D], mean, 0)
    nothing = quality(blind, values, sparse_codes(blind, values))
    assert nothing.variance_explained == pytest.approx(0, abs=1e-6)
    assert (nothing.features_per_token, nothing.dead) == (0, 1)


def test_what_features_write_adds_up_to_the_reconstruction(tmp_path):
    loaded, values = load_autoencoder(write(tmp_path / "sae", "jumprelu")), torch.randn(20, D)
    parts = [loaded.written_by(values, torch.tensor(part)) for part in ([0, 3, 4], [1, 2, *range(5, N)])]
    torch.testing.assert_close(sum(parts) + loaded.decoder_bias, loaded(values), rtol=1e-4, atol=1e-5)
