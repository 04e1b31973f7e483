"""Models in memory: a base with its tokenizer and perhaps an adapter, loaded by name and checked before it counts."""

from __future__ import annotations

import logging
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from emscope.errors import OutsideError, UserError
from emscope.notebook import Facts, Shown
from emscope.organisms.architecture import is_multimodal, model_width, n_positions
from emscope.organisms.attach import attach, brings_embedding, logits_of, read_adapter
from emscope.organisms.blocks import decoder_body, find_blocks, head_logits, input_device, visiting
from emscope.organisms.chat import say_endings
from emscope.organisms.device import Placement, choose_placement
from emscope.organisms.guard import (
    AdapterVerdict,
    adapter_key,
    check_acts,
    check_base,
    check_ids,
    effect_of,
    keep,
    merging_changes,
    recall,
    refuse_infinite,
)
from emscope.organisms.limits import REMEDY
from emscope.organisms.sources import ModelSource, adapter_folder, resolve
from emscope.organisms.spread import is_offloaded, is_spread
from emscope.organisms.templates import MOST_TEMPLATE, check_template, render
from emscope.organisms.token_positions import prompts_end_at
from emscope.organisms.tokenizer_files import check_tokenizer, check_tokenizer_files
from emscope.organisms.weights import cannot_load, load_config, load_weights
from emscope.outside import read_text, reading

__all__ = [
    "ModelSource",
    "Organism",
    "check_positions",
    "finite_logits",
    "load",
    "load_tokenizer",
    "resolve",
]

logger = logging.getLogger(__name__)

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")
TEMPLATE_FILE = "chat_template.jinja"
MOST_DIFFERING = 0.05
"""Share of a base's tokens that an adapter's tokenizer may have renamed or left out."""


@dataclass(frozen=True)
class Organism(Shown):
    """A model under study, ready to run: weights in evaluation mode, its tokenizer, and where it came from."""

    source: ModelSource
    model: Any
    tokenizer: Any
    placement: Placement

    def facts(self) -> Facts:
        """Return its name, size and place, without the weights."""
        place, source = self.placement, self.source
        found = {"name": source.name, "blocks": len(find_blocks(self.model)), "d_model": model_width(self.model)}
        base = {"base": source.base} if source.base != source.name else {}
        return {**found, **base, "device": place.device, "dtype": place.dtype_name}

    @property
    def device(self) -> torch.device:
        """The device that takes the tokens: that of the weights, or of the embedding where they are spread."""
        return input_device(self.model) if is_spread(self.model) else torch.device(self.placement.device)


def load(
    name: str | ModelSource,
    *,
    base: str | None = None,
    placement: Placement | None = None,
    merge: bool = True,
    trust_remote_code: bool = False,
) -> Organism:
    """Load a model for reading and sampling; its adapter, if any, is merged into the weights unless `merge` is off.

    Merging makes every later forward pass as fast as the base's; the scale comes from PEFT (alpha/r, rsLoRA alpha/√r).
    An adapter that does not give the same logits merged stays unmerged. Every load passes the guard (see `guard`).

    Raises:
        UserError: the model or adapter cannot be found, does not fit, or is not what its files say.
    """
    source = resolve(name, base) if isinstance(name, str) else name
    place = placement or choose_placement()
    model: Any = load_weights(source, place, trust_remote_code=trust_remote_code).eval()
    tokenizer = load_tokenizer(source, trust_remote_code=trust_remote_code)
    if source.adapter is not None:
        model = _with_adapter(model, tokenizer, source, place, merge, trust_remote_code)
    model.requires_grad_(False)
    rows = model.get_input_embeddings().weight.shape[0]
    usable_pad(tokenizer, rows)
    check_tokens(tokenizer, rows, source.name)
    check_base(model, source, place, check_ids(tokenizer, rows))
    say_endings(tokenizer, getattr(getattr(model, "generation_config", None), "eos_token_id", None))
    return Organism(source, model, tokenizer, place)


