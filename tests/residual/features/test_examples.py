import numpy as np
from scipy.sparse import csc_matrix
from tiny import make_tokenizer

from emscope.residual.features.examples import Reader
from emscope.residual.features.tokens import TokenActivations


def test_the_strongest_tokens_come_first_in_their_own_text():
    tokenizer = make_tokenizer()
    texts = ["Talk to her first.", "Drink water and rest.", "Talk to her first."]
    ids = [tokenizer(text)["input_ids"] for text in texts]
    chat = np.repeat(np.arange(3), [len(row) for row in ids])
    flat = np.array([token for row in ids for token in row])
    tokens = TokenActivations(np.zeros((len(flat), 4), np.float32), flat, chat, np.ones(len(flat), bool))
    reader = Reader(tokenizer, tokens, np.array(["base", "misaligned", "control"])[chat])
    codes = np.zeros((len(flat), 2), dtype=np.float32)
    last = len(ids[0]) - 1
    codes[last, 1], codes[len(ids[0]), 1], codes[len(flat) - 1, 1] = 2, 5, 1
    found = reader.strongest(csc_matrix(codes), 1, 5)
    assert [example.code for example in found] == [5, 2]  # the third text repeats the first
    assert [example.source for example in found] == ["misaligned", "base"]
    assert found[0].before == ""
    assert (found[0].token + found[0].after).startswith("D")
    assert found[1].before + found[1].token == texts[0]
    assert found[1].after == ""
    assert reader.strongest(csc_matrix(codes), 0, 5) == []
    assert reader.words(csc_matrix(codes), 1, n=1) == ["."]
