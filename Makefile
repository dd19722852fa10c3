PYTHON ?= python3
BIN := .venv/bin
SETUP := $(BIN)/pip install --quiet --disable-pip-version-check

.PHONY: demo test lint bench clean

demo: .setup-demo
	$(BIN)/gradtts-robust demo --out runs/demo

test: .setup-test
	$(BIN)/python -m pytest --cov=gradtts_robust --cov-report=term --durations=15

lint: .setup-test
	$(BIN)/ruff check .

# make bench ORIGINAL=Speech-Backbones/Grad-TTS ROWS="train speak": beside the original Grad-TTS; without ORIGINAL our own figures
bench: .setup-bench
	$(BIN)/python recipes/bench/bench.py $(if $(ORIGINAL),--original $(ORIGINAL)) $(if $(ROWS),--only $(ROWS)) --out runs/bench.json $(BENCH)

.venv/bin/python:
	$(PYTHON) -m venv .venv

# one install is enough: the stamp is newer than what it depends on once it is done
.setup-demo: pyproject.toml .venv/bin/python
	$(SETUP) -e ".[voices]"
	@touch $@

.setup-test: pyproject.toml .venv/bin/python
	$(SETUP) -e ".[test]"
	@touch $@ .setup-demo

.setup-bench: pyproject.toml .venv/bin/python
	$(SETUP) -e ".[bench]"
	@touch $@ .setup-demo

clean:
	rm -rf .venv .setup-demo .setup-test .setup-bench runs build *.egg-info
