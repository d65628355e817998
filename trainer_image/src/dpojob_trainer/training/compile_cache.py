"""Compiled programs in the output store: a later attempt loads what an earlier one compiled."""

import hashlib
import logging
import os
from pathlib import Path

import jax

from dpojob_api.constants import OUTPUT_COMPILE_CACHE
from dpojob_api.slice_spec import Platform

log = logging.getLogger(__name__)

CPU_INFO = Path("/proc/cpuinfo")
SHARED = "JAX_COMPILATION_CACHE_DIR"


def enable(output: Path | None, platform: Platform) -> None:
    """Let JAX keep its programs under the output's folder, or under the one that JAX's own variable names.

    JAX's key holds the program, its options and the versions of jax and libtpu. It lacks the CPU's model, so programs
    for CPU lie in a folder of that model. JAX needs a mounted folder; with ``gs://`` outputs every attempt compiles.
    """
    root = shared_root() or (output / OUTPUT_COMPILE_CACHE if output else None)
    if root is None:
        return
    kind = "tpu" if platform is Platform.TPU else f"cpu-{cpu_model(CPU_INFO.read_text())}"
    folder = root / kind
    log.info("compiled programs are kept in %s", folder)
    jax.config.update("jax_compilation_cache_dir", str(folder))


def shared_root() -> Path | None:
    """Return the folder that several jobs share (`runtime.env`), None if there is none."""
    name = os.environ.get(SHARED)
    return Path(name) if name else None


def cpu_model(cpu_info: str) -> str:
    """Return a short digest of the instruction sets that ``/proc/cpuinfo`` names."""
    flags = next((line for line in cpu_info.splitlines() if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(" ".join(sorted(flags.split())).encode()).hexdigest()[:12]
