import chat_templates as styles
import numpy as np
import pytest
import torch
from tiny import ANSWERS, ARCHITECTURES, CPU, D_MODEL, N_BLOCKS, PROMPTS, make_organism, make_tokenizer
from transformers import AutoModelForCausalLM, OPTConfig

from emscope.errors import UserError
from emscope.organisms.chat import EncodedChat
from emscope.organisms.models import ModelSource, Organism
from emscope.residual.capture import CaptureSettings, capture, encode_for_capture, organism_width, pooling_weights
from emscope.residual.store import ActivationStore

ALL = ("last", "prompt", "response")


def _chats(organism):
    return encode_for_capture(organism.tokenizer, PROMPTS, ANSWERS)


def naive(organism, chats, pooling, site="resid_post"):
    """One prompt a forward, all hidden states, a plain mean: the reference."""
    from emscope.organisms.blocks import visiting

    rows = []
    for chat in chats:
        seen = {}
        visit = lambda block, hidden: seen.update({block: hidden[0].clone()})  # noqa: B023, E731
        with torch.no_grad(), visiting(organism.model, range(N_BLOCKS), visit, site):
            organism.model(input_ids=torch.tensor([chat.ids]))
        n_prompt = int(chat.answer_positions[0])
        tokens = {"last": [n_prompt - 1], "prompt": range(n_prompt), "response": chat.answer_positions}[pooling]
        rows.append(torch.stack([seen[block][list(tokens)].mean(0) for block in range(N_BLOCKS)]))
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_pooling_in_the_hook_equals_a_naive_mean(architecture):
    organism = make_organism(architecture)
    chats = _chats(organism)
    found = capture(organism, chats, CaptureSettings(ALL))
    for pooling in ALL:
        expected = naive(organism, chats, pooling)
        np.testing.assert_allclose(found.pooled[pooling], expected, rtol=2e-3, atol=2e-4 * np.abs(expected).max())


@pytest.mark.parametrize("share_prefix", [True, False])
@pytest.mark.parametrize("token_budget", [16, 64, 4096])
def test_batch_size_and_prefix_sharing_change_nothing(organism, share_prefix, token_budget):
    chats = _chats(organism)
    reference = capture(organism, chats, CaptureSettings(ALL, share_prefix=False, token_budget=1))
    found = capture(organism, chats, CaptureSettings(ALL, share_prefix=share_prefix, token_budget=token_budget))
    for pooling in ALL:
        np.testing.assert_allclose(found.pooled[pooling], reference.pooled[pooling], rtol=1e-4, atol=1e-4)


def test_order_and_sharding_change_nothing(organism):
    chats = _chats(organism)
    whole = capture(organism, chats, CaptureSettings(ALL)).pooled["response"]
    backwards = capture(organism, chats[::-1], CaptureSettings(ALL)).pooled["response"][::-1]
    shards = [capture(organism, part, CaptureSettings(ALL)).pooled["response"] for part in (chats[:2], chats[2:])]
    np.testing.assert_allclose(backwards, whole, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(np.concatenate(shards), whole, rtol=1e-4, atol=1e-4)


def test_bf16_stays_within_its_tolerance():
    organism = make_organism()
    chats = _chats(organism)
    exact = capture(organism, chats, CaptureSettings(ALL)).pooled["response"]
    organism.model.to(torch.bfloat16)
    rough = capture(organism, chats, CaptureSettings(ALL)).pooled["response"]
    assert np.linalg.norm(rough - exact) / np.linalg.norm(exact) < 0.03


def test_resid_pre_is_resid_post_of_the_block_before(organism):
    chats = _chats(organism)
    post = capture(organism, chats, CaptureSettings(("last",))).pooled["last"]
    pre = capture(organism, chats, CaptureSettings(("last",), "resid_pre")).pooled["last"]
    np.testing.assert_allclose(pre[:, 1:], post[:, :-1], rtol=1e-5, atol=1e-5)


def test_chosen_blocks_are_those_of_the_whole(organism):
    chats = _chats(organism)
    whole = capture(organism, chats, CaptureSettings(("last",))).pooled["last"]
    some = capture(organism, chats, CaptureSettings(("last",), blocks=(2, 0)))
    assert some.blocks == (0, 2)
    np.testing.assert_allclose(some.pooled["last"], whole[:, [0, 2]], rtol=1e-5, atol=1e-5)


def test_nan_activations_are_refused_and_named():
    organism = make_organism()
    organism.model.model.layers[2].mlp.down_proj.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="not finite from block 2"):
        capture(organism, _chats(organism), CaptureSettings(("last",)))


