# Everything a user or a developer does. `make help` lists it.
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all lint types bench lock clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(READY): pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

install: $(READY) ## make .venv with the versions of constraints.txt

demo: $(READY) ## harden a small model on an embedded dataset and print the verdict
	$(BIN)/temper harden flows/configs/digits.yaml

test: $(READY) ## the test suite, under ten minutes on two cores
	$(BIN)/python -m pytest -q -m 'not slow'

test-all: $(READY) ## the test suite with the long ones
	$(BIN)/python -m pytest -q

lint: $(READY) ## style, and the arrows between packages
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: $(READY) ## mypy --strict
	$(BIN)/mypy

bench: $(READY) ## the recipes of benchmarks/ on real data (TEMPER_DATA names its folder)
	$(BIN)/python benchmarks/chain.py

lock: ## rewrite constraints.txt from the newest releases that pyproject.toml allows
	rm -rf $(VENV)-lock
	python3 -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install --quiet --disable-pip-version-check -e '.[dev]'
	$(VENV)-lock/bin/pip freeze --exclude-editable > constraints.txt
	rm -rf $(VENV)-lock

clean: ## remove what runs and tests left here
	rm -rf .temper runs .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
