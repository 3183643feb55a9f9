# `make demo` and `make test` need python3 (3.11 or newer) and pip, nothing else.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test test-on-request lint types layers format docs gallery check-gallery same-bytes bench check clean

help:  ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

demo: $(VENV)/.core  ## continuous batching over paged KV against static over contiguous, on one H100
	$(BIN)/gpuyard run serving/static_vs_continuous --out out/demo
	@echo
	@echo "The report, to open in a browser: $(CURDIR)/out/demo/report.html"

test: $(VENV)/.dev  ## all tests, but those on request
	$(BIN)/pytest -n $(JOBS) --dist worksteal

test-on-request: $(VENV)/.dev  ## longer sweeps of laws that `make test` tests with less, some minutes
	$(BIN)/pytest -n $(JOBS) --dist worksteal -m on_request

lint: $(VENV)/.dev  ## ruff, and the spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

types: $(VENV)/.dev  ## mypy --strict on sim/, calibrate/ and kernels/
	$(BIN)/mypy

layers: $(VENV)/.dev  ## who may import whom, and the sizes of the house
	$(BIN)/lint-imports
	$(BIN)/python -m tools.house

format: $(VENV)/.dev  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: $(VENV)/.core  ## every shipped scenario, profile and model
	$(BIN)/gpuyard check scenarios hardware_profiles sim/_data/engine_profiles sim/_data/models

docs: $(VENV)/.dev  ## the documentation as a site, under out/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "The documentation, to open in a browser: $(CURDIR)/out/docs/index.html"

gallery: $(VENV)/.dev  ## reports/, every scenario's page under out/gallery, and the outputs in README.md and docs/
	$(BIN)/python -m tools.gallery build --jobs $(JOBS)
	$(BIN)/python -m tools.docs

check-gallery: $(VENV)/.core  ## does the code still give the figures in reports/?
	$(BIN)/python -m tools.gallery check --jobs $(JOBS)

same-bytes: $(VENV)/.core  ## are results the same under another BLAS core, without SIMD, with another libm?
	$(BIN)/python -m tools.same_bytes

bench: $(VENV)/.core  ## simulated requests a second
	$(BIN)/python -m benchmarks

clean:  ## leave only what is committed
	rm -rf out build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; give it with: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null \
	  || { echo "$(PYTHON) cannot make environments; on Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,calibrate,docs]'
	@touch $@ $(VENV)/.core
