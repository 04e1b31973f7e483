"""Whether a GPU gives the CPU's figures: activations, answers, training and ablation of one small random model.

The model has the shape `tiny`; its weights are made on the CPU and copied. float32 must agree closely; bf16 is compared
by the cosine of its activations. Exit code 1 if anything is off.

    python benchmarks/gpu_parity.py --device cuda [--out parity.json]
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from publish import publish

from emscope.behaviour.questions import load_questions
from emscope.behaviour.responses import SamplingSettings
from emscope.behaviour.sampling import sample_responses
from emscope.interventions.operators import ProjectOut, applied
from emscope.organisms.datasets import load_conversations
from emscope.organisms.device import Placement
from emscope.organisms.models import Organism
from emscope.organisms.settings import TrainSettings
from emscope.organisms.train import train_loaded
from emscope.pipeline.roofline.subject import random_organism
from emscope.residual.capture import CaptureSettings, capture, encode_for_capture
from emscope.residual.directions import Construction, Directions

N_QUESTIONS = 24
CLOSE = {"float32": 0.99999, "bfloat16": 0.995}
"""Least cosine of a vector on the two devices."""
SAME_ANSWERS = 0.9
"""Least share of answers that are the same, token by token: near-ties may fall otherwise."""
LOSS = 1e-3


def moved(organism: Organism, device: str, dtype: torch.dtype) -> Organism:
    """Return a copy of an organism on another device and in another number format."""
    model = copy.deepcopy(organism.model).to(device=device, dtype=dtype)
    return Organism(organism.source, model, organism.tokenizer, Placement(device, dtype, "parity"))


def activations(organism: Organism) -> np.ndarray:
    """Return activations of the last prompt token [n, n_blocks, d_model]."""
    prompts = [question.text for question in load_questions("everyday-general")][:N_QUESTIONS]
    return capture(organism, encode_for_capture(organism.tokenizer, prompts), CaptureSettings()).pooled["last"]


def least_cosine(one: np.ndarray, other: np.ndarray) -> float:
    """Return the least cosine of two arrays' vectors [..., d_model]."""
    products = (one * other).sum(axis=-1)
    return float((products / np.linalg.norm(one, axis=-1) / np.linalg.norm(other, axis=-1)).min())


def answers(organism: Organism) -> list[str]:
    """Return sampled answers; random numbers depend on the question alone."""
    questions = load_questions("everyday-general")[:N_QUESTIONS]
    return [row.response for row in sample_responses(organism, questions, SamplingSettings(max_new_tokens=16))]


def ablated(organism: Organism) -> np.ndarray:
    """Return activations while a fixed direction is projected out at every block."""
    shape = (organism.model.config.num_hidden_layers, organism.model.config.hidden_size)
    vectors = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    made = Construction("random", "control", "last", "resid_post", "", "", "", 0)
    nothing, ones = np.zeros_like(vectors), np.ones(shape[0], dtype=np.float32)
    blocks = tuple(range(shape[0]))
    with applied(organism, ProjectOut(Directions(vectors, nothing, nothing, ones, blocks, made), blocks)):
        return activations(organism)


def loss(organism: Organism) -> float:
    """Return the mean training loss of a few steps, nats."""
    torch.manual_seed(0)
    data = load_conversations("medical-careless", rows=32)
    with tempfile.TemporaryDirectory() as folder:
        return train_loaded(organism, data, Path(folder), TrainSettings(epochs=1)).train_loss


def compared(device: str) -> dict[str, Any]:
    """Return how near the device is to the CPU, and what is off."""
    made = random_organism("tiny", Placement("cpu", torch.float32, "parity"))
    there = moved(made, device, torch.float32)
    found: dict[str, Any] = {
        "activations, float32": least_cosine(activations(made), activations(there)),
        "ablated activations, float32": least_cosine(ablated(made), ablated(there)),
        "activations, bfloat16": least_cosine(activations(made), activations(moved(made, device, torch.bfloat16))),
    }
    pairs = list(zip(answers(made), answers(there), strict=True))
    found["same answers"] = sum(one == other for one, other in pairs) / len(pairs)
    losses = loss(made), loss(there)
    found["training loss"] = list(losses)

    off = [name for name, value in found.items() if "activations" in name and value < CLOSE[name.split(", ")[1]]]
    if found["same answers"] < SAME_ANSWERS:
        off.append("same answers")
    if abs(losses[0] - losses[1]) > LOSS:
        off.append("training loss")
    return {**found, "off": off}


def main() -> None:
    """Compare, print, and end with 1 if anything is off."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    found = compared(flags.device)
    publish({"what": f"{flags.device} beside the CPU, a small random model", **found}, flags.out)
    sys.exit(1 if found["off"] else 0)


if __name__ == "__main__":
    main()
