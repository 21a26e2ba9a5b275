# Everything runs in a virtual environment of its own; the first call of any target makes it.
PYTHON ?= python3
VENV ?= .venv
RUNS ?= runs
NAME ?= demo
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# A file's tests share what they make, so that a file stays with one of the processes.
TESTS := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# One thread a process: on a busy machine several fight each other (README, "Speed on a CPU").
export OMP_NUM_THREADS ?= 1
export HF_HUB_DISABLE_TELEMETRY ?= 1

.PHONY: demo experiment test fast thorough lint format docs package clean

demo: $(INSTALLED)  ## A real study on the embedded factory world; continues it if it was interrupted.
	@if [ -d $(RUNS)/$(NAME) ]; then $(BIN)/partune resume $(RUNS)/$(NAME); else $(BIN)/partune demo --runs $(RUNS) --name $(NAME); fi

experiment: $(INSTALLED)  ## The original study on the embedded factory world, under twenty minutes; continues it if it was interrupted.
	$(BIN)/partune experiment report --out $(RUNS)/experiment

test: $(INSTALLED) lint  ## All tests, slow ones included.
	$(TESTS)

fast: $(INSTALLED)  ## The tests whose cases together take less than about a quarter of a CPU second.
	$(TESTS) -m "not slow"

thorough: $(INSTALLED)  ## All tests with many random examples, and what ordinary runs leave out; an hour or more.
	$(TESTS) --thorough

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(INSTALLED)  ## The documentation, into site/; a warning is an error.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

package: $(INSTALLED)  ## Builds sdist and wheel; installs and uses the wheel in a fresh environment, without PyTorch and with it.
	.ci/package $(VENV)

clean:
	rm -rf $(VENV) build dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(INSTALLED): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: install Python 3.11 or later, or call make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@
