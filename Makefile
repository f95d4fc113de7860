# make run: from a fresh clone to a leaderboard. make test: the whole test suite. make setup: only the environment.
PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help

.PHONY: help setup run test lint bench docs

help:
	@echo "make run    run the quick grid and print its leaderboard"
	@echo "make test   run the test suite"
	@echo "make lint   check style and types"
	@echo "make bench  measure performance against its targets"
	@echo "make docs   rewrite what is computed in README.md and docs/"
	@echo "make setup  make the environment in .venv"

# The stamp is newer than pyproject.toml when the environment has what it asks for.
.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

setup: .venv/installed

run: setup
	$(BIN)/dpbench run quick

test: setup
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python tests/benchmarks/run.py

docs: setup
	$(BIN)/python -m dpbench.reports.summary
