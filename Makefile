# make test, make lint, make demo: each sets up what it needs on a fresh machine; the second call starts at once.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: setup test lint demo clean

setup: $(READY)

$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch torchvision
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

test: $(READY)
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check rectify tests
	$(BIN)/mypy

demo: $(READY)
	PATH="$(CURDIR)/$(BIN):$$PATH" fixtures/demo.sh

clean:
	rm -rf out build dist .pytest_cache .mypy_cache .ruff_cache