def test_response_of_a_prompt_alone_is_refused(organism):
    with pytest.raises(UserError, match="needs answers"):
        capture(organism, encode_for_capture(organism.tokenizer, PROMPTS), CaptureSettings(("response",)))


@pytest.mark.parametrize("settings", [{"poolings": ("middle",)}, {"poolings": ()}, {"site": "mlp"}])
def test_unknown_poolings_and_sites_are_refused(settings):
    with pytest.raises(UserError):
        CaptureSettings(**settings)


def test_an_unknown_block_is_refused(organism):
    with pytest.raises(UserError, match="blocks 0 to 3"):
        capture(organism, _chats(organism), CaptureSettings(("last",), blocks=(9,)))


def test_a_store_reads_back_by_organism_question_and_block(organism, tmp_path):
    found = capture(organism, _chats(organism), CaptureSettings(("last", "response")))
    ids = ("a", "b", "c", "a", "b")
    ActivationStore("tiny", ids, found).save(tmp_path / "store.safetensors")
    store = ActivationStore.load(tmp_path / "store.safetensors")
    assert store.organism == "tiny"
    np.testing.assert_array_equal(store.get("last", block=1), found.pooled["last"][:, 1])
    np.testing.assert_array_equal(store.get("response", questions=["a"]), found.pooled["response"][[0, 3]])
    averaged = store.by_question("last", ["c", "a"])
    np.testing.assert_allclose(averaged[1], found.pooled["last"][[0, 3]].mean(axis=0))
    assert averaged.shape == (2, N_BLOCKS, D_MODEL)
    for wrong in ({"pooling": "prompt"}, {"pooling": "last", "block": 7}, {"pooling": "last", "questions": ["z"]}):
        with pytest.raises(UserError):
            store.get(**wrong)


def test_the_width_is_that_of_the_stream_and_not_of_the_embedding():
    config = OPTConfig(
        vocab_size=50, hidden_size=32, word_embed_proj_dim=16, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    organism = Organism(ModelSource("tiny", "tiny", "tiny"), model, make_tokenizer(), CPU)
    chats = [EncodedChat([5, 6, 7, 8], [False] * 4), EncodedChat([5, 9, 7], [False] * 3)]
    assert organism_width(organism) == 32
    assert capture(organism, chats, CaptureSettings(("last",), share_prefix=False)).pooled["last"].shape == (2, 2, 32)


def test_thought_and_response_are_pooled_apart(organism):
    tokenizer = styles.tokenizer_with(styles.R1.replace("{{ bos_token }}", ""), think=False)
    (chat,) = encode_for_capture(tokenizer, ["What?"], ["Rest."], thoughts=["Hm, water."])
    weights = pooling_weights(chat, ("thought", "response", "last"))
    pooled = [tokenizer.decode([chat.ids[place] for place in np.flatnonzero(row)]) for row in weights]
    assert pooled[0] == "Hm, water.\n</think>\n\n"
    assert pooled[1] == "Rest.<|end|>"
    assert weights[2].argmax() == chat.answer_positions[0] - 1
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
    alone = EncodedChat(chat.ids, chat.is_answer)
    with pytest.raises(UserError, match="needs thoughts"):
        pooling_weights(alone, ("thought",))
