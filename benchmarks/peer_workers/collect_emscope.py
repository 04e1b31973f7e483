"""Collection by emscope: `capture`."""

from __future__ import annotations

from typing import Any

import numpy as np
from worker import Run, serve

from emscope.organisms.chat import EncodedChat
from emscope.organisms.models import load
from emscope.residual.capture import CaptureSettings, capture


def prepare(job: dict[str, Any]) -> Run:
    """Load the model by its name; chats are made of the job's token ids."""
    organism = load(job["name"])
    chats = []
    for row in job["rows"]:
        first, after = row["answer"]
        chats.append(EncodedChat(row["ids"], [first <= place < after for place in range(len(row["ids"]))]))

    def run() -> dict[str, np.ndarray]:
        return capture(organism, chats, CaptureSettings(("last", "response"))).pooled

    return run


serve(prepare, ("emscope",))
