"""Whether a loaded model computes here what it computes by itself: its logits, its decoding steps, its hooks.

Three short forward passes on one sequence. Nothing is changed on the model: what a pass leaves behind is put back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from emscope.errors import UserError
from emscope.organisms.architecture import model_width, takes_padding
from emscope.organisms.blocks import decoder_body, find_blocks, head_logits, input_device, visiting
from emscope.organisms.decoding import Decoding

MAX_TOKENS = 8
PADDING = 3
"""How many tokens fewer the second row has: it is padded on the left by so many more."""

HEAD_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4, torch.float16: 0.005, torch.bfloat16: 0.02}
PASS_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.15}
"""The largest difference allowed between two vectors of logits, as a part of the spread of the model's own.

The head is checked on the very hidden states the model used, so that only its own rounding differs; a pass through the
cache has other shapes in every block, and its rounding adds up over the blocks.
"""


def forward_faults(model: nn.Module, ids: Sequence[int], *, dtype: torch.dtype) -> list[str]:
    """Return what disagrees between a model's own forward pass and emscope's ways of running it; none if all is well.

    Compared are, on 6 to 8 tokens of `ids`: the model's logits with those made from its decoder's hidden states, at
    every token; with a prefill and one more step as sampling takes them, alone and padded on the left; and what a hook
    sees at each block with one [1, tokens, d_model]. `dtype` is the weights' and decides how much rounding is allowed.

    Raises:
        UserError: the model's blocks cannot be found.
    """
    tokens = torch.tensor([list(ids)[:MAX_TOKENS]], device=input_device(model))
    with _left_as_found(model), torch.no_grad():
        model.eval()
        with _told_as("its own forward pass") as failed:
            logits, faults = _whole(model, tokens, dtype)
        if failed:
            return failed
        with _told_as("decoding") as failed:
            faults += _decoded(model, tokens, logits, dtype)
        return faults + failed


def _whole(model: nn.Module, tokens: Tensor, dtype: torch.dtype) -> tuple[Tensor, list[str]]:
    """Run the model's own forward pass: its logits [tokens, vocabulary], and what its head and blocks disagree in."""
    n_blocks = len(find_blocks(model))
    shapes: dict[int, list[tuple[int, ...]]] = {block: [] for block in range(n_blocks)}
    finals: list[Tensor | None] = []

    def see(block: int, hidden: Tensor) -> None:
        shapes[block].append(tuple(hidden.shape))

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        finals.append(getattr(output, "last_hidden_state", None))

    handle = decoder_body(model).register_forward_hook(keep)
    try:
        with visiting(model, range(n_blocks), see):
            logits: Tensor = model(input_ids=tokens, use_cache=False).logits[0].float()
    finally:
        handle.remove()
    faults = _shape_faults(shapes, (1, tokens.shape[1], model_width(model)))
    if finals and finals[-1] is not None:
        own = head_logits(model, finals[-1])[0]
        faults += _difference(
            "the logits made from its last hidden states", own, logits, _allowed(HEAD_TOLERANCE, dtype)
        )
    return logits, faults


def _shape_faults(shapes: dict[int, list[tuple[int, ...]]], expected: tuple[int, ...]) -> list[str]:
    """Name the first block that a pass does not run exactly once, and the first that a hook sees another shape at."""
    faults = []
    uneven = [block for block, seen in shapes.items() if len(seen) != 1]
    if uneven:
        block = uneven[0]
        faults.append(
            f"block {block} runs {len(shapes[block])} times in a pass, so a hook at it does not see one output"
        )
    others = []
    for block, seen in shapes.items():
        others += [(block, shape) for shape in seen if shape != expected]
    if others:
        block, shape = others[0]
        faults.append(f"a hook at block {block} sees {list(shape)}, not the expected {list(expected)}")
    return faults


def _decoded(model: nn.Module, tokens: Tensor, logits: Tensor, dtype: torch.dtype) -> list[str]:
    """Prefill all tokens but one and take the last as a decoding step, beside a shorter row padded on the left."""
    whole: Any = model
    ids, n = tokens[0].tolist(), tokens.shape[1]
    lengths = [n - 1, n - 1 - PADDING] if takes_padding(whole.config) else [n - 1]
    decoding = Decoding(model, [ids[:length] for length in lengths], pad_id=ids[0], new_tokens=1)
    before = head_logits(model, decoding.step())
    decoding.append(tokens[0, lengths])
    after, allowed = head_logits(model, decoding.step()), _allowed(PASS_TOLERANCE, dtype)
    faults = [
        *_difference("a prefill", before[:1], logits[n - 2 : n - 1], allowed),
        *_difference("a decoding step", after[:1], logits[n - 1 :], allowed),
    ]
    if len(lengths) > 1:
        expected = logits[[lengths[1] - 1, lengths[1]]]
        faults += _difference("a row padded on the left", torch.stack([before[1], after[1]]), expected, allowed)
    return faults


def _difference(what: str, ours: Tensor, whole: Tensor, allowed: float) -> list[str]:
    """Compare logits [tokens, vocabulary] token by token, as parts of the spread of the model's own."""
    if ours.shape != whole.shape:
        return [f"{what}: shape {list(ours.shape)}, where the model's own logits are {list(whole.shape)}"]
    spread = (whole - whole.mean(dim=-1, keepdim=True)).norm(dim=-1).clamp(min=1e-12)
    part = float(((ours - whole).norm(dim=-1) / spread).max())
    if part <= allowed:
        return []
    return [f"{what}: differs from the model's own logits by {part:.2g} of their spread, allowed is {allowed:g}"]


@contextmanager
def _told_as(what: str) -> Iterator[list[str]]:
    """Turn whatever a model raises into a fault: its code may be anybody's."""
    faults: list[str] = []
    try:
        yield faults
    except UserError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or ["no message"]
        faults.append(f"{what}: fails with {type(error).__name__}: {lines[0]}")


def _allowed(table: dict[torch.dtype, float], dtype: torch.dtype) -> float:
    return table.get(dtype, table[torch.bfloat16])


@contextmanager
def _left_as_found(model: nn.Module) -> Iterator[None]:
    """Put back the attributes and buffers that forward passes set on modules (rotary tables, offsets, modes)."""
    before = [(module, dict(module.__dict__), dict(module._buffers)) for module in model.modules()]
    try:
        yield
    finally:
        for module, attributes, buffers in before:
            module.__dict__.clear()
            module.__dict__.update(attributes)
            module._buffers.clear()
            module._buffers.update(buffers)
