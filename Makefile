# `make demo` and `make test` are all a fresh machine needs; `make help` lists the rest.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
FAST := data metrics models store
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: install demo test test-fast test-release test-families test-slurm chaos walk bench attack lint types imports docs golden clean help

install: $(STAMP)  ## make .venv and install the tested versions of requirements.lock into it

$(STAMP): setup.cfg pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements.lock torch uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint requirements.lock --editable '.[dev]'
	touch $(STAMP)

demo: install  ## the main job, Single->Multi, on the demo scale: no GPU, no account, no download
	$(BIN)/python -m bam_lightning.train +experiment=single_multi

test: install  ## all tests; real text too where BAM_GLUE_DIR and BAM_ENCODER_DIR name it
	$(BIN)/python -m pytest -n 2 --dist loadgroup

test-fast: install  ## unit tests that start no process and train no recipe, in a minute; tests/config and tests/training are in make test
	$(BIN)/python -m pytest -n 2 -m 'not slow and not slurm and not families and not chaos and not release' $(addprefix tests/,$(FAST))

test-release: install  ## tests that a release needs and each commit does not: slow ways round, more pages; ten minutes
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m release

test-families: install  ## 50 encoder families, each trained, resumed, saved and loaded; two minutes
	$(BIN)/python -m pytest -n 2 -m 'families or not families' tests/training/test_families.py

chaos: install  ## kill jobs 100 times at random moments, bit-equal to undisturbed ones; 2,000 random edits of files
	PYTHONPATH=src $(BIN)/python tests/chaos.py
	BAM_FUZZ_TRIES=2000 $(BIN)/python -m pytest tests/integration/test_fuzz.py tests/integration/test_fuzz_files.py

walk: install  ## change every option in turn: the id of a Run changes, or weights are equal as a list says; ten minutes
	PYTHONPATH=src $(BIN)/python tests/walk.py

test-slurm: install  ## sweeps on a real SLURM of four virtual nodes, from Debian's packages; skipped where there are none
	$(BIN)/python -m pytest -m slurm -rs tests/integration/test_slurm_cluster.py

bench: install  ## the benchmarks of benchmarks/, an hour, half of it the sweep; BENCH="NAME ..." for some
	$(BIN)/python benchmarks/bench.py $(BENCH)

attack: demo  ## a server under five attacks, beside a client that has to be answered; four minutes
	$(BIN)/python benchmarks/attack.py

lint: install  ## style; known vulnerabilities of the locked packages, where their index answers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python .ci/audit.py

docs: install  ## the documentation site, in build/site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

types: install  ## static types
	$(BIN)/mypy

imports: install  ## the layers of setup.cfg
	$(BIN)/lint-imports

golden: install  ## rewrite tests/golden; explain a difference in the commit
	$(BIN)/python -m pytest tests/integration/test_golden.py --golden

clean:  ## remove what was built (not the store)
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12
