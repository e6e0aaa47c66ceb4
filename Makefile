# All commands of a contributor. `make` alone lists the targets. CI (.ci/run) runs `make ci`, which
# names the targets that it runs. Paths are relative and quoted, so that a checkout may be in a
# directory with a space. Nothing is installed outside the checkout.

PYTHON ?= python3
TESTS ?=
PYTEST_WORKERS ?= 3
POSTGRES_BIN ?= /usr/lib/postgresql/15/bin
FIRST_USER ?= demo@example.com

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

PY := .venv/bin/python
STAMP := .venv/.installed
# A process keeps tests of one module together, so that their fixtures are made once.
PYTEST = $(PY) -m pytest -n $(PYTEST_WORKERS) --dist worksteal \
	$(if $(COVERAGE),--cov=auth_service --cov-branch --cov-report=term) $(TESTS)

.PHONY: help
help: ## List the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z0-9-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' Makefile

.PHONY: install
install: $(STAMP) ## Create .venv with the locked dependencies and this project (editable)

.PHONY: run
run: $(STAMP) ## Start a development server on an embedded PostgreSQL
	@$(PY) -m auth_service serve --dev

.PHONY: test
test: $(STAMP) ## Run the tests (TESTS=path for some, COVERAGE=1 with branch coverage)
	@$(PYTEST)

.PHONY: test-postgres-15
test-postgres-15: COVERAGE ?= 1
test-postgres-15: $(STAMP) ## Run them on PostgreSQL 15 (Debian's postgresql-15; POSTGRES_BIN=its binaries), with coverage
	@"$(POSTGRES_BIN)/postgres" --version
	@AUTH_TEST_POSTGRES_BIN="$(POSTGRES_BIN)" $(PYTEST)

.PHONY: check
check: lint types imports protos generated ## Run every static check (lint, types, imports, protos, generated code)

.PHONY: ci
ci: test check compat test-postgres-15 interop ## Run everything that CI runs
	@$(MAKE) --no-print-directory chaos SHORT=1

.PHONY: lint
lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

.PHONY: types
types: $(STAMP)
	$(PY) -m mypy

.PHONY: imports
imports: $(STAMP)
	.venv/bin/lint-imports --no-cache

.PHONY: protos
protos: $(STAMP)
	mkdir -p .tools && bash .ci/image protos .tools/protos.binpb
	.venv/bin/buf lint .tools/protos.binpb --config protos/buf.yaml
	bash .ci/buf-breaking

.PHONY: generated
generated: $(STAMP)
	bash .ci/generated-is-current

.PHONY: generate
generate: $(STAMP) ## Regenerate generated/ from protos/
	@bash .ci/generate generated

.PHONY: format
format: $(STAMP) ## Apply the formatter and the safe lint fixes
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

.PHONY: bench
bench: $(STAMP) ## Run the benchmarks (BENCH=name for one, WRITE=1 to update docs/benchmarks)
	@$(PY) -m benchmarks $(if $(WRITE),--write) $(BENCH)

.PHONY: chaos
chaos: $(STAMP) ## Break everything around a running service (SHORT=1 for a few minutes, BY_HAND=1 in full, CHAOS=name for one, WRITE=1 for docs/reliability.md)
	@$(if $(SHORT),,bash tests/chaos/install.sh)
	@GRPC_VERBOSITY=NONE $(PY) -m tests.chaos $(if $(SHORT),--short) $(if $(BY_HAND),--by-hand) $(if $(WRITE),--write) $(CHAOS)

.PHONY: compat
compat: $(STAMP) ## Run the client's tests beside old and new versions of grpcio, protobuf and others
	@$(PY) -m tests.compat

.PHONY: interop
interop: $(STAMP) ## Test a running server with real clients, Envoy, nginx and Chromium
	@bash tests/interop/run.sh

.PHONY: user-password
user-password: $(STAMP) ## Set a new password for the first user (FIRST_USER=name)
	@$(PY) -m auth_service users set-password "$(FIRST_USER)"

.PHONY: lock
lock: ## Resolve requirements.lock again (UPGRADE=1 for the newest versions)
	@bash .ci/lock $(if $(UPGRADE),--upgrade)

.PHONY: clean
clean: ## Remove the environment, caches and build output; keeps data
	@rm -rf .venv .tools .interop build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage .coverage.* htmlcov
	@find auth_service tests generated benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

$(STAMP): requirements.lock pyproject.toml
	@PYTHON="$(PYTHON)" bash .ci/install
