"""Fuzzing: hostile files, made by seed, are given to the readers that the commands use.

Every input must be read right or refused in one sentence that names the file. `make fuzz` runs it; see `harness`.
"""
