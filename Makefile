PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := .venv-peers
PEERS_STAMP := $(PEERS)/.installed
LABEL := .venv-label
LABEL_STAMP := $(LABEL)/.installed
# What make label serves.
MODEL ?= demo/model
STUDIES ?= demo/studies
PORT ?= 8000
# Waiting threads that spin cost more than they gain as soon as anything else runs on the machine.
export OMP_WAIT_POLICY := PASSIVE

.DEFAULT_GOAL := help
.PHONY: help demo test label test-label docs check format programs bench-peers clean

help:  ## list these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 13

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed: make PYTHON=python3.11"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: $(STAMP)  ## train, evaluate and infer on made-up head CT scans (demo/); under 5 minutes once installed
	$(BIN)/python -m bundle demo demo

test: $(STAMP)  ## run the tests, two at a time
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

label: $(LABEL_STAMP) $(filter demo/model,$(MODEL))  ## serve a model to 3D Slicer and OHIF: make label MODEL=... STUDIES=... PORT=8000 (default: the demo's)
	$(LABEL)/bin/python -m bundle label "$(MODEL)" --studies "$(STUDIES)" --port $(PORT)

demo/model: | $(STAMP)
	$(BIN)/python -m bundle demo demo

test-label: $(LABEL_STAMP)  ## run the tests of MONAI Label's app, in its environment
	$(LABEL)/bin/python -m pytest -c tests/label/pytest.ini tests/label

$(LABEL_STAMP): requirements-label.txt constraints-label.txt
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 13), "MONAI Label needs Python 3.11 or 3.12: make PYTHON=python3.11"'
	$(PYTHON) -m venv $(LABEL)
	# By the environment, as sam2 is built in an environment of its own, for which older pips know no option.
	PIP_CONSTRAINT=constraints-label.txt PIP_BUILD_CONSTRAINT=constraints-label.txt \
		$(LABEL)/bin/pip install --disable-pip-version-check --requirement requirements-label.txt
	touch $@

programs:  ## install the Debian programs that some tests need (as root); the package of Orthanc may start a server
	apt-get update
	apt-get install --yes --no-install-recommends dcm2niix dcmtk dicom3tools iproute2 orthanc orthanc-dicomweb

bench-peers: $(STAMP) $(PEERS_STAMP)  ## measure our speed beside that of anomalib, which gets an environment of its own
	$(BIN)/python -m bundle benchmark --speed --peers $(PEERS)/bin/python

$(PEERS_STAMP): requirements-peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --disable-pip-version-check --requirement requirements-peers.txt
	touch $@

docs: $(STAMP)  ## write docs/options.md anew, from the configs and docstrings
	$(BIN)/python -m docs.generate_options

check: $(STAMP)  ## lint, formatting, types and dependencies
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/deptry scripts bundle

format: $(STAMP)  ## repair lint and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the environments and the demo
	rm -rf $(VENV) $(PEERS) $(LABEL) demo
