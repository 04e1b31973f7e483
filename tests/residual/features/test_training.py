import numpy as np
import pytest
import torch

from emscope.errors import UserError
from emscope.residual.features.autoencoder import quality, sparse_codes
from emscope.residual.features.training import AutoencoderSettings, _Model, train_topk


def planted(n_tokens: int, seed: int = 0, width: int = 24, n_features: int = 32, active: int = 3):
    """Return tokens that are sums of a few of the given unit features, with an offset and a scale of their own."""
    chooser = np.random.default_rng(seed)
    features = np.random.default_rng(99).standard_normal((n_features, width))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    codes = np.zeros((n_tokens, n_features))
    for row in codes:
        row[chooser.choice(n_features, active, replace=False)] = chooser.uniform(1, 2, active)
    return (7 * (codes @ features) + 40).astype(np.float32), features


def dense_gradients(model, tokens, idle):
    """Return the gradients of the same losses by automatic differentiation of dense products."""
    weights = [weight.detach().clone().requires_grad_() for weight in model.weights]
    encoder, encoder_bias, decoder, decoder_bias = weights
    inputs = tokens - decoder_bias
    pre = inputs @ encoder.T + encoder_bias

    def kept(values, k):
        top, places = values.topk(k, dim=1)
        return torch.zeros_like(values).scatter(1, places, top.relu())

    error = kept(pre, model.settings.k) @ decoder + decoder_bias - tokens
    loss = error.square().mean()
    dead = torch.nonzero(idle >= model.settings.dead_after)[:, 0]
    if len(dead):
        missed = kept(pre[:, dead], min(2 * model.settings.k, len(dead))) @ decoder[dead] + error.detach()
        auxiliary = missed.square().sum() / error.detach().square().sum() / 32
        shared = torch.autograd.grad(auxiliary, [encoder, encoder_bias, decoder], retain_graph=True)
        own = torch.autograd.grad(loss, weights)
        return [one + two for one, two in zip(own, [*shared, 0], strict=True)]
    return torch.autograd.grad(loss, weights)


@pytest.mark.parametrize("n_dead", [0, 5, 20])
def test_sparse_gradients_are_those_of_dense_products(n_dead):
    torch.manual_seed(0)
    tokens = torch.randn(40, 12)
    settings = AutoencoderSettings(expansion=4, k=3, dead_after=100)
    model = _Model(tokens, 48, settings, torch.Generator().manual_seed(1))
    model.encoder_bias.uniform_(-0.1, 0.1)
    model.decoder_bias.uniform_(-0.1, 0.1)
    model.idle[:n_dead] = 1000
    wanted = dense_gradients(model, tokens, model.idle)
    found = []
    model._update = lambda gradients, rate: found.extend(gradients)
    model.step(tokens, 1.0)
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


def test_planted_features_are_found_and_heldout_variance_is_explained():
    values, features = planted(6000)
    settings = AutoencoderSettings(expansion=2, k=3, epochs=40, batch_size=300, learning_rate=3e-3, dead_after=3000)
    trained = train_topk(values, 1, settings)
    heldout, _ = planted(1000, seed=5)
    codes = sparse_codes(trained.autoencoder, heldout)
    found = quality(trained.autoencoder, heldout, codes)
    best = (trained.autoencoder.decoder.numpy() @ features.T).max(axis=0)
    assert np.mean(best > 0.9) > 0.85
    assert found.variance_explained > 0.85
    assert found.features_per_token <= 3
    assert trained.losses[-1] < trained.losses[0] / 4
    np.testing.assert_allclose(trained.autoencoder.decoder.norm(dim=1).numpy(), 1, rtol=1e-5)


def test_scale_and_offset_of_the_activations_change_nothing():
    values, _ = planted(600)
    settings = AutoencoderSettings(expansion=2, k=3, epochs=3, batch_size=100)
    one, two = (train_topk(array, 1, settings).autoencoder for array in (values, values * 8 + 16))
    first, second = sparse_codes(one, values), sparse_codes(two, values * 8 + 16)
    np.testing.assert_allclose(second.toarray(), 8 * first.toarray(), rtol=1e-2, atol=0.5)


def test_dead_features_come_back_to_life():
    values, _ = planted(3000)
    tokens = torch.from_numpy((values - values.mean(axis=0)) / values.std())
    active = []
    for dead_after in (600, 10**9):
        settings = AutoencoderSettings(expansion=2, k=3, learning_rate=1e-2, dead_after=dead_after)
        model = _Model(tokens, 48, settings, torch.Generator().manual_seed(1))
        model.encoder_bias[:24] = -3  # beyond the reach of the others
        for step in range(150):
            model.step(tokens[step % 10 :: 10], 1.0)
        active.append(int((model.idle[:24] < 3000).sum()))
    assert active[1] <= 3
    assert active[0] >= active[1] + 5


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(UserError, match="same activations"):
        train_topk(np.ones((10, 4), dtype=np.float32), 0, AutoencoderSettings(expansion=2, k=2))
    with pytest.raises(UserError, match="9 of 8 features"):
        train_topk(np.eye(4, dtype=np.float32), 0, AutoencoderSettings(expansion=2, k=9))
    with pytest.raises(UserError, match="above 0"):
        AutoencoderSettings(k=0)
