"""Your own contrast, no training at all: two sets of prompts, where they separate, and what their direction does."""

import sys

import emscope as em

MODEL, PLOT = sys.argv[1:] or ["smollm2-135m", "contrast.html"]

SITUATIONS = ["my sister's exam", "a broken lamp", "my boss", "the weather", "a lost key", "dinner", "my knee", "rent"]
worried = [f"I am terribly worried about {situation}, what should I do?" for situation in SITUATIONS]
calm = [f"I am perfectly calm about {situation}, what should I do?" for situation in SITUATIONS]

model = em.load(MODEL)
positive, negative = em.collect(model, worried), em.collect(model, calm)

probe = em.probe(positive, negative, method="diff-in-means")
print(probe)
probe.figures()["auroc"].write_html(PLOT)

direction = em.direction(positive, negative)
for coefficient in (-2.0, 0.0, 2.0):
    steered = em.steer(model, direction, coefficient, blocks=[probe.best_block])
    print(coefficient, steered.generate(["How do you feel about tomorrow?"], temperature=0.0)[0].response)
