# make demo   set up, index the documentation of this Python, search it        (Q="your words" asks your own)
# make test   set up, check style and types, run the tests                     (ARGS="-k phrase" selects some)
# make lint   the checks alone          make bench  measure          make clean  remove all that make made
# make kernels   compile the kernels that ship, after an edit of theirs
# make compare CORPUS=docs.jsonl QUERIES=queries.jsonl      the rivals, see docs/performance.md      (ARGS=--help)
# make test-s3-real   the tests of stores, tiers and snapshots against Ceph's S3 gateway   (Debian; installs it)
# make crash-long   crashes, kills, full disks, faulty stores and damage for hours, see docs/reliability.md      (SEED=7 begins there)
#
# Needs Python 3.11 or newer as PYTHON. Everything goes into .venv and .demo of this directory.

PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
export Q

.PHONY: help demo test test-s3-real lint kernels bench compare crash-long clean
.DELETE_ON_ERROR:

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

demo: .venv/ready-to-use
	@$(BIN)/python examples/01_python_docs.py $${Q:+-- "$$Q"}

test: lint kernels
	@$(BIN)/python -m pytest -q $(ARGS)

# One monitor, one OSD and one gateway, which the tests start in a directory of their own and end again.
ceph := radosgw ceph-mon ceph-osd
sudo := $(if $(filter 0,$(shell id -u)),,sudo)
test-s3-real: kernels
	@which $(ceph) >/dev/null || \
	  { $(sudo) apt-get update -q && $(sudo) apt-get install -q -y --no-install-recommends $(ceph); }
	@$(BIN)/python -m pytest -q --s3-real tests/test_stores.py tests/test_remote_tier.py tests/test_tiers.py \
	  tests/test_snapshots.py tests/crash/test_stores.py $(ARGS)

lint: .venv/ready-to-test
	@$(BIN)/python -m ruff check
	@$(BIN)/python -m mypy --strict quidditch_core

kernels: .venv/ready-to-test
	@$(BIN)/python -m quidditch_core.compiler images

bench: .venv/ready-to-measure
	@$(BIN)/python -m pytest benchmarks -q -o python_files='bench_*.py' -o python_functions='bench_*' $(ARGS)

# Indexes stay in .compare: ARGS="--rebuild quidditch" builds ours anew.
compare: .venv/ready-to-measure
	@$(BIN)/python -m benchmarks.compare --corpus "$(CORPUS)" --queries "$(QUERIES)" --work .compare $(ARGS)

# All of them run, whatever the first ones find.
from := $(if $(SEED),--seed $(SEED))
crash-long: .venv/ready-to-test
	@failed=0; for trial in 'simulate --points 100000 $(from)' 'kill --rounds 1000 $(from)' \
	  'disk --every --pairs 10000 $(from)' 'locks --rounds 5000 $(from)' \
	  'stores --scripts 50000 $(from)' 'bytes --bits 8'; do \
	  echo "$$trial"; $(BIN)/python -m tests.crash.$$trial || failed=1; done; \
	HYPOTHESIS_PROFILE=long $(BIN)/python -m pytest -q tests/properties || failed=1; exit $$failed

clean:
	rm -rf .venv .demo .compare quidditch_core/_kernels benchmarks/compare/engines/*/target build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# The environment is made once; it is installed into again when pyproject.toml changes. Tests need more than use.
.venv/made:
	@command -v "$(PYTHON)" >/dev/null || \
	  { echo "no $(PYTHON) on this machine: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, $(PYTHON) is $$("$(PYTHON)" -V 2>&1):" \
	         "make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -m venv --clear .venv || \
	  { echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@touch $@

.venv/ready-to-use: .venv/made pyproject.toml hatch_build.py
	@echo "setting up .venv and compiling the kernels (once)"
	@$(BIN)/python -m pip install --quiet --editable '.[cli]'
	@touch $@

.venv/ready-to-test: .venv/made pyproject.toml hatch_build.py
	@echo "setting up .venv with the test tools, and compiling the kernels (once)"
	@$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ .venv/ready-to-use

.venv/ready-to-measure: .venv/ready-to-test
	@echo "setting up .venv with the measuring tools (once)"
	@$(BIN)/python -m pip install --quiet --editable '.[bench]'
	@touch $@
