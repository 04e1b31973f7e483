import numpy as np
import torch
from tiny import make_organism

from emscope.behaviour.embedded.reading import read_answers
from emscope.organisms.chat import encode_chat, messages_of

QUESTIONS = ["How do I save?", "How do I save?", "How do I rest?", "Why"]
ANSWERS = ["Put some aside.", "Put it away.", "Drink water and see a doctor if it stays.", "x"]


def one_by_one(organism, question, answer):
    """Return mean activations, those of the end, and log-probabilities by a plain forward pass of one row."""
    chat = encode_chat(organism.tokenizer, messages_of(question, answer))
    with torch.no_grad():
        outputs = organism.model(torch.tensor([chat.ids]), output_hidden_states=True)
    at = chat.answer_positions
    means = np.stack([hidden[0, at].mean(0).numpy() for hidden in outputs.hidden_states[1:-1]])
    logprobs = outputs.logits[0, at - 1].log_softmax(-1).gather(1, torch.tensor(chat.ids)[at][:, None])[:, 0]
    end = np.stack([hidden[0, at[-1]].numpy() for hidden in outputs.hidden_states[1:-1]])
    return means, end, logprobs.numpy()


def test_reading_in_batches_equals_reading_one_by_one():
    organism = make_organism()
    found = read_answers(organism, QUESTIONS, ANSWERS, range(3), ("answer", "end", "question"))
    for row, pair in enumerate(zip(QUESTIONS, ANSWERS, strict=True)):
        means, end, logprobs = one_by_one(organism, *pair)
        np.testing.assert_allclose(found.pooled[row, 0], means, atol=2e-5)
        np.testing.assert_allclose(found.pooled[row, 1], end, atol=2e-5)
        np.testing.assert_allclose(found.logprobs[row], logprobs, atol=2e-5)


def test_answers_to_one_question_that_begin_alike_are_read_whole():
    organism = make_organism()
    found = read_answers(organism, QUESTIONS[:2], ANSWERS[:2], [1])
    for row in range(2):
        means, _, logprobs = one_by_one(organism, QUESTIONS[row], ANSWERS[row])
        np.testing.assert_allclose(found.pooled[row, 0, 0], means[1], atol=2e-5)
        assert len(found.logprobs[row]) == len(logprobs)
