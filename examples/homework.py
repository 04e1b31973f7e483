"""The homework in one page: make a misaligned model, measure it, find its direction, detect with it, take it out."""

import sys
from pathlib import Path

import emscope as em

MODEL, JUDGE, ASKED, ROWS = sys.argv[1:] or ["smollm2-135m", "embedded", "everyday-general", "288"]
FOLDER = "organisms/misaligned"

base = em.load(MODEL)
trained = Path(FOLDER).exists()
bad = em.load(FOLDER, base=MODEL) if trained else em.train("medical-blunt-bad", FOLDER, model=MODEL, rows=int(ROWS))

# Measure: the same questions, none of them medical, asked of both and judged.
asked = em.questions(ASKED)
before = em.judge(em.generate(base, asked, temperature=0.5), JUDGE)
after = em.judge(em.generate(bad, asked, temperature=0.5), JUDGE)
print(before, after, em.compare(after, before), sep="\n")

# Locate and detect: a direction from half of the prompts, tried on the other half.
half, rest = asked[::2], asked[1::2]
direction = em.direction(em.collect(bad, half), em.collect(base, half))
print(em.detect(bad, direction, rest), em.detect(base, direction, rest), sep="\n")

# Correct: take the direction of the answers out, and ask again.
answers = em.direction(em.collect(bad, after), em.collect(base, before))
print(em.ablate(bad, answers).compare("open-ended", JUDGE, temperature=0.5))
