.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-slow lint format types site tables reproduce

help:        ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install:     ## Editable install with all tools, and the pre-commit hooks
	pip install -e ".[dev]"
	pre-commit install

quickstart:  ## Train the default model, about a minute
	python train.py

test:        ## The default tests
	pytest

test-slow:   ## All tests, the long ones included
	pytest --slow

lint:        ## Check style
	ruff check .
	ruff format --check .

format:      ## Mend style
	ruff check --fix .
	ruff format .

types:       ## Check types
	mypy

site:        ## Build the documentation into site/, or fail at a broken link
	mkdocs build

tables:      ## Run what is missing and write results/ and the tables of the documents
	python lab/tables.py

reproduce:   ## Run published toys and tables again, minutes
	python lab/reproduce.py
