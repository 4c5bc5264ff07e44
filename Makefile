SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# On Linux pip takes torch with CUDA, gigabytes of it. Without a GPU, spare the download:
# make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_ARGS ?=
INSTALLED := $(VENV)/.installed

.PHONY: help
help:  ## Show what can be made
	@grep -hE '^[a-z.-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

.PHONY: demo
demo: $(INSTALLED)  ## Pretrain on the real crystals inside pymatgen, with two workers; no GPU, no network
	$(BIN)/python jobs/pretrain.py --num-workers 2 --epochs 30 --batch-size 48 --name demo --resume

.PHONY: test
test: $(INSTALLED)  ## Run the tests; ARGS="-k name" selects
	$(BIN)/python -m pytest $(ARGS)

.PHONY: test-all
test-all: $(INSTALLED)  ## Run the slow tests too
	$(BIN)/python -m pytest -m "" $(ARGS)

.PHONY: lint
lint: $(INSTALLED)  ## Check format, style, types and the direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	PYTHONPATH=platform:. $(BIN)/lint-imports

.PHONY: .venv
.venv: $(INSTALLED)  ## Make the virtual environment that the others use

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "crysatom needs Python 3.11 or newer, but '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true)." >&2; \
	  echo "Name another one: make $(or $(MAKECMDGOALS),demo) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV): a few minutes, once."
	$(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt $(PIP_ARGS) --editable '.[dev]'
	@touch $@

.PHONY: clean
clean:  ## Remove the virtual environment and caches; results in runs/ and mlflow.db stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis platform/*.egg-info
	find platform jobs tests tune_spaces benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
