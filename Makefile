# make setup   the environment in .venv; seconds once built
# make demo    OptimSyn in the embedded lab, with nothing downloaded but packages
# make test    style, types, unit tests, end-to-end tests
#
# Variables: PYTHON (3.11 or newer), VENV, TORCH (a requirement), TORCH_INDEX (an index searched for it, may be empty).

SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

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

.PHONY: setup demo test lint clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "harness needs Python 3.11 or newer, $(PYTHON) is " + sys.version.split()[0] + "; set PYTHON, for example: make setup PYTHON=python3.12")'
	@echo "installing $(TORCH) and the packages of pyproject.toml into $(VENV); a first time takes minutes"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --quiet --retries 1 $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) '$(TORCH)'
	@$(PIP) install --quiet -c constraints.txt -e '.[embed,test,dev]'
	@$(BIN)/python -c 'import torch; print("environment ready in $(VENV), torch", torch.__version__)'
	@touch $@

demo: setup
	$(BIN)/harness run --method optimsyn --target nano

lint: setup
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest tests/unit --durations=10
	$(BIN)/python -m pytest tests/e2e --durations=10

clean:
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find . -name __pycache__ -not -path './$(VENV)/*' -type d -prune -exec rm -rf {} +
