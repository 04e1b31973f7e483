# `make run` does the main job, `make test` runs the tests; both set everything up first.
# `make test-llamacpp` judges with the real llama.cpp, in an environment of its own.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test test-llamacpp lint install
.DEFAULT_GOAL := run

run: install
	$(BIN)/emscope run

test: install
	$(BIN)/python -m pytest

test-llamacpp: .venv-llamacpp/installed
	.venv-llamacpp/bin/python -m pytest -m llamacpp tests/behaviour/judges/test_llamacpp.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

.venv-llamacpp/installed: pyproject.toml
	$(PYTHON) -m venv .venv-llamacpp
	.venv-llamacpp/bin/python -m pip install --quiet --disable-pip-version-check -e '.[judge]' 'pytest>=8' 'xllamacpp>=2026.10'
	touch $@
