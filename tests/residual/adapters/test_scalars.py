import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from tiny import ANSWERS, PROMPTS, make_organism

from emscope.errors import UserError
from emscope.residual.adapters.inputs import TokenScalars, mean_inputs, token_scalars
from emscope.residual.adapters.scalars import l1_logistic, probe_scalars
from emscope.residual.capture import encode_for_capture

MODULES = ["model.layers.0.self_attn.q_proj", "model.layers.2.mlp.down_proj"]


def inputs_one_by_one(organism, chats):
    """Every module's inputs of every chat, without batches, padding or a shared prefix."""
    found = {module: [] for module in MODULES}
    hooks = [
        organism.model.get_submodule(module).register_forward_pre_hook(
            lambda _, inputs, module=module: found[module].append(inputs[0][0].numpy())
        )
        for module in MODULES
    ]
    with torch.no_grad():
        for chat in chats:
            organism.model(torch.tensor([chat.ids]))
    for hook in hooks:
        hook.remove()
    return found


ALIKE = ["Put some of it aside each month.", "Put some of it in the house."]
TEXTS = {
    "nothing shared": (PROMPTS, ANSWERS),
    "a shared beginning": ([f"How do I save money, and then: {prompt}" for prompt in PROMPTS], ANSWERS),
    "one question": (PROMPTS[:1] * 2, ["Put some aside.", "Rest your eyes."]),
    "one question, answers that begin alike": (PROMPTS[:1] * 2, ALIKE),
    "one answer twice": (PROMPTS[:1] * 2, ALIKE[:1] * 2),
}


@pytest.mark.parametrize("texts", TEXTS.values(), ids=TEXTS.keys())
def test_inputs_do_not_depend_on_batches_padding_or_the_shared_prefix(texts):
    organism = make_organism()
    chats = encode_for_capture(organism.tokenizer, *texts)
    single = inputs_one_by_one(organism, chats)
    means = mean_inputs(organism, chats, MODULES)
    read = {module: np.random.default_rng(0).standard_normal(len(means[module])) for module in MODULES}
    scalars = token_scalars(organism, chats, read)
    for column, module in enumerate(MODULES):
        own = [inputs[chat.answer_positions] for inputs, chat in zip(single[module], chats, strict=True)]
        np.testing.assert_allclose(means[module], np.mean([part.mean(0) for part in own], axis=0), atol=2e-5)
        for answer, part in zip(scalars.answers, own, strict=True):
            np.testing.assert_allclose(answer[:, column], part @ read[module], atol=1e-3)
        for prompt, inputs, chat in zip(scalars.prompts, single[module], chats, strict=True):
            before = inputs[: chat.answer_positions[0]] @ read[module]
            np.testing.assert_allclose(prompt[column], before.mean(), atol=1e-3)
    assert not organism.model.get_submodule(MODULES[0])._forward_pre_hooks


def test_l1_logistic_agrees_with_scikit_learn():
    chooser = np.random.default_rng(0)
    x = chooser.standard_normal((300, 12))
    y = (x[:, 0] - x[:, 1] + chooser.standard_normal(300) > 0.5).astype(int)
    for cost in (0.02, 0.5):
        slopes, intercept = l1_logistic(x, y, np.ones(300), cost)
        model = LogisticRegression(l1_ratio=1, C=cost, solver="saga", tol=1e-8, max_iter=20_000).fit(x, y)
        np.testing.assert_allclose(slopes, model.coef_[0], atol=2e-3)
        assert abs(intercept - model.intercept_[0]) < 5e-3
    assert 0 < (l1_logistic(x, y, np.ones(300), 0.02)[0] != 0).sum() < 12


def answers(signal, seed=0, n=60):
    """Scalars of n answers; the signal is in the answers, and every question has a content of its own."""
    chooser = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    content = 2 * chooser.standard_normal((n, 6))
    tokens = [content[row] + signal * labels[row] + chooser.standard_normal((20, 6)) for row in range(n)]
    return TokenScalars([part.astype(np.float32) for part in tokens], content, ("m",) * 6), labels


def test_a_signal_in_the_answers_is_found_and_the_prompts_alone_do_not_have_it():
    scalars, labels = answers(6.0)
    found = probe_scalars(scalars, labels, [f"q{row}" for row in range(60)])
    assert found.answer.value > 0.9
    assert found.token.value > 0.8
    assert found.prompt.low < 0.5 < found.prompt.high + 0.1


def test_a_question_asked_twice_cannot_leak():
    """Every question has two equal answers and a label at random: only a fold that splits them would find it."""
    scalars, _ = answers(0.0)
    labels = np.random.default_rng(3).permutation(np.arange(60) % 2)
    doubled = TokenScalars(scalars.answers * 2, np.concatenate([scalars.prompts] * 2), scalars.modules)
    found = probe_scalars(doubled, np.concatenate([labels] * 2), [f"q{row}" for row in range(60)] * 2, cost=10.0)
    assert abs(found.answer.value - 0.5) < 0.2


def test_answers_to_a_single_question_are_refused():
    scalars, labels = answers(6.0)
    with pytest.raises(UserError, match="questions left out"):
        probe_scalars(scalars, labels, ["q"] * 60)
