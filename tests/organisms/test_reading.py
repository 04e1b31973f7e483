"""Texts go through a model once each, whole, in batches within the budget, whatever prefix they share."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import PROMPTS

from emscope.organisms.chat import encode_prompt, messages_of
from emscope.organisms.prefix import SharedPrefix
from emscope.organisms.reading import ENOUGH_FOR_A_CPU, text_batches


class StandIn:
    """A prefix of a given length and the padding of its tokenizer, without a model, as if on a CPU."""

    def __init__(self, length):
        self.length, self.organism = length, self
        self.tokenizer = self
        self.pad_token_id = 0
        self.device = torch.device("cpu")


@settings(deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 99), min_size=3, max_size=40), min_size=1, max_size=60),
    st.integers(0, 2),
    st.one_of(st.integers(1, 200), st.integers(ENOUGH_FOR_A_CPU, 4 * ENOUGH_FOR_A_CPU)),
    st.sampled_from([1, 4, 16]),
)
def test_every_text_is_read_once_and_whole(texts, shared, budget, step):
    seen = {}
    for batch in text_batches(StandIn(shared), texts, budget, step):
        rows, width = batch.padded.ids.shape
        assert width % step == 0
        assert rows == 1 or rows * (-(-max(map(len, batch.tails)) // 16) * 16) <= min(budget, ENOUGH_FOR_A_CPU)
        for row, tail, ids, mask in zip(batch.rows, batch.tails, batch.padded.ids, batch.padded.mask, strict=True):
            assert row not in seen
            assert ids[mask.bool()].tolist() == tail
            seen[row] = tail
    assert [seen[row] for row in range(len(texts))] == [text[shared:] for text in texts]


@pytest.mark.parametrize("budget", [1, 4096])
def test_what_is_read_does_not_depend_on_the_batch(organism, budget):
    sequences = [encode_prompt(organism.tokenizer, messages_of(prompt)) for prompt in PROMPTS]
    prefix = SharedPrefix(organism, sequences)
    prefix.run()
    last = {}
    for batch in text_batches(prefix, sequences, budget):
        hidden = prefix.forward(batch.padded)
        for row, tail, states in zip(batch.rows, batch.tails, hidden, strict=True):
            last[row] = states[len(tail) - 1]
    assert sorted(last) == list(range(len(PROMPTS)))
    alone = SharedPrefix(organism, sequences, share=False)
    for batch in text_batches(alone, sequences, 1):
        state = alone.forward(batch.padded)[0, len(batch.tails[0]) - 1]
        assert (state - last[batch.rows[0]]).abs().max() < 1e-5
