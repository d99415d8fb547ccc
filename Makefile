# Every target makes its own virtual environment from the pinned constraints; nothing needs to be installed by hand.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# threads that wait without spinning, for shared machines
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help install demo test bench bench-ratios bench-sixteen bench-zjets lint format clean

help:            ## list the targets
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip -c constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt torch -e '.[dev]'
	@touch $@

install: $(STAMP)  ## the virtual environment, with nuratio in it

demo: $(STAMP)   ## ROOT ntuples to a CLs limit on a built-in example; results in ./demo
	$(BIN)/nuratio demo demo

test: $(STAMP)   ## all tests, warnings as errors, with coverage
	$(BIN)/python -m pytest -n auto --dist loadfile --cov --cov-report=term

bench: $(STAMP)  ## compare speed, memory and precision with other tools; results in benchmarks/README.md
	$(BIN)/python benchmarks/engine.py $(BENCH)

bench-ratios: $(STAMP)  ## every method of training on a signed problem with a known ratio; RATIOS="--events 4000000"
	$(BIN)/python benchmarks/ratios.py $(RATIOS)

bench-sixteen: $(STAMP)  ## signed ratios in sixteen dimensions, and what auto chooses; SIXTEEN="--share 0.1 --seeds 1"
	$(BIN)/python benchmarks/sixteen.py $(SIXTEEN)

bench-zjets: $(STAMP)  ## aMC@NLO weights: leading order reweighted to next-to-leading; ZJETS=directory of the two files
	$(BIN)/python benchmarks/zjets.py $(ZJETS)

lint: $(STAMP)   ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## let ruff fix what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:           ## remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov
