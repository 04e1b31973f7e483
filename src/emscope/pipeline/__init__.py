"""RUN: the stages of a run, skipped when nothing they depend on changed."""
