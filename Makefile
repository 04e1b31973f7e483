# `make run` does the main job, `make test` runs the tests; both set everything up first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test lint install second-model
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

# Another base model beside the embedded one (docs/models.md): make second-model GGUF=path/to/model.gguf
second-model: install
	@test -f '$(GGUF)' || { echo 'second-model: name a GGUF file: make second-model GGUF=path/to/model.gguf' >&2; exit 2; }
	$(BIN)/emscope run --out runs/quickstart
	$(BIN)/emscope run --set model='$(abspath $(GGUF))' --out runs/second-model
	$(BIN)/python benchmarks/models.py runs/quickstart runs/second-model

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@
