"""CORRECT: ablate and steer directions, choose where and how strongly."""
