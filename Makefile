# Every target sets itself up: the first run creates .venv from the lock that fits this machine.
#
#   PYTHON=python3.12   the Python to create .venv with (3.11 or newer)
#   LOCK=cpu|gpu        the lock to install; without it gpu where nvidia-smi works, else cpu

PYTHON ?= python3
LOCK   := $(or $(LOCK),$(shell nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu))

ifeq ($(filter cpu gpu,$(LOCK)),)
$(error LOCK is `$(LOCK)`; it can be `cpu` or `gpu`)
endif

BIN   := .venv/bin
PIP   := $(BIN)/python -m pip --disable-pip-version-check
STAMP := .venv/.installed-$(LOCK)
OTHER := $(if $(filter gpu,$(LOCK)),fbgemm-gpu-cpu,fbgemm-gpu)
# A check for `python -c`, in words that an old Python can read too; $(1) is the remedy.
NEW_ENOUGH = import sys; sys.version_info >= (3, 11) or sys.exit("raymtl needs Python 3.11 or newer, but " + \
             sys.executable + " is " + sys.version.split()[0] + "; $(1)")

QUICK := tests/config tests/data tests/storage tests/telemetry tests/cluster $(wildcard tests/test_*.py) \
         --ignore=tests/config/test_fuzz.py --ignore=tests/data/test_dealing.py

.DEFAULT_GOAL := help
.PHONY: help setup test check lint demo bench docs docs-site lock wheel

help:  ## this list
	@awk -F ':.*## *' '/^[a-z-]+:.*## / { printf "make %-10s%s\n", $$1, $$2 }' Makefile

setup: $(STAMP)  ## create .venv and install the lock (nothing to do when it is up to date)

# torch goes first and with its dependencies: one and the same pin is a CPU build on some indexes, and on the public one a
# CUDA build that cannot be imported without the CUDA libraries it declares, even where there is no GPU. Both locks bound
# that step (they agree on all they share), so these libraries too come in the versions of gpu.txt. The rest is complete in
# the lock and goes without dependencies, since torchrec would bring fbgemm-gpu beside fbgemm-gpu-cpu, in the same folder.
$(STAMP): requirements/cpu.txt requirements/gpu.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "there is no $(PYTHON) here; name a Python 3.11 or newer: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c '$(call NEW_ENOUGH,name a newer one: make PYTHON=python3.12)'
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@$(BIN)/python -c '$(call NEW_ENOUGH,remove .venv and run make again)'
	@rm -f .venv/.installed-*
	@if $(PIP) show -qq $(OTHER); then $(PIP) uninstall -qy fbgemm-gpu fbgemm-gpu-cpu; fi
	$(PIP) install torch -c requirements/cpu.txt -c requirements/gpu.txt
	$(PIP) install -q --no-deps -r requirements/$(LOCK).txt
	$(PIP) install -q --no-deps --no-build-isolation -e .
	@touch $@

# In two processes, each with files of its own, those that start Ray first (tests/conftest.py): while one waits, the other works
test: setup lint docs-site  ## style, types, the site and all tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: setup lint  ## style, types and the quick tests of configuration, data and storage
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not ray and not dist" $(QUICK)

lint: setup  ## style and types alone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

demo: setup  ## synthetic logs, training on two workers, a report
	$(BIN)/raymtl demo

bench: setup  ## the benchmarks that need no other data (docs/performance.md has the others)
	$(BIN)/python -m tests.benchmarks.training.tables

docs: setup  ## rewrite docs/config.md from the configuration's classes
	$(BIN)/python -m raymtl.config.reference > .venv/config.md
	@mkdir -p docs && mv .venv/config.md docs/config.md

docs-site: setup  ## build the site of docs/ into site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# build/ keeps files of the last build that are gone since
wheel: setup  ## build dist/raymtl-*.whl
	@rm -rf build
	$(PIP) wheel -q --no-deps --no-build-isolation -w dist .

lock:  ## resolve requirements/*.txt again (needs PYTHON=python3.11)
	$(PYTHON) scripts/lock.py
