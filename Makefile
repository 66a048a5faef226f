PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := .venv-peers
PEERS_STAMP := $(PEERS)/.installed
# Waiting threads that spin cost more than they gain as soon as anything else runs on the machine.
export OMP_WAIT_POLICY := PASSIVE

.DEFAULT_GOAL := help
.PHONY: help demo test check format programs bench-peers clean

help:  ## list these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 13

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed: make PYTHON=python3.11"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: $(STAMP)  ## train, evaluate and infer on made-up head CT scans (demo/); under 5 minutes once installed
	$(BIN)/python -m bundle demo demo

test: $(STAMP)  ## run the tests
	$(BIN)/python -m pytest

programs:  ## install the Debian programs that some tests check our DICOM with (as root)
	apt-get update
	apt-get install --yes --no-install-recommends dcm2niix dcmtk dicom3tools

bench-peers: $(STAMP) $(PEERS_STAMP)  ## measure our speed beside that of anomalib, which gets an environment of its own
	$(BIN)/python -m bundle benchmark --speed --peers $(PEERS)/bin/python

$(PEERS_STAMP): requirements-peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --disable-pip-version-check --requirement requirements-peers.txt
	touch $@

check: $(STAMP)  ## lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)  ## repair lint and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the environments and the demo
	rm -rf $(VENV) $(PEERS) demo
