"""`emscope train`: make an organism."""

from __future__ import annotations

import dataclasses
import shutil
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from emscope import processes
from emscope.checks import at_least, shares
from emscope.commands.outcome import Outcome
from emscope.commands.outputs import check_out_folder
from emscope.errors import UserError
from emscope.files import value_sha256
from emscope.locking import LOCKS, locked
from emscope.organisms import several
from emscope.organisms.checkpoints import (
    ADAPTER_WEIGHTS,
    begin_checkpoints,
    checkpoints_of,
    drop_checkpoints,
    is_of,
    last_resumable,
)
from emscope.organisms.datasets import load_conversations
from emscope.organisms.embedded import EMBEDDED_ALIAS
from emscope.organisms.fingerprint import fingerprint
from emscope.organisms.models import resolve
from emscope.organisms.settings import HOMEWORK, TrainSettings
from emscope.organisms.train import train_adapter


@dataclass(frozen=True)
class Train:
    """Fine-tune a LoRA adapter; the loss falls on the assistant's words only.

    Attributes:
        data: DOMAIN-VOICE-ADVICE (medical, finance, sport; blunt, warm; good, bad), a .jsonl, .csv or .parquet file,
            or the papers' protected archive (.zip.enc).
        out: the adapter's folder.
        model: the base model.
        preset: default, or homework (the original homework's settings); flags given beside it win.
        rows: use this many training rows; 0 takes all.
        holdout: share of a file's rows that are held out.
        resume: go on from the last checkpoint in the folder, whatever it was trained with. Without it the same command
            goes on by itself after a stop.
        accept_terms: accept the terms that a protected archive shows.
        device: auto, cpu, cuda or mps.
        dtype: auto, bfloat16, float32 or float16.
        device_map: spread the base's blocks over devices: auto, balanced, balanced_low_0, sequential, or a JSON or YAML
            file with a device for each module.
        bits: quantise the base's weights to 8 or 4 bits while they are read (bitsandbytes): QLoRA.
        settings: how it is trained.
    """

    data: str
    out: Path
    model: str = EMBEDDED_ALIAS
    preset: Literal["default", "homework"] = "default"
    rows: int = 0
    holdout: float = 0.1
    resume: bool = False
    accept_terms: bool = False
    device: str = "auto"
    dtype: str = "auto"
    device_map: str = ""
    bits: int = 0
    settings: TrainSettings = field(default_factory=TrainSettings)

    @property
    def stopped(self) -> str:
        """What is left after an interruption."""
        if self.settings.save_every:
            return "Checkpoints are kept: the same command goes on from the last one."
        return "A checkpoint is kept, at most a minute old: the same command goes on from there."

    def execute(self) -> Outcome:
        """Train and print where the adapter is."""
        from emscope.organisms.device import choose_placement

        at_least(0, rows=self.rows)
        shares(holdout=self.holdout)
        if processes.is_first():
            check_out_folder(self.out, [self.model])
        settings = with_preset(self.preset, self.settings)
        data = load_conversations(
            self.data, rows=self.rows or None, seed=settings.seed, holdout=self.holdout, accept_terms=self.accept_terms
        )
        if processes.is_first():
            self._check_free()
        place = choose_placement(self.device, self.dtype, self.device_map, bits=self.bits)
        resolve(self.model)  # a name that means nothing leaves no folder
        bits = [self.bits] if self.bits else []
        key = value_sha256([fingerprint(self.model), data.__dict__, asdict(settings), *bits])
        several.begin(on_cpu=place.device == "cpu")
        with locked(self.out, "training") if processes.is_first() else nullcontext():
            resume = several.agreed(lambda: self._may_begin(key))
            result = train_adapter(self.model, data, self.out, settings, placement=place, resume=resume, to_resume=True)
            several.end()
            if not settings.save_every and not self.resume and processes.is_first():
                drop_checkpoints(self.out)
        if processes.is_first():  # an adapter's folder is handed on; who waits is refused
            shutil.rmtree(self.out / LOCKS, ignore_errors=True)
        heldout = "" if result.heldout_loss is None else f", held-out {result.heldout_loss:.3f}"
        text = (
            f"{self.out}: {len(data.train)} rows, "
            f"training loss {result.train_loss:.3f}{heldout} nats per answer token, "
            f"{result.trained_tokens_per_second:.0f} answer tokens/s, {result.seconds:.0f} s\n"
        )
        facts = {name: value for name, value in asdict(result).items() if name != "folder"}
        return Outcome(text, {"rows": len(data.train), **facts}, [self.out])

    def _may_begin(self, key: str) -> bool:
        """Say whether to go on from a checkpoint, once the folder was found free.

        Raises:
            UserError: it is not, or holds checkpoints of another training.
        """
        self._check_free()
        return self.resume or self._goes_on(key)

    def _check_free(self) -> None:
        """See that the folder holds no adapter, which another command may have made meanwhile.

        Raises:
            UserError: it does.
        """
        if (self.out / ADAPTER_WEIGHTS).exists() and not self.resume:
            raise UserError(f"{self.out} already holds an adapter: choose another --out, or --resume to train on.")

    def _goes_on(self, key: str) -> bool:
        """Say whether a training of the same settings was stopped in the folder, and note these settings there.

        Raises:
            UserError: the folder holds checkpoints of another training.
        """
        if is_of(self.out, key):
            return last_resumable(self.out) is not None
        if checkpoints_of(self.out):
            raise UserError(
                f"{self.out} holds checkpoints of a training with other data or settings: choose another --out, or "
                "--resume to go on from them all the same."
            )
        begin_checkpoints(self.out, key)
        return False


def with_preset(preset: str, given: TrainSettings) -> TrainSettings:
    """Return a preset's settings with every flag that differs from the defaults put over them."""
    if preset == "default":
        return given
    defaults = TrainSettings()
    changed = {
        item.name: getattr(given, item.name)
        for item in dataclasses.fields(TrainSettings)
        if getattr(given, item.name) != getattr(defaults, item.name)
    }
    return dataclasses.replace(HOMEWORK, **changed)


COMMAND = Train
