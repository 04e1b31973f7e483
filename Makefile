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

# Debian's and Colab's Pythons come without ensurepip: there the system's own pip puts one into the environment.
.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv 2>/dev/null \
	|| { $(PYTHON) -m venv --clear --without-pip .venv && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; } \
	|| { echo "Neither venv nor pip works here: install them, for example with 'apt install python3-venv'."; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@
