SHELL := /bin/bash
.DEFAULT_GOAL := help
PY := .venv/bin/python
UV_VERSION := 0.11.0
UV := .tools/bin/uv
export PYTHONDONTWRITEBYTECODE := 1

help: ## List every target
	@grep -hE '^[a-z0-9_-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F':.*## ' '{printf "  %-18s %s\n", $$1, $$2}'

$(UV):
	@python3 -m venv .tools && .tools/bin/pip install -q --disable-pip-version-check uv==$(UV_VERSION)

.venv/.stamp: tests/requirements.lock pyproject.toml | $(UV)
	@test -x $(PY) || $(UV) venv -q --python python3.11 .venv
	@$(UV) pip sync -q --python $(PY) --require-hashes tests/requirements.lock
	@printf '%s\n' "$(CURDIR)/operator/src" "$(CURDIR)/trainer_image/src" > $$($(PY) -c 'import site; print(site.getsitepackages()[0])')/dpojob.pth
	@touch $@

venv: .venv/.stamp ## Create the development environment from its lock

lock: | $(UV) ## Resolve the requirement files again from pyproject.toml
	@PATH="$(CURDIR)/.tools/bin:$$PATH" hack/lock.sh

-include hack/cluster/cluster.mk
.PHONY: help venv lock
