# Two commands set everything up on a machine with Python 3.11+: make demo, make test.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo lint first-notebooks test check bench honesty lab serve screenshots lock clean

setup: .venv/installed

# The one line of the lock that is installed by itself, and first: pip keeps a build for CPUs that it finds on disk, where
# a search for what fits all other packages would take that for GPUs.
TORCH = $$(grep '^torch==' requirements.lock)

# requirements.lock pins every version; pip installs from pyproject.toml what is needed of it.
.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet "$(TORCH)"
	$(BIN)/pip install --quiet --constraint requirements.lock --editable '.[all,dev]'
	touch $@

CLASSICAL = centroid,strongest,rss_ml,tdoa_ls,tdoa_robust,dpd
SMALL = --set data_type=feature_based --set geometry.placement=random --set max_receivers=10 --num-samples 400 --seed 1
QUICK = data/demo/triangulation_quick

demo: setup
	rm -rf data/demo
	$(BIN)/heimdall-lab generate --preset iq_test --out data/demo/iq_test
	$(BIN)/heimdall-lab generate --preset iq_test $(SMALL) --out data/demo/training
	$(BIN)/heimdall-lab train data/demo/training --architecture triangulation --epochs 40 --out $(QUICK) --no-tracking
	$(BIN)/heimdall-lab compare data/demo/iq_test --methods $(CLASSICAL),$(QUICK)/model.onnx --pretrained \
		--report data/demo/report.html

# One process more than there are cores, as some wait for a browser or a server, of one thread each; the tests of a file
# share one.
PROCESSES = $$(($$(getconf _NPROCESSORS_ONLN) + 1))
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest
IN_PROCESSES = --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder
TESTS = $(PYTEST) $(IN_PROCESSES) -p no:nbmake -p no:schemathesis
NBMAKE = HEIMDALL_LAB_QUICK=1 $(PYTEST) --nbmake --nbmake-timeout=600
FIRST = notebooks/01_% notebooks/02_%
NOTEBOOKS = $(wildcard notebooks/*.ipynb)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# They compile the package's kernels, which the tests' processes would each do by themselves.
first-notebooks: setup
	$(NBMAKE) $(filter $(FIRST),$(NOTEBOOKS))

test: setup
	$(MAKE) --jobs 2 lint first-notebooks
	$(TESTS) -m "not slow"

# What test does, with journeys of minutes, repeated faults, long statistics, five times the drawn examples and all notebooks.
check: setup
	$(MAKE) --jobs 2 lint first-notebooks
	$(TESTS) --hypothesis-profile=full
	$(NBMAKE) $(IN_PROCESSES) $(filter-out $(FIRST),$(NOTEBOOKS))

# In one thread: those of OpenBLAS burn time while they wait for work, and that would count.
bench: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest benchmarks

# Writes docs/honesty.md anew, of real measurements too where HEIMDALL_LAB_REAL names their folder.
honesty: setup
	PYTHONPATH=benchmarks OMP_NUM_THREADS=1 $(BIN)/python -m honesty

lab: setup
	$(BIN)/jupyter lab --notebook-dir=notebooks

serve: setup
	$(BIN)/heimdall-lab serve

# Needs Chromium, as of Debian's package.
screenshots: setup
	$(BIN)/python tests/app/browser/screenshots.py

# The pin of torch is changed by hand. Which build of it was installed is left out of the lock.
lock:
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet "$(TORCH)"
	build/lock/bin/pip install --quiet --editable '.[all,dev]'
	build/lock/bin/pip freeze --exclude-editable | sed '/^torch==/s/+.*//' | LC_ALL=C sort --ignore-case > build/lock/pins
	{ echo "# Made by 'make lock'."; cat build/lock/pins; } > requirements.lock

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache data/demo
