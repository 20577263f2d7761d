# `make` lists what there is to do. Every target that runs our code first sees to it that .venv is there and up to date.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help setup demo test coverage test-slow test-long test-slurm lint format bench gpu base picture study mutation schemas clean

BIN := .venv/bin
PYTHONS ?= python3.12 python3.11 python3.10 python3
INSTALLER ?= uv
STAMP := .venv/grainclip-setup
IMPORTS := lightning.pytorch.cli, tensorboard, timm, torchmetrics, transformers.models.clip.modeling_clip, webdataset

# Bytecode is kept whatever the environment says: the tests start some hundred processes.
export PYTHONDONTWRITEBYTECODE :=

# Memory in pages of 2 MB: on a virtual machine a step on the CPU takes a half to a fifth of the time.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  make setup INSTALLER=pip PYTHONS=python3.11   with pip where uv cannot reach the registry; with this Python"

# The stamp holds this folder (the scripts in .venv name it: a moved .venv is built anew) and the pyproject.toml installed.
# The last step imports the big packages, so that their bytecode is on disk.
setup: ## build .venv if it is missing, update it if pyproject.toml has changed
	@set -e; \
	wanted() { echo "$(CURDIR)"; cat pyproject.toml; }; \
	works() { [ -x $(BIN)/python ] && $(BIN)/python -c ''; }; \
	moved() { [ -f $(STAMP) ] && [ "$$(head -n 1 $(STAMP))" != "$(CURDIR)" ]; }; \
	if works && wanted | cmp -s - $(STAMP); then echo ".venv is up to date"; exit 0; fi; \
	uv=; if [ "$(INSTALLER)" = uv ]; then uv=$$(command -v uv || true); fi; \
	if ! works || moved; then \
		new='import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 10))'; python=; \
		for name in $(PYTHONS); do if "$$name" -c "$$new" 2>/dev/null; then python=$$name; break; fi; done; \
		if [ -z "$$python" ]; then echo "none of $(PYTHONS) is a Python 3.10 or newer with venv; install one" >&2; exit 1; fi; \
		python=$$("$$python" -c 'import sys; print(sys.executable)'); \
		echo "building .venv with $$python; with all packages it takes about 6 GB"; \
		rm -rf .venv; \
		if [ -n "$$uv" ]; then "$$uv" venv --python "$$python" .venv; else "$$python" -m venv .venv; fi; \
		echo unfinished > $(STAMP); \
	fi; \
	if [ "$(INSTALLER)" = uv ] && [ -z "$$uv" ]; then \
		uv=$(BIN)/uv; \
		if [ ! -x $$uv ]; then \
			echo "fetching uv into .venv: it installs several times as fast as pip"; \
			$(BIN)/python -m pip install --quiet uv; \
		fi; \
	fi; \
	echo "installing GrainCLIP and its packages with $${uv:-pip}"; \
	if [ -z "$$uv" ]; then $(BIN)/python -m pip install -e '.[dev]'; \
	elif ! "$$uv" pip install --python $(BIN)/python -e '.[dev]'; then \
		echo "uv reads none of pip's settings (a mirror, say); to install with pip: make setup INSTALLER=pip" >&2; exit 1; \
	fi; \
	echo "importing the big packages once: the next start is quick"; \
	$(BIN)/python -c 'import $(IMPORTS)'; \
	wanted > $(STAMP); \
	echo ".venv is ready; to use it in this shell: source .venv/bin/activate"

demo: setup ## fine-tune a small CLIP on long captions (three minutes on two cores) and print before and after
	$(BIN)/lightning demo

test: setup ## run the tests, but for the slow ones
	$(BIN)/python -m pytest -q --durations=10 -n auto --dist loadfile --no-loadscope-reorder

test-slow: setup ## run the tests that take more than five seconds each
	$(BIN)/python -m pytest -q -m 'slow and not long' --durations=10 -n auto --dist loadfile --no-loadscope-reorder

test-long: setup ## run the tests that take minutes: every method on 2 and 4 ranks, twenty faults
	$(BIN)/python -m pytest -q -m 'long and not slurm' --durations=10

test-slurm: setup ## start a Slurm on this machine (root, Debian), run the job scripts under it, stop it
	$(BIN)/python -m pytest -q -m slurm tests/slurm --durations=10

coverage: setup ## run the tests, slow ones too, and count which lines and branches they reach
	$(BIN)/python -m pytest -q -m 'not long' -n auto --dist loadfile --no-loadscope-reorder --cov --cov-report=term:skip-covered

lint: setup ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: setup ## format the code and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup ## measure speed and memory of the losses and the data path (15 minutes); BENCH=data for one section
	$(BIN)/python tests/bench/run.py $(BENCH)

gpu: setup ## what a GPU changes, in eight minutes: losses, methods, speed; goes on where it stopped
	$(BIN)/python tests/gpu/run.py

base: setup ## train scenes-base, what the configs fine-tune (80 minutes on two cores; goes on where it stopped)
	$(BIN)/lightning fit --config configs/base.yaml
	$(BIN)/python tests/study/base.py

picture: setup ## draw the README's picture of where a model looks; trains GrainClip first (3 minutes) where it is not in runs
	$(BIN)/lightning fit --config configs/grainclip.yaml
	$(BIN)/python tests/study/picture.py runs/grainclip/checkpoints/last.ckpt

study: setup ## the methods' claims in miniature (hours on two cores; goes on where it stopped); STUDIES=mulclip for one
	$(BIN)/python tests/study/run.py $(STUDIES)

mutation: setup ## plant faults in the packages and see whether the tests notice (some hours; an idle machine)
	$(BIN)/python tests/mutation/run.py

schemas: setup ## write the JSON schemas of the configs anew, for editors
	$(BIN)/python -m lightning_modules.cli.schema configs/schemas

clean: ## remove caches and build products; .venv and runs/ stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .coverage htmlcov
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
