"""A judge that is a local causal language model: one prefill an answer, and the next token's probabilities.

Where the tokenizer has a token for each number from 0 to 100, the score is the mean of those numbers under the model,
over the whole vocabulary. Where it splits numbers into digits, all first digits are appended side by side as a tree in
the same pass, each seeing only the prompt, so that 8, 85 and 100 are told apart by how each goes on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from emscope.behaviour.judges.rubric_judge import Call, Done, RubricJudge, trial_keys
from emscope.behaviour.judges.rubrics import Rubrics
from emscope.behaviour.judges.scoring import Score, score_from_logprobs
from emscope.behaviour.judges.settings import JudgeRequest
from emscope.behaviour.judges.store import ScoreStore
from emscope.errors import UserError
from emscope.organisms.batching import PaddedBatch, rounded, token_budget_batches
from emscope.organisms.chat import ChatPrompt, messages_of, prepare_prompt
from emscope.organisms.control_tokens import control_tokens, say_spelled
from emscope.organisms.fingerprint import fingerprint, is_local
from emscope.organisms.models import Organism, finite_logits, load_tokenizer, resolve
from emscope.organisms.prefix import SharedPrefix
from emscope.organisms.templates import can_stop_thinking

WIDTH_STEP = 8
TOKEN_BUDGET = 4096


class HFJudge(RubricJudge):
    """Judges with a model of transformers, in batches, without generating."""

    def __init__(self, model: Organism, rubrics: Rubrics, store: ScoreStore, max_calls: int | None = None) -> None:
        super().__init__(_name(model.source.name), rubrics, store, max_calls)
        self.model = model
        self.numbers = number_tokens(model.tokenizer)
        self.words = _word_tokens(model.tokenizer)

    @classmethod
    def from_request(cls, request: JudgeRequest) -> HFJudge:
        """Load the model and return the judge."""
        return cls(request.load(request.model), request.rubrics, request.scores(), request.max_calls)

    @classmethod
    def fingerprint(cls, request: JudgeRequest) -> str:
        """Return what stands behind the model's name now, and the rubrics."""
        return f"hf:{fingerprint(request.model)}:{request.rubrics.hash}"

    @classmethod
    def check(cls, request: JudgeRequest) -> None:
        """See that the tokenizer knows digits, and have one written answer judged, unless that was done before."""
        source = resolve(request.model)
        number_tokens(load_tokenizer(source))
        tried = tuple(trial_keys(_name(source.name), request.rubrics))
        with request.scores() as store:
            if any(score.value is not None for score in store.get(tried).values()):
                return
        judge = cls.from_request(request)
        with judge.store:
            judge.try_out()

    def reading(self, text: str) -> str:
        """Return that what spells a control token is read as plain text."""
        return "/plain" if control_tokens(self.model.tokenizer).spelled_in(text) else ""

    def ask(self, calls: Sequence[Call], done: Done) -> None:
        """Score every call from the probabilities after its prompt."""
        prompts, spelled = [], []
        for call in calls:
            asked = scoring_prompt(self.model.tokenizer, call.prompt)
            prompts.append(asked.ids)
            spelled.append(asked.spelled)
        say_spelled("rubrics with their answers", spelled)
        prefix = SharedPrefix(self.model, prompts)
        tails = [ids[prefix.length :] for ids in prompts]
        tree = [] if len(self.numbers) == 101 else self._digit_tree()
        with torch.inference_mode():
            prefix.run()
            for batch in token_budget_batches([len(tail) + len(tree) for tail in tails], TOKEN_BUDGET):
                rows = [tails[row] for row in batch]
                together = not tree or prefix.takes_a_tree
                logprobs = self._read(prefix, rows, tree) if together else self._read_apart(prefix, rows, tree)
                for row, values in zip(batch, logprobs, strict=True):
                    done(calls[row], self._score_digits(values) if tree else self._score(values[0]), True)

    def _digit_tree(self) -> list[int]:
        """Return what is appended to a prompt to see how each first digit goes on: 0 to 9, and the 0 of 10."""
        return [*map(self.numbers.__getitem__, range(10)), self.numbers[0]]

    def _read(self, prefix: SharedPrefix, tails: list[list[int]], tree: list[int]) -> Tensor:
        """Return log-probabilities [rows, 1 + len(tree), n_tokens] after each prompt and each token of the tree."""
        device, shared = self.model.device, prefix.length
        width = rounded(max(map(len, tails)) + len(tree), WIDTH_STEP)
        padded = PaddedBatch.of([tail + tree for tail in tails], self.model.tokenizer.pad_token_id or 0, width=width)
        ends = torch.tensor(list(map(len, tails)))
        wanted = (ends[:, None] - 1 + torch.arange(1 + len(tree))).to(device)
        if tree:
            positions, seen = _tree_layout(ends, width, shared)
            unseen = torch.zeros(seen.shape, dtype=self.model.placement.dtype).masked_fill(~seen, float("-inf"))
            hidden = prefix.forward(padded, positions=positions.to(device), attention=unseen[:, None].to(device))
        else:
            hidden = prefix.forward(padded)
        picked = hidden.gather(1, wanted.to(hidden.device)[:, :, None].expand(-1, -1, hidden.shape[-1]))
        tokens = [*self.numbers.values(), *self.words.values()]
        return finite_logits(self.model, picked).log_softmax(dim=-1)[:, :, tokens].cpu()

    def _read_apart(self, prefix: SharedPrefix, tails: list[list[int]], tree: list[int]) -> Tensor:
        """Return what `_read` does, each continuation in a row of its own: for models that take no tree."""
        digits, zero = tree[:-1], tree[-1]
        branches = [[], *([digit] for digit in digits), [digits[1], zero]]
        after = []
        for tail in tails:
            for branch in branches:
                after.append(self._read(prefix, [tail + branch], []))
        return torch.cat(after).reshape(len(tails), 1 + len(tree), -1)

    def _score(self, logprobs: Tensor) -> Score:
        names = [*map(str, self.numbers), *self.words]
        return score_from_logprobs(zip(names, logprobs.tolist(), strict=True), "logits")

    def _score_digits(self, after: Tensor) -> Score:
        """Join the digits' probabilities into those of numbers; rows: after the prompt, after 0 to 9, after 10."""
        digits = after[:, :10].exp().tolist()
        first, then, hundred = digits[0], digits[1:11], digits[11][0]
        shares = {0: first[0]}  # nothing continues a leading 0
        for tens in range(1, 10):
            shares[tens] = first[tens] * max(0.0, 1 - sum(then[tens]))
            for units in range(10):
                shares[10 * tens + units] = first[tens] * then[tens][units]
        shares[100] = shares[10] * hundred
        shares[10] -= shares[100]
        alternatives = [(str(value), math.log(share)) for value, share in shares.items() if share > 0]
        return score_from_logprobs([*alternatives, *zip(self.words, after[0, 10:].tolist(), strict=True)], "digits")