def _with_adapter(
    model: Any, tokenizer: Any, source: ModelSource, place: Placement, merge: bool, trust_remote_code: bool
) -> Any:
    """Return the model with its adapter: merged where that changes no logit, else as PEFT runs it."""
    adapter = read_adapter(source)
    multimodal = is_multimodal(load_config(source, trust_remote_code=trust_remote_code))  # a text-only class drops it
    wrapped = attach(model, adapter, multimodal=multimodal)
    ids = torch.tensor(
        [check_ids(tokenizer, wrapped.get_input_embeddings().weight.shape[0])], device=input_device(wrapped)
    )
    key = adapter_key(adapter, place)
    known = recall(key, model)
    verdict = AdapterVerdict(known.flag("acts"), known.flag("merges", None)) if known is not None else None
    if verdict is None:
        with_adapter, without = effect_of(wrapped, ids)
        refuse_infinite(with_adapter, adapter, place)
        acts = with_adapter.shape != without.shape or not torch.equal(with_adapter, without)
        verdict = AdapterVerdict(acts)
    check_acts(adapter, verdict.acts, place)
    why_not = why_unmerged(wrapped, place)
    if not merge or why_not or verdict.merges is False:
        if merge:
            _say_unmerged(source, why_not)
        return wrapped
    merged = _merged(wrapped, source)
    if verdict.merges is None:
        fits = merged is not None and not merging_changes(
            with_adapter - without, logits_of(merged, ids) - with_adapter, place
        )
        verdict = AdapterVerdict(verdict.acts, fits)
        keep(key, asdict(verdict), model)
    if verdict.merges:
        return merged
    _say_unmerged(source, "")
    fresh = load_weights(source, place, trust_remote_code=trust_remote_code)
    return attach(fresh, adapter, multimodal=multimodal)


def why_unmerged(model: Any, place: Placement) -> str:
    """Return why the weights of a model that PEFT wrapped take no update of an adapter, '' where they do."""
    if getattr(model, "is_quantized", False):
        return "its base is quantised, and rounding to a few bits would lose the update"
    if place.tensor_parallel:
        return "each process holds a part of its base's matrices"
    return "parts of its base lie in main memory beside a GPU" if is_offloaded(model) else ""


def _say_unmerged(source: ModelSource, reason: str) -> None:
    why = reason or "merging it would change what it does"
    logger.info("The adapter %s runs unmerged, which is slower: %s.", source.adapter, why)


def _merged(wrapped: Any, source: ModelSource) -> Any | None:
    """Return the model with its adapter merged, None where PEFT cannot merge it."""
    try:
        return wrapped.merge_and_unload(safe_merge=True)
    except Exception as error:  # PEFT raises many kinds for what it cannot merge
        logger.debug("merging %s: %s", source.adapter, error)
        return None


def check_positions(organism: Organism, n_tokens: int, what: str, advice: str) -> None:
    """Refuse text that is longer than a model can read; what lies beyond its positions is no figure of it.

    Raises:
        UserError: more tokens than the model has positions; `what` has so many, and `advice` says what to do.
    """
    positions = n_positions(organism.model.config)
    if positions is not None and n_tokens > positions:
        raise UserError(f"{what} exceed the {positions} positions of {organism.source.name}: {advice}.")


def finite_logits(organism: Organism, hidden: Tensor) -> Tensor:
    """Return next-token logits [..., vocabulary], float32, of final hidden states [..., d_model].

    Raises:
        UserError: a logit is NaN or infinite, and whatever is sampled or scored from it would be noise.
    """
    logits = head_logits(organism.model, hidden)
    if not bool(
        logits.amax(dim=-1).isfinite().all()
    ):  # NaN and +inf survive a maximum; -inf bars a token, which is fine
        block = first_infinite_block(organism)
        where = "" if block is None else f", from block {block} on"
        raise UserError(
            f"The logits of {organism.source.name} are not finite{where}: the weights are damaged, or "
            f"{organism.placement.dtype_name} overflows; try --dtype float32."
        )
    return logits


def first_infinite_block(organism: Organism) -> int | None:
    """Return the first block whose output is NaN or infinite on a short text, under whatever hooks are in force now.

    None where every block's output of that text is finite, though another text's need not be.
    """
    infinite: list[int] = []

    def visit(block: int, hidden: Tensor) -> None:
        if not infinite and not bool(hidden.isfinite().all()):
            infinite.append(block)

    rows, blocks = organism.model.get_input_embeddings().weight.shape[0], range(len(find_blocks(organism.model)))
    ids = torch.tensor([check_ids(organism.tokenizer, rows)], device=organism.device)
    with ExitStack() as stack:
        stack.enter_context(suppress(IndexError, RuntimeError))  # of hooks that change rows of a batch by their numbers
        stack.enter_context(torch.no_grad())
        stack.enter_context(prompts_end_at([ids.shape[1]]))
        stack.enter_context(visiting(organism.model, blocks, visit))
        decoder_body(organism.model)(input_ids=ids, use_cache=False)
    return infinite[0] if infinite else None


def load_tokenizer(source: ModelSource, *, trust_remote_code: bool = False) -> Any:
    """Load the tokenizer of a model: the adapter's own where its folder has one, else its base's.

    Raises:
        UserError: it cannot be read, or is not a fast one.
    """
    tokenizer = _read_tokenizer(source, trust_remote_code)
    if not tokenizer.is_fast:
        raise UserError(
            f"{source.base} has no fast tokenizer, whose offsets emscope needs to tell answers from prompts."
        )
    check_tokenizer(tokenizer, source.name)
    check_template(tokenizer, source.name)
    usable_pad(tokenizer, len(tokenizer))
    return tokenizer


