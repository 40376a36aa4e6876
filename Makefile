# make demo    a running application with jobs and their page, on http://127.0.0.1:8000
# make fleet   the same on PostgreSQL, with two web processes and two workers
# make test    every check: style, types, import direction, tests
# They need Python 3.11 or newer and work in an empty clone; what they install goes to .venv.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= auto

# The first interpreter that is new enough. Another one: make demo PYTHON=/path/to/python
PYTHON ?= $(shell for candidate in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$candidate; break; }; done)

.PHONY: help demo fleet test coverage check lint format types imports unit browser-tests browser bench clean

help:
	@sed -n '/^#/s/^# \{0,1\}//p;/^$$/q' Makefile
	@echo 'Single checks: lint, types, imports, unit, browser-tests. Also: format, coverage, bench, clean.'

demo: $(VENV)/.stamp-demo
	$(BIN)/python -m sample_app

fleet: $(VENV)/.stamp-fleet
	$(BIN)/python -m sample_app.fleet

test: lint types imports $(VENV)/.stamp-browser $(VENV)/.stamp-compose
	$(BIN)/pytest -n $(WORKERS) --dist loadgroup $(ARGS)

# The same tests, which of the lines they run, and at least how many: it takes about half as long again.
coverage: $(VENV)/.stamp-browser $(VENV)/.stamp-compose
	$(BIN)/pytest -n $(WORKERS) --dist loadgroup --cov --cov-report=term $(ARGS)

check: lint types imports

lint: $(VENV)/.stamp-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(VENV)/.stamp-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: $(VENV)/.stamp-dev
	$(BIN)/mypy --strict

imports: $(VENV)/.stamp-dev
	$(BIN)/lint-imports

unit: $(VENV)/.stamp-dev
	$(BIN)/pytest -n $(WORKERS) --dist loadgroup -m 'not browser' $(ARGS)

browser-tests: $(VENV)/.stamp-browser
	$(BIN)/pytest -m browser $(ARGS)

bench: $(VENV)/.stamp-dev
	$(BIN)/python -m benchmarks memory $(ARGS)

clean:
	rm -rf $(VENV) build dist .coverage .coverage.* htmlcov .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# Debian keeps the part of Python that makes virtual environments in a package of its own.
$(VENV)/.stamp-venv:
	@test -n '$(PYTHON)' || { echo 'Python 3.11 or newer is needed: make $(MAKECMDGOALS) PYTHON=/path/to/python'; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	|| { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
		&& version=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])') \
		&& apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy "python$$version-venv"; } \
	|| { echo 'This Python cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv'; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/.stamp-demo: $(VENV)/.stamp-venv pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[postgresql]' --group sample
	@touch $@

$(VENV)/.stamp-fleet: $(VENV)/.stamp-venv pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[postgresql]' --group fleet
	@touch $@ $(VENV)/.stamp-demo

$(VENV)/.stamp-dev: $(VENV)/.stamp-venv pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[postgresql]' --group dev
	@touch $@ $(VENV)/.stamp-demo $(VENV)/.stamp-fleet

browser: $(VENV)/.stamp-browser

# A Chromium that is there already; else Playwright's own build; else Debian's package. Without one the
# browser tests are skipped and say so, but in CI, where a missing browser is an error.
$(VENV)/.stamp-browser: $(VENV)/.stamp-dev
	@if command -v chromium chromium-browser google-chrome >/dev/null; then \
		echo "browser: $$(command -v chromium chromium-browser google-chrome | head -n 1)"; touch $@; \
	elif timeout 300 $(BIN)/playwright install $$(test "$$(id -u)" != 0 || echo --with-deps) chromium; then \
		touch $@; \
	elif test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -q \
		&& DEBIAN_FRONTEND=noninteractive apt-get install -qy chromium; then \
		touch $@; \
	else \
		echo 'browser: none found and none could be installed; the browser tests are skipped'; test -z "$${CI:-}"; \
	fi

# Docker Compose reads docker-compose.yml in one test; no Docker is needed for that. Without it the test is
# skipped and says so, but in CI, where that is an error.
$(VENV)/.stamp-compose: $(VENV)/.stamp-venv
	@if command -v docker-compose >/dev/null || docker compose version >/dev/null 2>&1; then \
		touch $@; \
	elif test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -q \
		&& DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends docker-compose; then \
		touch $@; \
	else \
		echo 'docker-compose: not found and not installable; its test is skipped'; test -z "$${CI:-}"; \
	fi
