"""LoRA fine-tuning of a chat model on conversations, with TRL and PEFT.

Loss falls on assistant tokens only, and batches hold sequences of similar length, so almost no padding is computed.
"""

from __future__ import annotations

import logging
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from emscope import progress
from emscope.errors import UserError
from emscope.files import open_to_others, sync_file, sync_folder, value_sha256
from emscope.organisms.architecture import n_positions
from emscope.organisms.batching import WIDTH_STEP
from emscope.organisms.card import exact_base, write_card, write_portable_base
from emscope.organisms.chat import EncodedChat, Message, check_chat, encode_chat, stop_ids
from emscope.organisms.checkpoints import ADAPTER_FILES, last_resumable
from emscope.organisms.control_tokens import say_spelled
from emscope.organisms.datasets import Conversations
from emscope.organisms.device import Placement, choose_placement
from emscope.organisms.lineage import write_lineage
from emscope.organisms.lora import with_adapter
from emscope.organisms.memory import give_memory_back, keep_freed_pages
from emscope.organisms.models import ModelSource, Organism, load, resolve
from emscope.organisms.resuming import check_resumable
from emscope.organisms.settings import TrainResult, TrainSettings
from emscope.organisms.several import refuse_tensor_parallel, whole_adapter

logger = logging.getLogger(__name__)

SAVING = ".saving-"


def encode_conversations(tokenizer: Any, conversations: list[list[Message]], max_length: int) -> list[EncodedChat]:
    """Tokenise conversations for training, cut to `max_length` tokens; a warning counts the answers that lose any.

    Raises:
        UserError: a conversation of which no token would be trained, by its beginning.
    """
    encoded, n_cut = [], 0
    for messages in conversations:
        whole = encode_chat(tokenizer, messages)
        chat = whole.cut(max_length)
        if not any(chat.is_answer):
            begins = " ".join(messages[0]["content"].split())[:40]
            raise UserError(
                f"The conversation that begins with {begins!r} has no assistant token among its first {max_length}: "
                "shorten its prompt, or raise max_length."
            )
        n_cut += sum(whole.is_answer) > sum(chat.is_answer)
        encoded.append(chat)
    say_spelled("conversations", [chat.spelled for chat in encoded])
    if n_cut:
        logger.warning(
            "%d of %d conversations go on after %d tokens, where they are cut: raise max_length to learn them whole.",
            n_cut,
            len(encoded),
            max_length,
        )
    return encoded


def readable_length(organism: Organism, max_length: int) -> int:
    """Return `max_length`, or as many tokens as the model can read in batches of a rounded width, if that is less."""
    positions = n_positions(organism.model.config)
    if positions is None or max_length <= positions:
        return max_length
    longest = positions // WIDTH_STEP * WIDTH_STEP
    logger.warning("max_length is %d: %s reads %d positions.", longest, organism.source.name, positions)
    return longest


def train_adapter(
    base: str | ModelSource,
    data: Conversations,
    folder: Path,
    settings: TrainSettings,
    *,
    placement: Placement | None = None,
    resume: bool = False,
    to_resume: bool = False,
    name: str = "training",
) -> TrainResult:
    """Train a LoRA adapter and write it to `folder`: a standard PEFT folder, a model card, metrics.jsonl, lineage.json.

    The adapter names a base that PEFT finds (see `card.portable_base`); the lineage beside it names the exact one.
    `resume` goes on from the last checkpoint in the folder; `to_resume` keeps one a minute for that, where the settings
    keep none.

    Raises:
        UserError: an unknown block or module, or nothing to resume from.
    """
    source = resolve(base) if isinstance(base, str) else base
    refuse_adapter(source)
    asked = placement or choose_placement()
    place = asked.for_training()
    if place != asked:
        logger.info("%s", place.reason)
    torch.manual_seed(settings.seed)
    organism = load(source, placement=place)
    result = train_loaded(organism, data, folder, settings, resume=resume, to_resume=to_resume, name=name)
    del organism
    give_memory_back()
    return result


