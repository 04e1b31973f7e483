"""Functions that run at the blocks of vLLM's own copy of a model, through vllm-lens.

vllm-lens (UK AI Security Institute) is a plugin of vLLM. Its hooks get the residual stream after a block, or what a
block is given, for one request at a time. Three of its ways are guarded against here. A hook that fails is left out
with a line in the log, so hooks keep their errors, and count the tokens that they saw, in what vllm-lens brings back.
A hook before a block sees the block's update alone, not the stream, except at the first block: what stands before
block b is taken after block b - 1. And it leaves changed keys and values in vLLM's prefix cache, so prompts under hooks
are cached under a name of their own.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from emscope.errors import UserError
from emscope.organisms.blocks import Site

SWITCH = "VLLM_LENS_DISABLE"
MISSING = (
    "vLLM runs interventions and reads activations with the plugin vllm-lens alone, which is not installed (pip "
    "install vllm-lens; beside another vLLM or Python than it names: pip install --no-deps --ignore-requires-python "
    "vllm-lens zstandard)"
)


def lens_is_installed() -> bool:
    """Say whether vllm-lens can be imported."""
    return importlib.util.find_spec("vllm_lens") is not None


def switch(on: bool) -> None:
    """Have vLLM load vllm-lens, or leave it: it takes compiled graphs from every engine of a process that loads it."""
    if not on:
        os.environ.setdefault(SWITCH, "1")
        return
    os.environ[SWITCH] = "0"
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"  # vllm-lens reads the first runner's books
    import vllm

    if hasattr(vllm.LLM, "register_hooks"):
        return
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    if not hasattr(vllm.LLM, "register_hooks"):  # an engine was made before in this process, without the plugin
        for point in importlib.metadata.entry_points(group="vllm.general_plugins"):
            if point.value.startswith("vllm_lens."):
                point.load()()


@dataclass(frozen=True)
class BlockCalls:
    """A function, and the blocks at which vLLM's workers call it for each request.

    Attributes:
        function: (context, hidden [tokens, d_model]) → hidden of the same shape, or None; a block's tokens come in one
            call or several, in order. `context.layer_idx` is vllm-lens's number of the block.
        layers: after which blocks it is called.
        first: call it before block 0 as well, with the embeddings; `context.layer_idx` is then 0.
    """

    function: Callable[[Any, Tensor], Tensor | None]
    layers: tuple[int, ...]
    first: Callable[[Any, Tensor], Tensor | None] | None = None

    def hooks(self) -> list[Any]:
        """Return them as vllm-lens takes them."""
        from vllm_lens import Hook

        hooks = []
        if self.layers:
            hooks.append(Hook(fn=self.function, layer_indices=list(self.layers)))
        if self.first is not None:
            hooks.append(Hook(fn=self.first, layer_indices=[0], pre=True))
        return hooks


def layers_of(blocks: Sequence[int], site: Site) -> tuple[tuple[int, ...], bool]:
    """Return after which blocks hooks stand that act at a site of `blocks`, and whether one stands before block 0."""
    if site == "resid_post":
        return tuple(blocks), False
    return tuple(block - 1 for block in blocks if block > 0), 0 in blocks


@dataclass(frozen=True)
class Read:
    """What vLLM read for one request, and what its hooks brought back.

    Attributes:
        prompt: tokens of the prompt.
        tokens: tokens that every block has read: the prompt, and the answer but for its last token.
        saved: what each hook saved, the hook after blocks before the one at the embeddings.
    """

    prompt: int
    tokens: int
    saved: tuple[dict[str, Any], ...]


def read_of(output: Any, saved: dict[str, dict[str, Any]]) -> Read:
    """Return what was read for one of vLLM's outputs."""
    n = len(output.prompt_token_ids)
    return Read(n, n + len(output.outputs[0].token_ids) - 1, tuple(saved[key] for key in sorted(saved, key=int)))


def collected(ranks: Sequence[bytes | None], names: Sequence[str]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return what hooks saved, by request and hook, from what vLLM's workers sent.

    vllm-lens's own `collect_hook_results` returns the first worker's alone; under pipeline parallelism others hold the
    rest. It names a request by vLLM's number for it, a dash and a suffix.
    """
    by_request: dict[str, dict[str, dict[str, Any]]] = {}
    for rank in ranks:
        if rank is None:
            continue
        for name, hooks in pickle.loads(rank).items():
            request = by_request.setdefault(name if name in names else name.rpartition("-")[0], {})
            for hook, saved in hooks.items():
                _join(request.setdefault(hook, {}), saved)
    return by_request


def _join(saved: dict[str, Any], more: dict[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, dict):
            _join(saved.setdefault(key, {}), value)
        else:
            saved[key] = value


class Watch:
    """Counts what a hook sees of a request, in what vllm-lens brings back, and keeps its first error."""

    SEEN, FIRST, ERROR = "seen", "first", "error"

    @classmethod
    def enter(cls, context: Any, hidden: Tensor) -> int:
        """Note a call; return how many tokens the block had read before."""
        seen = context.saved.setdefault(cls.SEEN, {})
        before = int(seen.get(context.layer_idx, 0))
        seen[context.layer_idx] = before + len(hidden)
        context.saved.setdefault(cls.FIRST, len(hidden))
        return before

    @classmethod
    def failed(cls, context: Any, error: Exception) -> None:
        """Note an error."""
        context.saved.setdefault(cls.ERROR, f"{type(error).__name__}: {error}")


def check_seen(what: str, read: Read, layers: Sequence[int], first: bool, *, whole_prompt: bool) -> None:
    """Refuse a request whose tokens did not all pass the hooks, once each.

    `whole_prompt` says that the hook tells prompt from answer by its first call, so that the prompt must come in one.

    Raises:
        UserError: a hook failed, was not called, missed tokens, or saw some twice.
    """
    wanted = [layers] if layers else []
    wanted += [(0,)] if first else []
    if len(read.saved) != len(wanted):
        raise UserError(f"vLLM did not run {what}: use --backend transformers.")
    for saved, blocks in zip(read.saved, wanted, strict=True):
        if error := saved.get(Watch.ERROR):
            raise UserError(f"{what} failed inside vLLM ({error}): use --backend transformers.")
        seen = saved.get(Watch.SEEN, {})
        for block in blocks:
            n = seen.get(block, 0)
            if not read.tokens <= n <= read.tokens + 1:  # vLLM may begin one step more before it sees the end
                raise UserError(_miscounted(what, block, n, read.tokens))
        if whole_prompt and saved.get(Watch.FIRST) != read.prompt:
            raise UserError(
                f"vLLM read a prompt of {read.prompt} tokens in pieces, so that {what} cannot tell prompt from answer: "
                "use --backend transformers, or shorter prompts."
            )


def _miscounted(what: str, block: int, seen: int, wanted: int) -> str:
    if seen > wanted:
        return (
            f"vLLM began an answer anew, so that {what} saw {seen} tokens at block {block} instead of {wanted}: its KV "
            "cache is too small (raise VLLM_CPU_KVCACHE_SPACE or EMSCOPE_VLLM_GPU_MEMORY, or ask for fewer answers)."
        )
    return f"vLLM ran {what} on {seen} of {wanted} tokens at block {block}: use --backend transformers."
