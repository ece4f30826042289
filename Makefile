# `make` lists the targets. The environment comes from PyPI alone and needs Python 3.11 or 3.12 with venv.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= $(shell for name in python3.11 python3.12 python3; do \
	command -v $$name >/dev/null && $$name -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' \
	2>/dev/null && echo $$name && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.complete
WORKERS ?= 2
UV := uv>=0.13,<0.14

.PHONY: help env quickstart claims test test-slow lint lock doctor clean

help: ## this table
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

env: $(STAMP) ## make .venv from requirements/cpu.lock (about 1 minute, 3.5 GB)

$(STAMP): requirements/cpu.lock setup.py
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or 3.12 found: install one, or name it: make env PYTHON=/path/to/python3.11"; exit 1; }
	@echo "==> $(VENV): pinned packages of requirements/cpu.lock, with $(PYTHON)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
		echo "$(PYTHON) has no venv: install it (Debian and Ubuntu: apt-get install python3-venv)"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(UV)"
	@$(BIN)/uv pip install --python $(BIN)/python -r requirements/cpu.lock --quiet
	@$(BIN)/uv pip install --python $(BIN)/python --no-deps --no-build-isolation --quiet -e .
	@touch $@
	@echo "==> $(VENV) is ready"

quickstart: $(STAMP) ## train a small speech and language model on this machine's CPU, from nothing
	$(BIN)/python -m slm_jax.train --gin_file=gin/experiments/quickstart.gin

claims: $(STAMP) ## measure again what the shipped adapter can do (docs/claims.md), about 8 minutes on 2 cores
	$(BIN)/python -m slm_jax.claims

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint ## lint, then every test that is not marked slow, array shapes checked
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --durations=15

test-slow: $(STAMP) ## the tests marked slow
	$(BIN)/python -m pytest -q -m slow --durations=15

doctor: $(STAMP) ## what is installed, what is missing, and how to get it
	@$(BIN)/python -m slm_jax.doctor

lock: $(STAMP) ## resolve setup.py again into requirements/cpu.lock (UPGRADE=--upgrade: newest allowed versions)
	$(BIN)/uv pip compile --quiet setup.py --extra quickstart --extra test --python-version 3.11 \
		--python-platform x86_64-unknown-linux-gnu --no-annotate --custom-compile-command "make lock" \
		$(UPGRADE) --output-file requirements/cpu.lock

clean: ## remove the environment, caches and build leftovers; keeps runs/
	rm -rf $(VENV) .cache .ruff_cache build dist slm_jax.egg-info
	find slm_jax tasks tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