def train_loaded(
    organism: Organism,
    data: Conversations,
    folder: Path,
    settings: TrainSettings,
    *,
    resume: bool = False,
    to_resume: bool = False,
    name: str = "training",
) -> TrainResult:
    """Train an adapter on a base that is in memory and leave the base as it was, ready for the next adapter.

    The adapter's first values come from torch's global generator, which the caller seeds.

    Raises:
        UserError: an unknown block or module, nothing to resume from, or a base that is an adapter itself.
    """
    from emscope.organisms.trainer import LossRecord, make_trainer, metrics_callback

    source, place = organism.source, organism.placement
    refuse_adapter(source)
    refuse_tensor_parallel(place.tensor_parallel)
    check_chat(organism.tokenizer, stop_ids(organism.tokenizer, organism.model.generation_config.eos_token_id))
    max_length = readable_length(organism, settings.max_length)
    train = encode_conversations(organism.tokenizer, data.train, max_length)
    heldout = encode_conversations(organism.tokenizer, data.heldout, max_length)
    model = with_adapter(organism.model, settings)
    folder.mkdir(parents=True, exist_ok=True)
    keep_freed_pages()
    steps = _total_steps(len(train), settings)
    trainer = make_trainer(
        model, organism.tokenizer, train, heldout, folder, settings, place, steps, to_resume=to_resume
    )
    trainer.source = source
    checkpoint = _last_checkpoint(folder) if resume else None
    if checkpoint is not None:
        check_resumable(checkpoint, model)
        trainer.losses = LossRecord.read(checkpoint)
    with progress.task(name, steps, "steps") as advance:
        trainer.add_callback(metrics_callback(folder / "metrics.jsonl", advance, checkpoint))
        outcome = trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    seconds = trainer.losses.elapsed
    heldout_loss = float(trainer.evaluate()["eval_loss"]) if heldout else None
    n_trained = sum(sum(chat.is_answer) for chat in train) * settings.epochs
    train_loss = float(outcome.metrics["train_loss"])
    result = TrainResult(folder, train_loss, heldout_loss, n_trained / seconds, seconds)
    weights = whole_adapter(model)
    if trainer.is_world_process_zero():
        _save_adapter(model, folder, source, weights)
        _record(result, source, data, settings, place)
    model.unload().eval().requires_grad_(False)
    return result


def _save_adapter(model: Any, folder: Path, source: ModelSource, weights: dict[str, Tensor] | None = None) -> None:
    """Write an adapter whole: PEFT writes where it is told to, and a stop would leave half a file there.

    `weights` stand for the model's own where each process holds a part of these.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=SAVING) as name:
        saved = Path(name)
        model.save_pretrained(saved, safe_serialization=True, save_embedding_layers=False, state_dict=weights)
        write_portable_base(saved, source)
        open_to_others(saved)
        for file in ADAPTER_FILES:
            sync_file(saved / file)
            (saved / file).replace(folder / file)
    sync_folder(folder)


def refuse_adapter(base: ModelSource) -> None:
    """Refuse to train on a base that has an adapter merged in: what is trained would name the base without it.

    Raises:
        UserError: the base is an adapter.
    """
    if base.adapter is not None:
        raise UserError(
            f"{base.name} is an adapter on {base.base}: train on {base.base} itself, or merge the adapter into a model "
            "of its own first (PEFT's merge_and_unload and save_pretrained)."
        )


def _record(
    result: TrainResult, source: ModelSource, data: Conversations, settings: TrainSettings, place: Placement
) -> None:
    """Write the adapter's model card and lineage."""
    figures = {key: value for key, value in asdict(result).items() if key != "folder"}
    rows = {"train_rows": len(data.train), "heldout_rows": len(data.heldout), "sha256": value_sha256(data.train)}
    facts = {"name": data.name, **rows, "terms": data.terms}
    write_card(result.folder, source, facts, settings, result)
    write_lineage(
        result.folder,
        what="adapter",
        base=exact_base(source),
        data=facts,
        settings=asdict(settings),
        placement=place,
        figures=figures,
    )


def _total_steps(n_rows: int, settings: TrainSettings) -> int:
    per_epoch = -(-n_rows // (settings.batch_size * settings.accumulate))
    return max(1, int(per_epoch * settings.epochs))


def _last_checkpoint(folder: Path) -> Path:
    found = last_resumable(folder)
    if found is None:
        raise UserError(f"There is no checkpoint in {folder}: train without --resume.")
    return found
