#!/usr/bin/env bash
# Writes the hash-locked requirement files from pyproject.toml: one per image, one for development, one for TRL.
set -euo pipefail
cd "$(dirname "$0")/.."
compile() {
  local out=$1
  shift
  uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
    --no-annotate --output-file "$out" "$@"
}
compile operator/requirements.lock --extra operator
compile trainer_image/requirements.lock --extra trainer --extra tpu
compile tests/requirements.lock --extra operator --extra trainer --extra tpu --group lint --group test --group torch \
  --constraint trainer_image/requirements.lock --constraint operator/requirements.lock
compile tests/parity/requirements.lock --group trl --constraint tests/requirements.lock
