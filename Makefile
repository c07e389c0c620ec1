# Every target makes the virtual environment itself, from nothing but Python 3.11 or newer.
#   make test VENV=/somewhere/else PYTHON=/usr/bin/python3.12   both can be chosen

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help demo test lint docs clean install

help: ## show this list
	@grep -hE '^[a-z]+:.*##' $(firstword $(MAKEFILE_LIST)) | awk -F ':.*## ' '{ printf "  make %-8s %s\n", $$1, $$2 }'

install: $(STAMP) ## make .venv and install dcsurgery into it, editable, with all that demo, test, lint and docs need

# Installed anew only when the requirements change. torch comes first and by its pinned version, so that no other
# package's requirement can choose it.
$(STAMP): pyproject.toml constraints.txt
	@python="$(PYTHON)"; \
	if [ -z "$$python" ]; then \
		for candidate in python3.11 python3; do \
			if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
				python="$$candidate"; break; \
			fi; \
		done; \
	fi; \
	if [ -z "$$python" ]; then \
		echo "dcsurgery needs Python 3.11 or newer, and neither python3.11 nor python3 is that: install it," \
			"or say where it is with PYTHON=/path/to/python" >&2; \
		exit 1; \
	fi; \
	if ! "$(BIN)/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		echo "making $(VENV) with $$python"; \
		if ! "$$python" -m venv --clear "$(VENV)"; then \
			echo "$$python cannot make virtual environments (on Debian and Ubuntu: install python3-venv)" >&2; \
			exit 1; \
		fi; \
	fi
	$(BIN)/python -m pip install --quiet -c constraints.txt "torch==2.13.0"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[test,exam,ocp,browser,lint,docs]"
	@touch $@

demo: $(STAMP) ## transform two models file to file, then train the originals and the results side by side
	$(BIN)/python -m dcsurgery.zoo.demo

# One process for each core, and one thread in each: on small models more threads only wait for each other.
# Line coverage takes as long as the tests themselves.
test: $(STAMP) ## run the tests; with COVERAGE=yes also line coverage of the core and the passes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal \
		$(if $(COVERAGE),--cov --cov-report=term-missing:skip-covered) $(PYTEST_ARGS)

# mypy cannot follow package-dir, so it gets the tree as it is installed.
lint: $(STAMP) ## ruff (rules and format) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/typecheck && mkdir -p build/typecheck
	cp -R dcsurgery build/typecheck/dcsurgery
	cp -R passes build/typecheck/dcsurgery/passes
	cp -R zoo build/typecheck/dcsurgery/zoo
	cd build/typecheck && "$(abspath $(BIN)/python)" -m mypy --config-file "$(CURDIR)/pyproject.toml" \
		--cache-dir "$(CURDIR)/.mypy_cache" -p dcsurgery

docs: $(STAMP) ## build the pages into docs/_build/html; a warning is an error
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

clean: ## remove what was built and cached, but not the virtual environment
	rm -rf build dist docs/_build docs/api/generated .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov demo *.egg-info
	find . -name __pycache__ -type d -not -path './.venv/*' -not -path './.ci-venv/*' -prune -exec rm -rf {} +
