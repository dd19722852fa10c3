PYTHON ?= python3
BIN := .venv/bin
SETUP := $(BIN)/pip install --quiet --disable-pip-version-check

.PHONY: demo test lint clean

demo: .setup-demo
	$(BIN)/gradtts-robust demo --out runs/demo

test: .setup-test
	$(BIN)/python -m pytest --cov=gradtts_robust --cov-report=term --durations=15

lint: .setup-test
	$(BIN)/ruff check .

.venv/bin/python:
	$(PYTHON) -m venv .venv

# one install is enough: the stamp is newer than what it depends on once it is done
.setup-demo: pyproject.toml .venv/bin/python
	$(SETUP) -e ".[voices]"
	@touch $@

.setup-test: pyproject.toml .venv/bin/python
	$(SETUP) -e ".[test]"
	@touch $@ .setup-demo

clean:
	rm -rf .venv .setup-demo .setup-test runs build *.egg-info
