# Everything a person or CI runs here. `make` alone lists it.
# The environment in .venv comes from requirements/dev.txt (pinned and hashed) and brings Python packages, Node and Go.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

BIN := .venv/bin
# Programs that these recipes start (npx, go, uvx) are found in the environment first.
export PATH := $(CURDIR)/$(BIN):$(PATH)
# What is expensive to make and keyed by version (npm packages, compiled programs) outlives the work tree here.
export OUTRIGGER_CACHE ?= $(HOME)/.cache/outrigger
# The Go of the environment, never one that it would fetch.
export GOTOOLCHAIN := local
# Extra arguments of pytest: make test ARGS='-k pool -x'
ARGS ?=
# Which tests against a cluster: api, node, all
GROUP ?= all
# Tests that run at once: make test JOBS=3 halves the time, and those that measure time feel each other.
JOBS ?= 1
# The files of group node each build on what their first test made, and the first file wants an empty cluster.
DIST := $(if $(filter node,$(GROUP)),loadfile --no-loadscope-reorder,worksteal)
PYTEST := $(BIN)/python -m pytest $(if $(filter-out 1,$(JOBS)),-n $(JOBS) --dist $(DIST))

.PHONY: help
help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: venv
venv: ## Make .venv with everything from the lock (PYTHON=python3.13 chooses the interpreter)
	@scripts/environment.sh .venv requirements/dev.txt --project

.PHONY: demo
demo: venv ## Two minutes: a real server behind the sidecar, killed and recovered
	@$(BIN)/python examples/demo.py

.PHONY: test
test: venv ## Every test that needs no cluster: unit, integration, conformance, chaos
	@$(PYTEST) $(ARGS)

.PHONY: test-cluster
test-cluster: venv ## The tests against a real Kubernetes, built first (15 minutes): GROUP=api has no nodes, GROUP=node is as root
	@$(PYTEST) tests/cluster$(if $(filter-out all,$(GROUP)),/$(GROUP)) $(ARGS)

.PHONY: test-unit
test-unit: venv ## The quick tests only
	@$(PYTEST) -q tests/unit $(ARGS)

.PHONY: lint
lint: venv ## ruff, mypy, import contracts, gofmt and vet, generated files up to date
	@$(BIN)/ruff check --no-cache .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@bad=$$("$$($(BIN)/go env GOROOT)/bin/gofmt" -l $$(git ls-files '*.go')); [ -z "$$bad" ] || { echo "not as gofmt has it: $$bad"; exit 1; }
	@# A module without a file of Go (tests/cluster/kubernetes) only names programs to build: vet would find no package.
	@# For the few lines of tests/cluster/addons it would first compile all that CoreDNS is made of.
	@for module in $$(git ls-files '*go.mod' ':!tests/cluster/addons'); do \
	  folder=$$(dirname "$$module"); [ -z "$$(git ls-files "$$folder/*.go")" ] || (cd "$$folder" && $(CURDIR)/$(BIN)/go vet ./...); \
	done
	@$(BIN)/python scripts/generate.py --check

.PHONY: format
format: venv ## Format the code and mend what ruff can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@"$$($(BIN)/go env GOROOT)/bin/gofmt" -w $$(git ls-files '*.go')

.PHONY: generate
generate: venv ## Write the files that are generated from the code
	@$(BIN)/python scripts/generate.py

.PHONY: dashboards-preview
dashboards-preview: venv ## Draw the dashboards with real data to docs/images (root, Debian's prometheus and chromium; 6 minutes)
	@PYTHONPATH=tests:. $(BIN)/python -m dashboard_preview $(ARGS)

.PHONY: lock
lock: venv ## Pin the dependencies anew (UPGRADE=1 takes the newest)
	@scripts/lock.sh $(if $(UPGRADE),--upgrade)

.PHONY: bench
bench: venv ## Measure the sidecar beside its peers (PyPI, npm)
	@$(BIN)/python -m bench $(ARGS)

.PHONY: bench-peers
bench-peers: venv ## As bench, with the peers that are built here with Go and Rust
	@$(BIN)/python -m bench --built-peers $(ARGS)

.PHONY: bridge
bridge: venv ## Compile the bridge for amd64 and arm64 into dist/bridge
	@$(BIN)/python -m images.bridge

.PHONY: image
image: venv ## Make the container images as archives in dist/images, without Docker
	@$(BIN)/python -m images

.PHONY: chart
chart: venv ## Package the Helm chart into dist/chart
	@"$$(PYTHONPATH=tests $(BIN)/python -m chart.tools helm)" package charts/outrigger --destination dist/chart

.PHONY: clean
clean: ## Remove what was built here (not OUTRIGGER_CACHE)
	@rm -rf .venv .cache dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
