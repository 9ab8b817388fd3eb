# Everything a user or a developer does. `make help` lists it.
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PEERS := $(VENV)-peers
# One process more than cores: a quarter of the time a test waits for a server or the disk.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $$(($$(nproc) + 1)) --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all lint types bench stack stack-down lock clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(READY): pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

install: $(READY) ## make .venv with the versions of constraints.txt

demo: $(READY) ## harden a small model on an embedded dataset and print the verdict
	$(BIN)/temper harden flows/configs/digits.yaml

test: $(READY) ## the test suite, some ten minutes on two cores
	$(PYTEST) -m 'not slow'

test-all: $(READY) ## the test suite with the long ones
	$(PYTEST)

lint: $(READY) ## style, and the arrows between packages
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: $(READY) ## mypy --strict
	$(BIN)/mypy

bench: $(READY) $(PEERS)/.ready ## benchmarks on real data (TEMPER_DATA names its folder): hours
	$(BIN)/python benchmarks/chain.py
	$(PEERS)/bin/python -m benchmarks.attacks hardened undefended mnist digits

# The published attack libraries, in an environment of their own that sees ours: no dependency of it changes.
$(PEERS)/.ready: $(READY)
	python3 -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check --no-deps torchattacks==3.5.1 pyautoattack==0.2.0 \
		adv-lib==0.2.8 foolbox==3.3.4 eagerpy==0.30.0 adversarial-robustness-toolbox==1.20.1 tqdm requests
	cd $(PEERS)/lib/python3*/site-packages && touch visdom.py && \
		$(CURDIR)/$(BIN)/python -c "import site; print(site.getsitepackages()[0])" > project.pth
	@touch $@

stack: $(READY) ## PostgreSQL, S3, MLflow, Prefect, a worker and the receiver on this machine, without containers
	@$(BIN)/python -m infra.stack up

stack-down: $(READY) ## end them; what they keep stays in .temper/stack
	@$(BIN)/python -m infra.stack down

lock: ## rewrite constraints.txt from the newest releases that pyproject.toml allows
	rm -rf $(VENV)-lock
	python3 -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install --quiet --disable-pip-version-check -e '.[dev]'
	$(VENV)-lock/bin/pip freeze --exclude-editable > constraints.txt
	rm -rf $(VENV)-lock

clean: ## remove what runs and tests left here
	rm -rf .temper runs .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
