# make test, make lint, make demo: each sets up what it needs on a fresh machine; the second call starts at once.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PIP    := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help setup test lint demo clean

help:
	@echo "make demo   repair the shipped backdoored network into out/demo/"
	@echo "make test   run the tests"
	@echo "make lint   ruff and mypy"
	@echo "make setup  only create $(VENV)"
	@echo "make clean  remove outputs and caches, keep $(VENV)"

setup: $(READY)

$(READY): pyproject.toml
	@echo "Setting up $(VENV); torch is large, the first time takes minutes."
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet torch torchvision
	$(PIP) install --quiet -e '.[dev]'
	@touch $@

# Two processes of one thread each, each file in one of them: two threads of one process mostly wait for each other.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy

demo: $(READY)
	mkdir -p out/demo
	$(BIN)/rectify edit --config fixtures/cifar10-patch/rectify.yaml --force

clean:
	rm -rf out build dist .pytest_cache .mypy_cache .ruff_cache
