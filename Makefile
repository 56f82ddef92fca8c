# Two commands set everything up on a machine with Python 3.11+: make demo, make test.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo lint first-notebooks test check bench honesty lab serve screenshots lock clean

setup: .venv/installed

# Installed by itself, and first: pip keeps a build for CPUs that it finds on disk, whose hash is nobody else's, where a
# search for what fits all other packages would take that for GPUs.
TORCH := torch==2.13.0

# requirements.lock pins every other version, and the hashes of the files that may be installed.
.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet --require-hashes --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps --editable .
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

# For Python 3.11 to 3.13 on Linux and macOS: [tool.uv] in pyproject.toml has them, and leaves torch out, whose own
# requirements are named here. Pins that still fit are kept; UPGRADE=--upgrade takes the newest versions of all.
OF_TORCH = filelock fsspec jinja2 networkx setuptools sympy typing-extensions
FOR_ALL = ; python_full_version < '3.14' and (sys_platform == 'darwin' or sys_platform == 'linux')
UPGRADE =

lock:
	$(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet uv
	printf '%s\n' $(OF_TORCH) | build/lock/bin/uv pip compile --quiet --universal --python-version 3.11.5 $(UPGRADE) \
		--generate-hashes --no-annotate --no-header --extra all --extra dev pyproject.toml - -o requirements.lock
	sed -i "s/ $(FOR_ALL)//" requirements.lock

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache data/demo