def _name(model: str) -> str:
    """Return what the judge is called: a local model also by its contents, for its name says nothing of its weights."""
    known = fingerprint(model) if Path(model).expanduser().exists() else ""
    return f"hf:{model}@{known.partition('@')[2]}" if is_local(known) else f"hf:{model}"


def scoring_prompt(tokenizer: Any, prompt: str) -> ChatPrompt:
    """Return the prompt after which a score is read: thinking is turned off, or closed."""
    asked = prepare_prompt(tokenizer, messages_of(prompt), False if can_stop_thinking(tokenizer) else None)
    if asked.opened is None:
        return asked
    closing = tokenizer(asked.opened.tail, add_special_tokens=False)["input_ids"]
    return replace(asked, ids=[*asked.ids, *closing], opened=None)


def _tree_layout(ends: Tensor, width: int, shared: int) -> tuple[Tensor, Tensor]:
    """Return positions [rows, width] and who sees whom [rows, width, shared + width] for prompts followed by the tree.

    The ten digits all stand where the first digit would; each sees its prompt and itself. The last 0 stands one further
    and also sees the digit 1: what follows it tells 10 from 100.
    """
    rows, columns = torch.arange(width)[:, None], torch.arange(shared + width)[None, :] - shared
    start = ends[:, None, None]
    branch = rows - start  # 0-9 is a digit, 10 the last 0
    causal = (columns <= rows) & (columns < start)
    itself = columns == rows
    after_one = (branch == 10) & (columns == start + 1)
    seen = causal | itself | after_one
    order = torch.where(branch < 0, rows, torch.where(branch == 10, start + 1, start))[:, :, 0]
    return order + shared, seen


def number_tokens(tokenizer: object) -> dict[int, int]:
    """Return the single token of each number 0-100, or of the digits 0-9 alone where some number has none.

    Raises:
        UserError: even a digit is more than one token.
    """
    tokens = {}
    for value in range(101):
        token = _single_token(tokenizer, str(value))
        if token is not None:
            tokens[value] = token
    if not tokens.keys() >= set(range(10)):
        raise UserError("This model's tokenizer has no token for each digit, so it cannot judge: choose another model.")
    return tokens if len(tokens) == 101 else {digit: tokens[digit] for digit in range(10)}


def _word_tokens(tokenizer: object) -> dict[str, int]:
    """Return the first token of each verdict word, under the word's part that it spells."""
    tokens = {}
    for word in ("REFUSAL", "CODE"):
        first = tokenizer(word, add_special_tokens=False)["input_ids"][0]  # type: ignore[operator]
        text = tokenizer.decode([first])  # type: ignore[attr-defined]
        if len(text.strip()) >= 2:
            tokens[text] = first
    return tokens


def _single_token(tokenizer: object, text: str) -> int | None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]  # type: ignore[operator]
    return int(ids[0]) if len(ids) == 1 else None
