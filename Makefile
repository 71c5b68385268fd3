# Every target sets up what it needs: a virtual environment in .venv with the versions in requirements.lock.
#     make quickstart | quickstart-video | study | check | test | test-oldest | test-newest | lint | docs
#     make bench BENCH=<name> | setup | hooks | browser | lock | lock-oldest | lock-docs | clean
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
LOCKS := requirements.lock requirements-$(FAISS).lock

# What installs, faster than pip: what the locks have, and nothing else. It reads no settings of pip, so the index that is
# set there is handed on.
UV = UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$${PIP_INDEX_URL:-$$($(PIP) config get global.index-url 2>/dev/null)}}" \
	$(PY) -m uv --system-certs --no-python-downloads
# Where an index is set in a way that only pip reads, pip installs the same: $(call sync,<python>,<locks>[,<options of uv>]).
sync = $(UV) pip sync --quiet $(3) --no-build-isolation --python $(1) $(2) \
	|| $(PIP) -q --python $(1) install --no-deps --no-build-isolation $(2:%=--requirement %)

# The stamp of a current environment has what it was made from in its name: content, and not time, which a checkout changes.
MADE_FROM := $(shell { cat setup.py $(LOCKS); echo "$(CURDIR)"; $(PYTHON) -V; } 2>&1 | sha256sum | cut -c1-16)
STAMP := $(VENV)/current-$(MADE_FROM)

.PHONY: help setup hooks browser quickstart quickstart-video study lint check test test-oldest test-newest docs bench \
	lock lock-oldest lock-docs clean

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

setup: $(STAMP)

$(STAMP):
	@$(PYTHON) -c '$(CAN_MAKE_ONE)' || { echo "$(PYTHON): the locked versions need Python 3.11 or newer, with venv and" \
		"pip. Name one: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@rm -f $(VENV)/current-*
	@test "$$($(PY) -V 2>&1)" = "$$($(PYTHON) -V 2>&1)" || $(PYTHON) -m venv --clear $(VENV)
	@echo "Installing the locked versions into $(VENV), faiss for the $(FAISS) (an empty one downloads some 3 GB)"
	@$(PIP) -qq install $$(grep -E '^(pip|setuptools|uv)==' requirements.lock)
	@$(call sync,$(PY),$(LOCKS),--compile-bytecode)
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

# What takes seconds: everything below VISSL, but for the modules that start processes, kill them or compute for long.
LONG := browse/test_page browse/test_page_in_browser clustering/test_fit_several clustering/test_fit_together \
	clustering/test_kmeans_in_parts clustering/test_resume_clustering clustering/test_two_level datasets/test_preparation \
	datasets/test_video_lists features/test_extract features/test_resume_extraction images/test_lmdb_files images/test_source \
	images/test_tar labels/test_balanced labels/test_quality labels/test_resume_labelling planner/test_plan report/test_results \
	storage/test_full_disk storage/test_remote storage/test_remote_damage transfer/test_knn transfer/test_neighbors \
	verification/test_corruptions verification/test_version_0_1
UNITS := $(addprefix tests/,browse clustering config datasets features images labels models planner report search storage transfer \
	verification video) $(LONG:%=--ignore=tests/%.py)

# What make check leaves out besides, so that it takes less than two minutes; test-oldest and test-newest have it.
LONGER := clustering/test_hierarchical_start clustering/test_initialization clustering/test_shared_passes \
	datasets/synthetic/test_moving_digits labels/test_label_together models/test_networks verification/test_verify

# Each process has one thread, and none compiles the package anew, whatever the surroundings say of bytecode.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(PY) -m pytest

check: lint
	$(PYTEST) -q -n 3 --dist worksteal -m "not slow" $(UNITS) $(LONGER:%=--ignore=tests/%.py)

# Twice as many processes as the two cores of CI: tests wait for processes, for files and for time-outs.
test: lint
	$(PYTEST) --slow -n 4 --dist worksteal

# A Python's interpreter: on the path, where one may lead nowhere, or pyenv's.
python_of = $(shell for p in "$$(command -v python$(1))" $${PYENV_ROOT:-$$HOME/.pyenv}/versions/$(1).*/bin/python; do \
	"$$p" -c 'import venv, ensurepip' 2>/dev/null && echo "$$p" && break; done)
OLDEST = $(call python_of,3.10)
NEWEST = $(firstword $(foreach version,3.15 3.14 3.13 3.12 3.11,$(call python_of,$(version))))

# The tests that take seconds on the oldest versions that setup.py allows, and on the newest Python that this machine offers.
test-oldest: $(STAMP)
	$(call test_units,oldest,$(OLDEST),requirements-oldest.lock)

test-newest: $(STAMP)
	$(call test_units,newest,$(NEWEST),requirements.lock requirements-cpu.lock)

define test_units
	@test -n "$(2)" || { echo "make test-$(1): found no Python for it, on the path or of pyenv" >&2; exit 1; }
	@$(UV) venv --quiet --clear --python $(2) build/$(1)
	@$(UV) pip install --quiet --python build/$(1)/bin/python $$(grep -h '^setuptools==' $(3))
	@$(call sync,build/$(1)/bin/python,$(3))
	PYTHONPATH=$(CURDIR) $(PYTEST:$(PY)%=build/$(1)/bin/python%) -q -n 3 --dist worksteal -m "not slow" -p no:cacheprovider $(UNITS)
endef

# The documents as a site in build/site; every warning is an error (with --quiet none would be counted).
docs: $(STAMP)
	@$(UV) venv --quiet --clear --python $(PY) build/docs
	@$(call sync,build/docs/bin/python,requirements-docs.lock)
	NO_MKDOCS_2_WARNING=1 build/docs/bin/python -m mkdocs build
	@echo "build/site/index.html"

bench: $(STAMP)
	@test -f "benchmarks/$(BENCH).py" || { echo "BENCH=$(BENCH): found no benchmarks/$(BENCH).py; there are:" \
		$(basename $(notdir $(wildcard benchmarks/*.py))) >&2; exit 1; }
	$(PY) benchmarks/$(BENCH).py

# The newest versions that go together, resolved in an empty environment. faiss has its own files.
lock:
	$(PYTHON) -m venv --clear build/lock
	build/lock/bin/pip install --quiet --upgrade pip setuptools
	build/lock/bin/pip install --quiet '.[benchmarks,dev,loggers]'
	build/lock/bin/pip install --quiet --no-deps vissl==0.1.6
	{ grep '^#' requirements.lock; build/lock/bin/pip freeze --all --exclude vissl-clusterfit; } > build/requirements.lock
	mv build/requirements.lock requirements.lock

# What setup.py allows at the least; what that needs in turn is the newest that goes with it.
lock-oldest: $(STAMP)
	{ grep '^#' requirements-oldest.lock; { $(UV) pip compile --quiet --no-header --no-annotate --extra dev --extra cpu \
		--resolution lowest-direct --python-version 3.10 setup.py; echo vissl==0.1.6; } | sort -f; } > build/requirements-oldest.lock
	mv build/requirements-oldest.lock requirements-oldest.lock

lock-docs: $(STAMP)
	{ grep '^#' requirements-docs.lock; $(PY) -c 'import runpy, setuptools; \
		setuptools.setup = lambda **named: print(*named["extras_require"]["docs"], sep="\n"); runpy.run_path("setup.py")' | \
		$(UV) pip compile --quiet --no-header --no-annotate -; } \
		> build/requirements-docs.lock
	mv build/requirements-docs.lock requirements-docs.lock

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
