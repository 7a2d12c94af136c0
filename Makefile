# Thin calls of tools/setup.py, which does the work (on Windows: py tools\setup.py COMMAND).
#   make test ARGS="-k rotary"       arguments for pytest
#   make demo PYTHON=python3.12      another Python

PYTHON ?= python3
SETUP := $(PYTHON) tools/setup.py

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all lint mutants atlas bench bench-quick format clean

help:      ## this list
	@sed -n 's/^\([a-z-]*\):\( *\)## /  make \1\2/p' Makefile

install:   ## make .venv and install weft with its development tools
	@$(SETUP) install

demo:      ## install, train the default recipe, generate from it, draw its report
	@$(SETUP) demo

test:      ## install, then lint, types, layers and the tests
	@$(SETUP) test $(ARGS)

test-all:  ## the same with the long tests
	@$(SETUP) test --all $(ARGS)

lint:      ## install, then style, format, types and layers
	@$(SETUP) lint

mutants:   ## plant faults into a copy; a test must catch each (ARGS="--only NAME")
	@$(SETUP) mutants $(ARGS)

atlas:     ## make docs/atlas anew, a page for each part, from docstrings and code
	@$(SETUP) atlas

bench:     ## all benchmarks, hours on an idle machine: docs/performance.md (ARGS="--text FILE")
	@$(SETUP) bench $(ARGS)

bench-quick: ## the same in ten minutes
	@$(SETUP) bench --quick $(ARGS)

format:    ## put the source into its format and mend what ruff can
	@$(SETUP) format

clean:     ## remove .venv, caches and build products; runs stay
	@$(SETUP) clean
