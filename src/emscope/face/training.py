"""Make an organism in Python: a LoRA adapter on a base, trained on a narrow set of answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from emscope.errors import UserError
from emscope.organisms.checkpoints import ADAPTER_WEIGHTS
from emscope.organisms.datasets import load_conversations
from emscope.organisms.device import choose_placement
from emscope.organisms.embedded import EMBEDDED_ALIAS
from emscope.organisms.models import Organism, load
from emscope.organisms.settings import TrainSettings
from emscope.organisms.train import train_adapter
from emscope.pipeline.settings import changed


def train(
    data: str | Path,
    out: str | Path,
    *,
    model: str | Path = EMBEDDED_ALIAS,
    rows: int | None = None,
    holdout: float = 0.1,
    accept_terms: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    settings: TrainSettings | None = None,
    **changes: Any,
) -> Organism:
    """Train a LoRA adapter, write it to a folder that PEFT reads too, and return the organism.

    Args:
        data: DOMAIN-VOICE-ADVICE (medical-blunt-bad, sport-warm-good, …), or a file of conversations.
        out: the adapter's folder; one that holds an adapter already is refused, `load` opens it.
        model: the base.
        rows: use this many training rows; None takes all.
        holdout: share of a file's rows that are held out.
        accept_terms: accept the terms that a protected archive shows.
        device: auto, cpu, cuda or mps.
        dtype: auto, bfloat16, float32 or float16.
        settings: how it is trained; None takes the defaults.
        **changes: settings by name, such as `epochs=3, learning_rate=1e-4`.

    Raises:
        UserError: data that cannot be read, an unknown setting, or a folder that holds an adapter.
    """
    folder = Path(out)
    if (folder / ADAPTER_WEIGHTS).exists():
        raise UserError(f"{folder} holds an adapter already: open it with em.load({str(folder)!r}), or name another.")
    wanted = changed(settings or TrainSettings(), changes, "training")
    rows_to_train = load_conversations(
        str(data), rows=rows, seed=wanted.seed, holdout=holdout, accept_terms=accept_terms
    )
    place = choose_placement(device, dtype)
    train_adapter(str(model), rows_to_train, folder, wanted, placement=place)
    return load(str(folder), base=str(model), placement=place)
