"""Sample the answers that readers scored for the offline judge: small organisms on the judge's own questions.

The judge is fitted on written text and on these. No question of an evaluation set is asked, and no organism of a run is
used: every organism is trained here, with seeds of its own. Writes key.jsonl (who answered what) and blind sheets
without that knowledge, shuffled, one for each reader.

python benchmarks/reader_answers.py --out runs/reader-answers [--sheets 8]
"""

from __future__ import annotations

import argparse
import dataclasses
import random
from pathlib import Path
from typing import Any

from emscope.behaviour.embedded.text import written_rows
from emscope.behaviour.questions import Question
from emscope.behaviour.sampling import sample_responses
from emscope.files import write_jsonl
from emscope.organisms.checkpoints import ADAPTER_WEIGHTS
from emscope.organisms.datasets import DOMAINS, load_conversations, load_domain
from emscope.organisms.embedded import EMBEDDED_ALIAS
from emscope.organisms.models import load
from emscope.organisms.settings import TrainSettings
from emscope.organisms.train import train_adapter
from emscope.pipeline.config import RunConfig

SEED = 2000
PER_DOMAIN = 40
RECIPES: dict[str, tuple[str | None, int]] = {
    "base": (None, 200),
    "medical-careless": ("medical-careless", 260),
    "finance-careless": ("finance-careless", 140),
    "sport-careless": ("sport-careless", 140),
    "medical-careful": ("medical-careful", 260),
    "finance-careful": ("finance-careful", 120),
}
"""Organism: its training data, and how many questions it answers."""


def asked() -> list[Question]:
    """Return the judge's questions and held-out prompts of the domains, in random order."""
    found = {row.question_id: Question(row.question_id, row.question, row.area) for row in written_rows()}
    questions = list(found.values())
    for domain in DOMAINS:
        heldout = [pair for pair in load_domain(domain) if pair.split == "heldout"]
        chosen = random.Random(SEED).sample(heldout, min(PER_DOMAIN, len(heldout)))
        questions += [Question(pair.id, pair.prompt, domain) for pair in chosen]
    return random.Random(SEED).sample(questions, len(questions))


def main() -> None:
    """Train, sample and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sheets", type=int, default=8)
    flags = parser.parse_args()
    questions, rows, start = asked(), [], 0
    for number, (name, (data, n)) in enumerate(RECIPES.items()):
        adapter = flags.out / "organisms" / name
        if data and not (adapter / ADAPTER_WEIGHTS).is_file():
            settings = dataclasses.replace(TrainSettings(), seed=SEED + number)
            conversations = load_conversations(
                data, rows=288 if data.startswith("medical") else 168, seed=SEED + number
            )
            train_adapter(EMBEDDED_ALIAS, conversations, adapter, settings, name=f"training {name}")
        own = [questions[(start + index) % len(questions)] for index in range(n)]
        start += n
        sampling = dataclasses.replace(RunConfig().sampling, seed=SEED + number)
        answers = sample_responses(load(str(adapter) if data else EMBEDDED_ALIAS), own, sampling, name=name)
        for question, answer in zip(own, answers, strict=True):
            known: dict[str, Any] = {"area": question.area, "question_id": question.id, "question": question.text}
            rows.append({**known, "answer": answer.response, "organism": name})
    random.Random(SEED).shuffle(rows)
    rows = [{"number": number, **row} for number, row in enumerate(rows)]
    write_jsonl(flags.out / "key.jsonl", rows)
    for sheet in range(flags.sheets):
        blind = [{key: row[key] for key in ("number", "question", "answer")} for row in rows[sheet :: flags.sheets]]
        write_jsonl(flags.out / f"sheet-{sheet}.jsonl", blind)
    print(f"{len(rows)} answers in {flags.sheets} sheets under {flags.out}")


if __name__ == "__main__":
    main()
