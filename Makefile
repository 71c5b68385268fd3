# Every target sets up what it needs: a virtual environment in .venv with the versions in requirements.lock.
#     make quickstart | quickstart-video | study | test | lint | bench BENCH=<name> | setup | hooks | browser | lock | clean
# Another interpreter (3.11 or newer):  make PYTHON=python3.12 test

SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV := .venv
PY := $(VENV)/bin/python
# The interpreter of the environment that is there; else the first on the path that can make one.
CAN_MAKE_ONE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON := $(or $(PYTHON),$(wildcard $(PY)),$(shell for p in python3.11 python3 python3.12 python3.13; do \
	$$p -c '$(CAN_MAKE_ONE)' 2>/dev/null && echo $$p && break; done),python3)
PIP := $(PY) -m pip --disable-pip-version-check

# One faiss build: for the GPU where an NVIDIA driver answers.
FAISS := $(shell nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
OTHER_FAISS := $(if $(filter gpu,$(FAISS)),cpu,gpu)
LOCKS := requirements.lock requirements-$(FAISS).lock

# The stamp of a current environment has what it was made from in its name: content, and not time, which a checkout changes.
MADE_FROM := $(shell { cat setup.py $(LOCKS); echo "$(CURDIR)"; $(PYTHON) -V; } 2>&1 | sha256sum | cut -c1-16)
STAMP := $(VENV)/current-$(MADE_FROM)

.PHONY: help setup hooks browser quickstart quickstart-video study test lint bench lock clean

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

setup: $(STAMP)

$(STAMP):
	@$(PYTHON) -c '$(CAN_MAKE_ONE)' || { echo "$(PYTHON): the locked versions need Python 3.11 or newer, with venv and" \
		"pip. Name one: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@rm -f $(VENV)/current-*
	@test "$$($(PY) -V 2>&1)" = "$$($(PYTHON) -V 2>&1)" || $(PYTHON) -m venv --clear $(VENV)
	@echo "Installing the locked versions into $(VENV), faiss for the $(FAISS) (an empty one downloads some 3 GB)"
	@$(PIP) -qq install $$(grep -E '^(pip|setuptools)==' requirements.lock)
	@if $(PIP) -qq show faiss-$(OTHER_FAISS); then $(PIP) -q uninstall --yes faiss-cpu faiss-gpu; fi
	@$(PIP) install --no-deps --no-build-isolation $(LOCKS:%=--requirement %)
	@$(PIP) -qq install --no-deps --no-build-isolation --editable .
	@touch $@

# Format, lint and types before every commit in this clone.
hooks:
	git config core.hooksPath .githooks

# Debian's chromium, for the tests of the report's page; without it they are skipped, with the reason.
browser:
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || { \
		root=$$(test "$$(id -u)" = 0 || echo "sudo -n"); \
		$$root apt-get update -qq && $$root env DEBIAN_FRONTEND=noninteractive \
		apt-get install -qq -y --no-install-recommends chromium chromium-driver >/dev/null; }

quickstart: $(STAMP)
	$(PY) tools/quickstart.py

quickstart-video: $(STAMP)
	$(PY) tools/quickstart_video.py

# The paper's control experiment on drawn digits; what is done already is not done again.
study: $(STAMP)
	$(PY) tools/run_distributed_engines.py config=clusterfit/study/label_noise study.folder=study

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

test: lint
	OMP_NUM_THREADS=1 $(PY) -m pytest --slow -n 2

bench: $(STAMP)
	@test -f "benchmarks/$(BENCH).py" || { echo "BENCH=$(BENCH): found no benchmarks/$(BENCH).py; there are:" \
		$(basename $(notdir $(wildcard benchmarks/*.py))) >&2; exit 1; }
	$(PY) benchmarks/$(BENCH).py

# The newest versions that go together, resolved in an empty environment. faiss has its own files.
lock:
	$(PYTHON) -m venv --clear build/lock
	build/lock/bin/pip install --quiet --upgrade pip setuptools
	build/lock/bin/pip install --quiet '.[dev]'
	build/lock/bin/pip install --quiet --no-deps vissl==0.1.6
	{ grep '^#' requirements.lock; build/lock/bin/pip freeze --all --exclude vissl-clusterfit; } > build/requirements.lock
	mv build/requirements.lock requirements.lock

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