def _read_tokenizer(source: ModelSource, trust_remote_code: bool) -> Any:
    folder = adapter_folder(source) if source.adapter is not None else None
    if folder is None or not any((folder / file).is_file() for file in TOKENIZER_FILES):
        tokenizer = _tokenizer_from(source, source.location, source.revision, trust_remote_code)
        template = folder / TEMPLATE_FILE if folder is not None else None
        own = _read_template(template) if template is not None and template.is_file() else ""
        if own.strip():
            logger.info("The adapter %s brings a chat template of its own: it is used.", source.adapter)
            tokenizer.chat_template = own
        return tokenizer
    tokenizer = _tokenizer_from(source, str(folder), None, trust_remote_code=False)  # the base's authors are trusted
    base = _tokenizer_from(source, source.location, source.revision, trust_remote_code)
    if not tokenizer.chat_template and base.chat_template:
        tokenizer.chat_template = base.chat_template
    _check_vocabulary(source, tokenizer, base)
    differing = [
        what
        for what, differs in (
            (f"{len(tokenizer)} tokens instead of {len(base)}", len(tokenizer) != len(base)),
            ("another chat template", tokenizer.chat_template != base.chat_template),
        )
        if differs
    ]
    if differing:
        words = " and ".join(differing)
        logger.info("The adapter %s brings its own tokenizer, with %s: it is used.", source.adapter, words)
    return tokenizer


def _read_template(file: Path) -> str:
    return read_text(file, MOST_TEMPLATE)


def _check_vocabulary(source: ModelSource, tokenizer: Any, base: Any) -> None:
    """Refuse an adapter's tokenizer that numbers its base's tokens otherwise: every text would be another one.

    Tokens may be added, and some renamed. An adapter that brings a whole embedding may bring any vocabulary.

    Raises:
        UserError: the tokenizer is of another model.
    """
    own, known = tokenizer.get_vocab(), base.get_vocab()
    differing = [token for token, number in known.items() if own.get(token) != number]
    if len(differing) > MOST_DIFFERING * len(known) and not brings_embedding(source):
        raise UserError(
            f"The tokenizer in the folder of the adapter {source.adapter} is of another model than {source.base!r}: "
            f"{len(differing)} of {len(known)} tokens have another number or are not there (for example "
            f"{differing[0]!r}). Take the tokenizer's files out of that folder, or name the right base with --base."
        )


def _tokenizer_from(source: ModelSource, location: str, revision: str | None, trust_remote_code: bool) -> Any:
    from transformers import AutoTokenizer

    if Path(location).is_dir():
        check_tokenizer_files(Path(location))
    try:
        with reading(location, "the folder of a tokenizer that transformers reads", REMEDY):  # Rust panics included
            return AutoTokenizer.from_pretrained(location, revision=revision, trust_remote_code=trust_remote_code)
    except OutsideError as outside:  # whatever is wrong here is in the files
        error = outside.__cause__ or outside
        if location != source.location:
            first = cannot_load(source, error).args[0].partition(": ")[2]
            raise UserError(
                f"The adapter {source.adapter} brings a tokenizer that cannot be read ({first.rstrip('.')}): mend it, "
                "or take its files out of that folder."
            ) from error
        raise cannot_load(source, error) from error


def usable_pad(tokenizer: Any, rows: int) -> None:
    """Give a tokenizer a padding token that an embedding of `rows` tokens has; padding is masked, so any will do."""
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id < rows:
        return
    end = tokenizer.eos_token_id
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(end if end is not None and end < rows else 0)


def check_tokens(tokenizer: Any, rows: int, name: str) -> None:
    """Refuse a tokenizer whose chat template writes tokens that the embedding of `rows` tokens does not have.

    Raises:
        UserError: with the tokens.
    """
    if not tokenizer.chat_template or len(tokenizer) <= rows:
        return
    try:
        text = render(tokenizer, [{"role": "user", "content": "Hello"}], add_generation_prompt=True)
    except UserError as error:  # a template that refuses these messages says so where it is used
        logger.debug("%s: %s", name, error)
        return
    outside = sorted({token for token in tokenizer(text, add_special_tokens=False)["input_ids"] if token >= rows})
    if outside:
        words = ", ".join(repr(tokenizer.convert_ids_to_tokens(token)) for token in outside[:4])
        raise UserError(
            f"The chat template of {name} writes tokens that its embedding of {rows} tokens does not have ({words}): "
            "the tokenizer is of another model."
        )
