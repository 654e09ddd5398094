# `make demo` and `make test` set everything up and need only Python 3.11, make and a package index.
PYTHON ?= python3.11
# A CPU-only torch on Linux: make venv TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-slow test-system venv lint format docs

demo: venv
	$(BIN)/compress run profiles/bert_to_tiny.yaml

# Modules go to the workers in the order of their names, integration first: a long one never comes last.
test: venv lint
	$(BIN)/python -m pytest -q -n auto --dist loadscope --no-loadscope-reorder -m "not slow and not gpu and not system"

test-slow: venv
	$(BIN)/python -m pytest -q -m slow

# Debian packages: run as root, or with SUDO=sudo.
test-system: venv
	$(SUDO) apt-get update -qq
	$(SUDO) apt-get install -qq --yes --no-install-recommends $(shell cat requirements/system.txt)
	command -v npm >/dev/null || $(SUDO) apt-get install -qq --yes --no-install-recommends nodejs npm
	$(BIN)/python -m pytest -q -m system

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: venv
	$(BIN)/python -m compress.profile.reference > docs/profile.md

venv: .venv/ready

.venv/ready: pyproject.toml requirements/constraints.txt requirements/no-deps.txt
	$(PYTHON) -m venv .venv
	$(if $(TORCH_INDEX),$(PIP) -c requirements/constraints.txt --index-url $(TORCH_INDEX) torch)
	$(PIP) -c requirements/constraints.txt --editable '.[dev,demo]'
	$(PIP) --no-deps -r requirements/no-deps.txt
	touch $@
