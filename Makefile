# Two commands set everything up on a machine with Python 3.11+: make demo, make test.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test lab lock clean

setup: .venv/installed

# requirements.lock pins every version; pip installs from pyproject.toml what is needed of it.
.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint requirements.lock --editable '.[dev]'
	touch $@

demo: setup
	rm -rf data/demo
	$(BIN)/heimdall-lab generate --preset iq_test --out data/demo/iq_test
	$(BIN)/heimdall-lab compare data/demo/iq_test --report data/demo/report.html

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest
	HEIMDALL_LAB_QUICK=1 $(BIN)/pytest --nbmake --nbmake-timeout=600 notebooks

lab: setup
	$(BIN)/jupyter lab --notebook-dir=notebooks

# torch is pinned for the models that will train with it; nothing installs it yet.
lock:
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet --editable '.[dev]'
	{ echo "# Made by 'make lock'."; \
	  { build/lock/bin/pip freeze --exclude-editable; echo "torch==2.13.0"; } | LC_ALL=C sort --ignore-case; \
	} > requirements.lock

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache data/demo
