# `make run` does the main job, `make test` runs the tests; both set everything up first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test lint install
.DEFAULT_GOAL := run

run: install
	$(BIN)/emscope run

test: install
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@
