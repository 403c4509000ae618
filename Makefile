# make demo, make test and make check each set everything up first; a second call does none of it again.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help install demo test campaign check format lock sbom clean

# Names for .ci/setup, from the command line: make install PYTHON=python3.12 TORCH=torch==2.13.0
export PYTHON TORCH LOCK

DIR ?= demo
ARGS ?=
# Processes that share the tests, each on one core. Three do for two cores: some tests wait for processes that they start.
WORKERS ?= 3
setup = .ci/setup $@
bin = .venv/bin

help: ## Say what there is
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-9s %s\n", $$1, $$2}'
	@echo
	@echo 'PYTHON=python3.12 chooses the Python, TORCH=torch==2.13.0 the torch, of a first make install.'

install: ## Install what is missing: Debian packages, .venv, slideduck in it
	@$(setup)

demo: ## Make a small cohort and run the whole job on it: make demo [DIR=demo]
	@$(setup)
	@$(bin)/slideduck demo "$(DIR)"

# Worksteal: each worker has a stretch of the tests in their order, so that one of them makes what a module shares, and
# takes half of what is left of the other's when it has done its own. Tests share no ports, no files and no folder.
tests = $(bin)/pytest --numprocesses=$(WORKERS) --dist=worksteal --durations=10

test: ## Run the tests: make test [ARGS="-k grid"] [WORKERS=3]
	@$(setup)
	@$(tests) $(ARGS)

# What a seed has tried already is not tried again: a campaign that was stopped goes on, and another seed begins anew.
SEED ?= 0
TRIES ?= 3

campaign: ## Strike every command, then test with many times the cases: make campaign [SEED=1] [TRIES=3]
	@$(setup)
	@failed=0; \
	$(bin)/python -m tests.killing --seed $(SEED) --tries $(TRIES) || failed=1; \
	SLIDEDUCK_CAMPAIGN=1 $(tests) $(ARGS) || failed=1; \
	exit $$failed

check: ## Lint, check types and layers; every failure is shown
	@$(setup)
	@# Links that lay the folders out under the import name: type checkers do not see an editable install.
	@rm -rf build/types && mkdir -p build/types/slideduck
	@for f in engine/*; do ln -s "../../../$$f" build/types/slideduck/; done
	@ln -s ../../../sql ../../../runner build/types/slideduck/
	@# A copy, since what reads the imports follows no links.
	@rm -rf build/layers && mkdir -p build/layers
	@cp -r engine build/layers/slideduck && cp -r sql runner build/layers/slideduck/
	@failed=0; \
	for command in 'ruff check' 'ruff format --check' 'sqlfluff lint sql' 'mypy' 'lint-imports --no-cache --no-logo'; do \
	    echo "$$command"; \
	    PYTHONPATH=build/layers $(bin)/$$command || failed=1; \
	done; \
	.ci/audit || failed=1; \
	exit $$failed

lock: ## Pin anew, by their SHA-256, the versions that make installs
	@$(setup)
	@.ci/lock

sbom: ## Write a bill of materials of .venv, CycloneDX, into build/sbom.json
	@$(setup)
	@.ci/audit sbom

format: ## Format the Python files
	@$(setup)
	@$(bin)/ruff check --fix-only --quiet
	@$(bin)/ruff format

clean: ## Remove what the others made: .venv, build, dist, caches and the demo
	rm -rf .venv build dist demo *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache .coverage
	find engine sql runner tests -name __pycache__ -type d -prune -exec rm -rf {} +
