# adtally: `make demo` shows it, `make test` proves it, `make check` is what CI runs.
# Everything is set up on first use and quick afterwards; safe to repeat.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-header

.PHONY: demo test check lint types bench bench-stream charts faults format clean system lock audit fuzz

# What is installed is what was locked, byte for byte: pip refuses what has another hash.
$(READY): requirements-build.lock requirements-dev.lock setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "adtally needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version)." \
	       "Install it, or say which: make PYTHON=python3.11 ..." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "Python's venv module is missing; install it: apt-get install python3-venv" >&2; exit 1; }
	$(INSTALL) --require-hashes -r requirements-build.lock
	$(INSTALL) --require-hashes --no-build-isolation -r requirements-dev.lock
	$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

# Java, Maven and Node.js, for the local servers; says what to install where it cannot. Without
# PostgreSQL or Chromium the tests that need it are skipped.
system:
	@sh runners/local/install_system.sh
	@sh runners/local/install_system.sh postgresql || echo "make: going on without PostgreSQL."
	@sh runners/local/install_system.sh chromium || echo "make: going on without Chromium."

demo: $(READY)
	@sh runners/local/install_system.sh || echo "make demo: going on without what is missing."
	@$(BIN)/python -m adtally.pipelines.demo

# Two processes: one has the streams (group "live"), which wait most of their time; the other the rest.
test: $(READY) system
	$(BIN)/python -m pytest -n 2 --dist loadgroup

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy does not see editable installs that map folders: links give it the packages by their names.
types: $(READY)
	@mkdir -p .mypy_cache/packages/adtally
	@for name in io pipelines runners transforms; do \
	  ln -sfn ../../../$$name .mypy_cache/packages/adtally/$$name; done
	MYPYPATH=.mypy_cache/packages $(BIN)/mypy --explicit-package-bases -p adtally

check: lint types test

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	$(BIN)/python -m benchmarks.run

# The streaming graph on Flink beside Flink SQL; then from event to searchable document.
bench-stream: $(READY) system
	$(BIN)/python -m benchmarks.stream_throughput
	$(BIN)/python -m benchmarks.stream_latency

# The charts of docs/faults.md and docs/capacity.md, from their data.
charts: $(READY)
	$(BIN)/python -m benchmarks.charts

# Break a running stream in every way, under load; an hour and a half.
faults: $(READY) system
	$(BIN)/python -m tests.faults

# After a change of requirements*.txt: what belongs to it, with hashes, for Python 3.11 and newer.
# What is locked already stays; `make lock UPGRADE=--upgrade` takes newer ones of what is not pinned.
lock:
	$(LOCK) $(UPGRADE) requirements-build.txt -o requirements-build.lock
	$(LOCK) $(UPGRADE) requirements.txt -o requirements.lock
	$(LOCK) $(UPGRADE) requirements-dev.txt -c requirements.lock -o requirements-dev.lock

# Known vulnerabilities of what is locked; needs PyPI's own service, and fails without it.
audit: $(READY)
	$(BIN)/pip-audit --strict --disable-pip --require-hashes --progress-spinner off \
	  -r requirements-build.lock -r requirements-dev.lock

# A million hostile payloads through decode and what follows; some ten minutes on one core.
fuzz: $(READY)
	$(BIN)/python -m tests.fuzz

clean:
	rm -rf $(VENV) build dist demo-output benchmarks/data *.egg-info .pytest_cache .mypy_cache .ruff_cache
