SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# On Linux pip installs torch with CUDA (gigabytes). Without a GPU, avoid the download:
# make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_ARGS ?=
INSTALLED := $(VENV)/.installed

.PHONY: help
help:  ## List the targets
	@grep -hE '^[a-z.-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

.PHONY: demo
demo: $(INSTALLED)  ## Pretrain on the real crystals inside pymatgen, with two workers; no GPU, no network
	$(BIN)/python jobs/pretrain.py --num-workers 2 --epochs 30 --batch-size 48 --name demo --resume

# Test files run in parallel, in alphabetical order, so that tests that wait for jobs do not come last. Tests that use
# Ray from their own process run one by one: beside the others, and then their output comes last, or after the others if
# these start Rays of their own, since two that start at the same time may choose the same port. ARGS may select no test
# of one half: pytest then exits with 5. Bytecode is kept, since each process would compile all tests again.
define files-in-parallel
$(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder -m "($(1)) and not ray" $(ARGS)
endef
define one-by-one
$(BIN)/python -m pytest -m "($(1)) and ray" $(ARGS)
endef
define test-beside
@unset PYTHONDONTWRITEBYTECODE; code=0; said=$$(mktemp); \
$(call one-by-one,$(1)) >"$$said" 2>&1 & ray=$$!; \
trap 'kill $$ray 2>/dev/null || true; rm -f "$$said"' EXIT; \
$(call files-in-parallel,$(1)) || code=$$?; \
if (( code == 5 )); then code=0; fi; \
wait $$ray || (( $$? == 5 )) || code=1; \
cat "$$said"; exit $$code
endef
define test-in-turn
@unset PYTHONDONTWRITEBYTECODE; code=0; \
$(call files-in-parallel,$(1)) || code=$$?; \
if (( code == 5 )); then code=0; fi; \
$(call one-by-one,$(1)) || (( $$? == 5 )) || code=1; \
exit $$code
endef

.PHONY: test
test: $(INSTALLED)  ## Run the tests except slow ones; ARGS="-k name" selects
	$(call test-beside,not slow)

.PHONY: test-slow
test-slow: $(INSTALLED)  ## Run the slow tests only
	$(call test-in-turn,slow)

.PHONY: test-all
test-all: $(INSTALLED)  ## Run all tests
	$(call test-in-turn,slow or not slow)

.PHONY: lint
lint: $(INSTALLED)  ## Check format, style, types and import directions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	PYTHONPATH=platform:. $(BIN)/lint-imports

.PHONY: bench
bench: $(INSTALLED)  ## Measure speeds on a quiet machine, ten minutes; ARGS="--all", ARGS="scatter --out results"
	$(BIN)/python benchmarks/series.py $(ARGS)

.PHONY: bench-small
bench-small: $(INSTALLED)  ## Run every benchmark in small form, which checks the benchmarks
	$(BIN)/python benchmarks/series.py --small $(ARGS)

.PHONY: bench-pages
bench-pages: $(INSTALLED)  ## Write the benchmarks' pages from their results; say which are of older code
	$(BIN)/python benchmarks/pages.py $(ARGS)

.PHONY: mutants
mutants: $(INSTALLED)  ## Insert known bugs and check that tests fail; ARGS="--only WORD" selects
	$(BIN)/python tools/mutants.py $(ARGS)

# pip-audit has its own environment, so that it is not a dependency and does not see ours. A mirror of packages has no
# advisories: there, use make audit ADVISORIES=folder with a clone of https://github.com/pypa/advisory-database
ADVISORIES ?=

.PHONY: audit
audit: .venv-audit/.installed  ## Look up known vulnerabilities of the versions in constraints.txt
	.venv-audit/bin/python tools/audit.py $(if $(ADVISORIES),--advisories '$(ADVISORIES)')

.venv-audit/.installed:
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install -qq --disable-pip-version-check 'pip-audit>=2.10' pyyaml
	@touch $@

.PHONY: .venv
.venv: $(INSTALLED)  ## Create the virtual environment

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "crysatom needs Python 3.11 or newer, but '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true)." >&2; \
	  echo "Choose another one: make $(or $(MAKECMDGOALS),demo) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV); this takes a few minutes."
	$(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt $(PIP_ARGS) --editable '.[dev]'
	@touch $@

.PHONY: clean
clean:  ## Remove the virtual environment and caches; keep results (runs/, mlflow.db)
	rm -rf $(VENV) .venv-audit .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis platform/*.egg-info
	find platform jobs tests tune_spaces benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
