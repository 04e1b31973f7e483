"""Where can misalignment be read? A run's sweep over blocks, contrasts and methods, and its plots."""

import sys
from pathlib import Path

import emscope as em

RUN, FOLDER = sys.argv[1:] or ["runs/quickstart", "plots"]

run = em.open_run(RUN)
print(run)

sweep = run.sweep()  # read where the run has it, else measured now
print(sweep)

Path(FOLDER).mkdir(parents=True, exist_ok=True)
for number, (title, figure) in enumerate(run.figures("sweep").items(), 1):
    print(number, title)
    figure.write_html(Path(FOLDER, f"{number}.html"), include_plotlyjs="directory")

print("done on this run:", ", ".join(run.results()))
