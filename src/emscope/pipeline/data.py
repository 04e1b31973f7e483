"""What a run's organisms are made of: data to train on, or adapters and models that were trained elsewhere."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

from emscope.errors import UserError
from emscope.organisms.checkpoints import ADAPTER_CONFIG
from emscope.organisms.datasets import Conversations, built_in, is_built_in, load_conversations
from emscope.organisms.models import resolve
from emscope.organisms.protected import is_archive
from emscope.pipeline.config import BUILT_IN_ROWS, RunConfig

logger = logging.getLogger(__name__)

Kind = Literal["built-in", "file", "adapter", "model"]
TRAINED: tuple[Kind, ...] = ("adapter", "model")
DATA_ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt", ".gz", ".zip", ".enc", ".md", ".yaml", ".yml")
NO_CONTROL = (
    "The run has no control organism: what is found is compared with the base alone, and that comparison says of any "
    "fine-tune that it is one. control_data names the control's data: good answers to the same prompts are best."
)


def kind_of(name: str) -> Kind:
    """Say what the name of an organism's data stands for.

    Raises:
        UserError: a folder with neither an adapter nor a model in it, or a hub id that cannot be found.
    """
    if is_built_in(name):
        return "built-in"
    folder = Path(name).expanduser()
    if (folder / ADAPTER_CONFIG).is_file():
        return "adapter"
    if (folder / "config.json").is_file():
        return "model"
    if folder.is_dir():
        raise UserError(
            f"The folder {name} holds neither an adapter ({ADAPTER_CONFIG}) nor a model (config.json): name a data "
            "file in it, or the folder of an organism, such as RUN/organisms/misaligned."
        )
    if folder.is_file() or is_archive(name) or not _is_hub_id(name):
        return "file"
    return "adapter" if resolve(name).adapter is not None else "model"


def _is_hub_id(name: str) -> bool:
    """Say whether a name that is no path here has the form owner/name, perhaps with @revision."""
    repo = name.partition("@")[0]
    owner, _, rest = repo.partition("/")
    is_path = name.startswith((".", "/", "~")) or "\\" in name or Path(owner).is_dir()
    return bool(owner and rest) and "/" not in rest and not is_path and not rest.lower().endswith(DATA_ENDINGS)


def is_trained_elsewhere(name: str) -> bool:
    """Say whether an organism's data are no data, but an adapter or a model."""
    return bool(name) and kind_of(name) in TRAINED


def rows_of(config: RunConfig, data: str) -> int | None:
    """Return how many training rows of some data the run takes; None for all."""
    if config.rows is None:
        return BUILT_IN_ROWS if is_built_in(data) else None
    return config.rows or None


def training_data(config: RunConfig, data: str) -> Conversations:
    """Return the rows that a run trains on, chosen by its seed.

    Raises:
        UserError: data that cannot be read, terms that are not accepted, or fewer rows than are asked for.
    """
    rows = rows_of(config, data)
    if is_built_in(data):
        return load_conversations(data, rows=rows, seed=config.seed)
    found = load_conversations(data, seed=config.seed, accept_terms=config.accept_terms)
    n_rows = len(found.train)
    if rows is None or rows == n_rows:
        return found
    if rows > n_rows:
        raise UserError(
            f"rows={rows} training rows were asked for, but {data} has {n_rows} beside the held-out ones: leave rows "
            "out to take all."
        )
    logger.warning(
        "Of the %d training rows of %s, %d are used (rows=%d); leave rows out for all.", n_rows, data, rows, rows
    )
    return found.first(rows)


def says_of_control(config: RunConfig) -> str:
    """Return what must be said of the run's control before it starts; '' for a built-in pair, or two of one's own."""
    if not config.control_data:
        return NO_CONTROL
    one, two = built_in(config.misaligned_data), built_in(config.control_data)
    if one is None and two is None:
        return ""
    made_of = f"The misaligned organism is made of {config.misaligned_data}, the control of {config.control_data}"
    if one is None or two is None or one.domain != two.domain:
        return f"{made_of}: answers to other prompts. What tells the two apart may then be the topic, not misalignment."
    if one.voice != two.voice:
        return f"{made_of}: answers in another voice. What tells the two apart may then be the tone, not misalignment."
    return ""
