# Everything that people and machines run, one line each. `make demo` and `make test` work on a fresh machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests mostly wait for processes and servers of their own: one process of them left half of two cores idle.
TEST_PROCESSES ?= 2

.PHONY: demo test test-fast check bench format clean

$(VENV)/.core: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.dev: $(VENV)/.core
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

$(VENV)/.test: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev,torch,int8,gemini,openai,emulator,search,pdf,pgvector,serve,report,map,otel]"
	touch $@

$(VENV)/.node: tests/node/package.json  ## OpenAI's JavaScript client, where there is npm; its test is skipped otherwise
	mkdir -p $(VENV)
	! command -v npm > /dev/null || npm install --silent --no-package-lock --no-audit --no-fund --prefix tests/node
	touch $@

demo: $(VENV)/.core  ## set up, fetch the default model, embed real documents, answer three queries
	$(BIN)/python examples/demo.py

test: $(VENV)/.test $(VENV)/.node  ## every test, the real model and killed processes included
	$(BIN)/embatch models fetch minilm
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist worksteal

test-fast: $(VENV)/.dev  ## what needs neither PyTorch nor killed processes
	$(BIN)/python -m pytest -m "not torch and not int8 and not kill and not remote and not search and not serve and not browser"

check: $(VENV)/.dev  ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.test  ## interleaved benchmarks against peers; results in benchmarks/results
	$(BIN)/python -m benchmarks setup all tables

format:  ## apply the formatter and the safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove what the targets above made
	rm -rf $(VENV) .venv-* .mypy_cache .pytest_cache .ruff_cache build dist out
