# Everything a developer or a newcomer runs. `make` alone prints the targets.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Where the demo writes; and, to run it on a folder of your own, with splits train and test:
#   make demo VIDEOS=folder CAPTIONS=captions.csv
DEMO ?= demo
VIDEOS ?=
CAPTIONS ?=
K ?=
# The tests write some 40,000 small files, 110 MB: in memory where it has room, which a busy disk
# would take a minute for. What a test that passed has written is removed.
MEMORY := $(shell df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 && $$4 > 1000000 {print $$6}')
# One thread: the head's operations are small, and threads that wait for each other hold a core. With
# bytecode: without it each process compiles muse and every test again, some seconds.
PYTEST := env -u PYTHONDONTWRITEBYTECODE OMP_NUM_THREADS=1 \
  $(if $(MEMORY),PYTEST_DEBUG_TEMPROOT=$(MEMORY)) \
  $(BIN)/python -m pytest -q -o tmp_path_retention_policy=failed

.DEFAULT_GOAL := help
.PHONY: help dev check test test-heads test-rest test-slow test-all demo wheel fix clean

help: ## Print this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

dev: $(INSTALLED) ## Make .venv with everything that tests, checks and demo need

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "muse needs Python 3.11 or newer; name one with make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@# One command: a second one might replace torch by another build.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,offline]'
	@touch $@

check: $(INSTALLED) ## Lint, format, types, import contracts, Dockerfiles
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	@# hadolint has wheels for x86-64 only.
	test ! -x $(BIN)/hadolint || $(BIN)/hadolint docker/Dockerfile docker/Dockerfile.cpu
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker/compose.yaml

test: $(INSTALLED) ## The default tests, about a minute; make test K=store chooses
	@# Two processes, one a core; each prints its own summary when it has ended.
	$(if $(K),$(PYTEST) -k '$(K)',@$(MAKE) --no-print-directory -k -j2 --output-sync=target test-heads test-rest)

# The last ones sleep, which evens out what the others of tests/pipeline wait for processes.
HEADS := tests/cli tests/head tests/host_kernels $(wildcard tests/pipeline/test_speed_*.py)

test-heads: $(INSTALLED)
	$(PYTEST) $(HEADS)

test-rest: $(INSTALLED)
	$(PYTEST) $(HEADS:%=--ignore=%)

test-slow: $(INSTALLED) ## The tests marked slow, some minutes
	$(BIN)/python -m pytest -q -m 'slow and not gpu' --durations=5

test-all: $(INSTALLED) ## Both, with coverage
	$(BIN)/python -m coverage run -m pytest -q -m 'not gpu'
	$(BIN)/python -m coverage report --skip-covered --sort=cover

demo: $(INSTALLED) ## A made world, then extract, train-head, evaluate, search, on the CPU
	PATH="$(CURDIR)/$(BIN):$$PATH" bash docs/demo/run.sh $(DEMO) $(VIDEOS) $(CAPTIONS)

wheel: $(INSTALLED) ## Build wheel and sdist, compare, install in a clean venv, run muse
	PATH="$(CURDIR)/$(BIN):$$PATH" bash docs/release/check_wheel.sh

fix: $(INSTALLED) ## Format, and mend what ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove .venv, caches and the demo's output
	rm -rf $(VENV) $(DEMO) dist .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage
