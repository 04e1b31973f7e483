import pytest
import torch
from tiny import ANSWERS, D_MODEL, PROMPTS

from emscope.errors import UserError
from emscope.interventions.features import features_removed
from emscope.organisms.blocks import visiting
from emscope.residual.capture import encode_for_capture
from emscope.residual.features.autoencoder import SparseAutoencoder
from emscope.residual.features.tokens import capture_tokens

BLOCK = 1


@pytest.fixture
def autoencoder():
    torch.manual_seed(0)
    decoder = torch.linalg.qr(torch.randn(D_MODEL, D_MODEL))[0]
    return SparseAutoencoder(
        "standard", decoder.T.contiguous(), torch.zeros(D_MODEL), decoder, torch.zeros(D_MODEL), BLOCK
    )


def after(organism, ids):
    seen = []
    with visiting(organism.model, [BLOCK], lambda _, hidden: seen.append(hidden.clone())):
        logits = organism.model(ids).logits
    return seen[0], logits


def test_removed_features_are_silent_and_the_others_as_before(organism, autoencoder):
    ids = torch.tensor([encode_for_capture(organism.tokenizer, PROMPTS, ANSWERS)[1].ids])
    plain, _ = after(organism, ids)
    with features_removed(organism, autoencoder, [2, 5]):
        changed, _ = after(organism, ids)
    before, now = autoencoder.encode(plain[0]), autoencoder.encode(changed[0])
    assert (before[:, [2, 5]] > 0).any()
    torch.testing.assert_close(now[:, [2, 5]], torch.zeros_like(now[:, [2, 5]]), rtol=0, atol=1e-4)
    kept = [number for number in range(D_MODEL) if number not in (2, 5)]
    torch.testing.assert_close(now[:, kept], before[:, kept], rtol=1e-3, atol=1e-4)


def test_no_features_or_no_strength_is_bit_identical_and_hooks_come_off(organism, autoencoder):
    ids = torch.tensor([encode_for_capture(organism.tokenizer, PROMPTS)[0].ids])
    _, plain = after(organism, ids)
    for arguments in (([], 1.0), ([1], 0.0)):
        with features_removed(organism, autoencoder, *arguments):
            assert torch.equal(after(organism, ids)[1], plain)
    with pytest.raises(RuntimeError, match="stop"), features_removed(organism, autoencoder, [1]):
        raise RuntimeError("stop")
    assert torch.equal(after(organism, ids)[1], plain)


def test_tokens_out_of_reach_are_left_alone(organism, autoencoder):
    ids = torch.tensor([encode_for_capture(organism.tokenizer, PROMPTS)[1].ids])
    plain, _ = after(organism, ids)
    norms = plain[0].norm(dim=1)
    reach = float(norms.median())
    with features_removed(organism, autoencoder, list(range(D_MODEL)), reach=reach):
        changed, _ = after(organism, ids)
    moved = (changed != plain)[0].any(dim=1)
    assert torch.equal(moved, norms <= reach)


def test_a_wrong_width_or_block_is_refused(organism, autoencoder):
    from dataclasses import replace

    narrow = replace(autoencoder, decoder=autoencoder.decoder[:, 1:])
    for wrong in (narrow, replace(autoencoder, block=9)):
        with pytest.raises(UserError, match="width"), features_removed(organism, wrong, [1]):
            pass


def test_captured_codes_are_those_that_are_removed(organism, autoencoder):
    chats = encode_for_capture(organism.tokenizer, PROMPTS, ANSWERS)
    with features_removed(organism, autoencoder, [0]):
        codes = autoencoder.encode(torch.from_numpy(capture_tokens(organism, chats, BLOCK).values))
    assert float(codes[:, 0].max()) < 1e-4
    assert float(codes[:, 1].max()) > 0.1
