# Everything runs in a virtual environment in .venv, made with uv when it is there and pip otherwise.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)
STAMP := $(VENV)/.installed
LOCK := requirements/dev.lock
COMPILE = uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet

SEED ?= 1
RUNS ?= 1
# Half as many again as there are cores: the slow tests mostly wait (for sessions, guards, due times).
TEST_PROCESSES ?= $(shell $(PYTHON) -c "import os; print(max(2, (os.cpu_count() or 2) * 3 // 2))")

.PHONY: install demo test check bench mutants chaos lock pages rights sbom clean
.DEFAULT_GOAL := help

help: ## show the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMP) ## make .venv with the locked packages

$(STAMP): pyproject.toml $(LOCK)
ifdef UV
	uv venv --quiet --allow-existing --python $(PYTHON) $(VENV)
	uv pip sync --quiet --require-hashes --python $(BIN)/python $(LOCK)
	uv pip install --quiet --no-deps --no-build-isolation --python $(BIN)/python -e .
else
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --require-hashes -r $(LOCK)
	$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
endif
	touch $(STAMP)

demo: install ## run the main job on the embedded stack
	$(BIN)/sluicegate demo

test: install ## run all tests
	$(BIN)/pytest -n $(TEST_PROCESSES) --dist worksteal

check: install ## lint, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install ## print the figures of the docs
	$(BIN)/python -m benchmarks

chaos: install ## break a whole deployment RUNS times, from SEED on, and judge what is left
	$(BIN)/python -m tests.chaos --seed $(SEED) --runs $(RUNS)

mutants: install ## take each guard out and see a test fail
	$(BIN)/python -m tests.mutants $(WORDS)

lock: ## compile the locked requirements anew
	$(COMPILE) pyproject.toml --extra otel -o requirements/runtime.lock
	$(COMPILE) requirements/build.in -o requirements/build.lock
	$(COMPILE) pyproject.toml --extra otel --group dev requirements/build.in -o $(LOCK)

pages: install ## write docs/metrics.md and docs/settings.md anew from the code
	$(BIN)/python -m sluicegate.telemetry.catalogue > docs/metrics.md
	$(BIN)/python -m sluicegate.settings.catalogue > docs/settings.md

rights: install ## write deploy/rights anew from the topic table and the scripts
	$(BIN)/sluicegate rights --format kafka > deploy/rights/kafka-acls.sh
	$(BIN)/sluicegate rights --format strimzi > deploy/rights/kafka-users.yaml
	$(BIN)/sluicegate rights --format redis > deploy/rights/redis-users.acl

sbom: ## write sbom.json, what the lock installs, as CycloneDX
	$(PYTHON) requirements/sbom.py requirements/runtime.lock > sbom.json

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
