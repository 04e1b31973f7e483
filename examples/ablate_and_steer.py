"""Take a run's direction out, add it, and do anything else to the residual stream: each compared with doing nothing."""

import sys

from torch import Tensor

import emscope as em

RUN, JUDGE = sys.argv[1:] or ["runs/quickstart", "embedded"]

run = em.open_run(RUN)
organism, direction = run.organism("misaligned"), run.direction()
asked = run.test_questions[:24]  # no direction or threshold has seen these
block = direction.best_block

changes = {
    "ablate": em.ablate(organism, direction),
    "subtract": em.steer(organism, direction, -1.0, blocks=[block]),
    "random": em.steer(organism, em.random_like(direction, seed=0), -1.0, blocks=[block]),  # the control
}
for name, changed in changes.items():
    print(name, changed.compare(asked, JUDGE, temperature=0.5, max_new_tokens=72))


def halve(block: int, hidden: Tensor) -> Tensor:
    return hidden * 0.5


with em.applied(organism, halve, blocks=[block]):
    print("halved", em.judge(em.generate(organism, asked, max_new_tokens=72), JUDGE))
