# Every command sets itself up: a virtual environment in $(VENV), made once and again when the lock changes.
# DLCLOUD_VENV puts it elsewhere, PYTHON chooses the interpreter (3.11 or newer), PIP_FIND_LINKS offers wheels of your own
# (for example a CPU build of torch 2.13.0: 1 GB installed instead of 5.6 GB). `make rig` builds the Kubernetes control plane of
# the tests, once for all checkouts. WORKERS: how many integration tests run at a time.

PYTHON ?= python3
VENV := $(abspath $(or $(DLCLOUD_VENV),.venv))
BIN := $(VENV)/bin
PY := $(BIN)/python
STAMP := $(VENV)/.dlcloud-$(shell cat pyproject.toml requirements.lock | cksum | cut -d' ' -f1)-$(shell pwd | cksum | cut -d' ' -f1)
SOURCES := operator cli trainer tests benchmarks manifests images
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup demo rig cluster-up cluster-down cluster-status cluster-logs test test-unit test-integration test-minio test-slow e2e e2e-full lint format crd contract benchmarks benchmarks-cluster images clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

setup: $(STAMP) ## make the virtual environment (part of every other command)

$(STAMP):
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: install python3 and python3-venv (3.11 or newer), or give PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is $$($(PYTHON) -V): 3.11 or newer is needed; give PYTHON=python3.11"; exit 1; }
	@echo "setting up $(VENV) (once; about 1 GB with a CPU build of torch, 5.6 GB with the default one)"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "python3-venv is missing: apt install python3-venv"; exit 1; }
	@$(PY) -m pip install --disable-pip-version-check -c requirements.lock -e '.[dev]'
	@rm -f $(VENV)/.dlcloud-*; touch $@

demo: $(STAMP) ## train a CNN with two workers, kill one on the way, see it go on
	@$(PY) -m dlcloud.demo

test: lint test-unit test-integration ## lint, types, unit and integration tests

rig: $(STAMP) ## build the Kubernetes control plane of the tests, once (10 minutes on 2 cores)
	@$(PY) -m tests.rig build

cluster-up: $(STAMP) ## make a real Kubernetes cluster of three nodes (tests/cluster/README.md), or bring it up to date
	@$(PY) -m tests.cluster up

cluster-down: $(STAMP) ## delete it
	@$(PY) -m tests.cluster down

cluster-status: $(STAMP) ## its nodes, memory and images
	@$(PY) -m tests.cluster status

cluster-logs: $(STAMP) ## collect the logs of its nodes and pods
	@$(PY) -m tests.cluster logs

test-unit: $(STAMP) ## seconds
	$(PY) -m pytest tests/unit -q

test-integration: rig ## real processes, a real S3 server, a real Kubernetes API server
	$(PY) -m pytest tests/integration -q -m "not slow and not alone" -n $(WORKERS)
	$(PY) -m pytest tests/integration -q -m "not slow and alone"

test-minio: rig ## the tests that use an S3 server on a real MinIO (built from source the first time: minutes)
	@tests/servers/build_minio.sh
	TEST_STORE=minio $(PY) -m pytest tests/integration -q -m "s3 and not slow"

test-slow: rig ## the long forms of the tests, which the others leave out
	$(PY) -m pytest tests -q -m slow

# The second is run also when the first has failed.
both = status=0; $(1) || status=1; $(2) || status=1; exit $$status

# What disturbs everybody (killed nodes, operators, stores) runs after all others, one at a time.
e2e: cluster-up ## end to end on a real cluster, or on KUBECONFIG's: the quick half (20 minutes)
	$(call both,$(PY) -m pytest tests/e2e -q -m "not full and not alone" -n $(WORKERS) --dist loadfile,$(PY) -m pytest tests/e2e -q -m "not full and alone")

e2e-full: cluster-up ## all of it (45 minutes)
	$(call both,$(PY) -m pytest tests/e2e -q -m "not alone" -n $(WORKERS) --dist loadfile,$(PY) -m pytest tests/e2e -q -m alone)

lint: $(STAMP) ## ruff, mypy --strict, generated files up to date, helm lint where helm is there
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(PY) -m dlcloud_operator.api.crd --check
	$(PY) -m dlcloud_operator.api.docs --check
	$(PY) -m dlcloud_trainer.contract --check operator/dlcloud_operator/api/parameters.json
	@if helm=$$($(PY) -m tests.rig which helm); then $$helm lint charts/; \
	else echo "helm lint: skipped, there is no helm: make rig builds one, or put it on the PATH (https://helm.sh)"; fi

format: $(STAMP) ## put the code in shape
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

contract: $(STAMP) ## write the workloads' parameters into the API package (then make crd)
	$(PY) -m dlcloud_trainer.contract --out operator/dlcloud_operator/api/parameters.json

crd: $(STAMP) ## write the CRD into the chart, and docs/api.md
	$(PY) -m dlcloud_operator.api.crd
	$(PY) -m dlcloud_operator.api.docs

benchmarks: rig ## print every figure beside its peer's (about 45 minutes)
	$(PY) -m benchmarks.startup
	$(PY) -m benchmarks.recovery
	$(PY) -m benchmarks.checkpoint
	$(PY) -m benchmarks.throughput
	$(PY) -m benchmarks.accuracy
	$(PY) -m benchmarks.control_plane

benchmarks-cluster: cluster-up ## the same on a real cluster, beside Kubeflow's training operator (about 40 minutes)
	$(PY) -m benchmarks.cluster

images: ## build the operator's and the trainer's image with docker or podman (docs/images.md)
	@images/build.sh

clean: ## remove what the commands made here
	rm -rf .venv .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
