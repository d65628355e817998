"""Compiled programs in the output, or in the folder that jobs share: a later attempt loads what an earlier one compiled."""

import hashlib
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax

from dpojob_api.constants import OUTPUT_COMPILE_CACHE
from dpojob_api.slice_spec import Platform
from dpojob_trainer.store import OutputStore

log = logging.getLogger(__name__)

CPU_INFO = Path("/proc/cpuinfo")
SHARED = "JAX_COMPILATION_CACHE_DIR"
TRANSFERS = 8
# What JAX calls a program that it keeps.
PROGRAM = "-cache"


class CompileCache:
    """JAX's folder of programs, which it needs on a file system; beside GCS a local copy of it.

    JAX's key holds the program, its options, XLA_FLAGS and the versions of jax and libtpu. It lacks the CPU's model, so
    programs for CPU lie in a folder of that model. The folder that JAX's own variable names has priority.

    Args:
        place: the store that keeps the programs.
        out: the job's output, whose fence decides whether this attempt may write.
        platform: what the programs run on.
        workdir: this process's own folder, for the local copy.
    """

    def __init__(self, place: OutputStore, out: OutputStore, platform: Platform, workdir: Path) -> None:
        kind = "tpu" if platform is Platform.TPU else f"cpu-{cpu_model(CPU_INFO.read_text())}"
        self._place, self._out, self._path = place, out, f"{OUTPUT_COMPILE_CACHE}/{kind}"
        shared = shared_root()
        self._remote = shared is None and place.folder is None
        self.folder = shared / kind if shared else (place.folder or workdir) / self._path
        self._there: set[str] = set()

    def enable(self) -> None:
        """Let JAX use the programs that are there and keep all that it compiles, however quickly.

        Raises:
            TrainerError: OutputUnwritable if the store does not answer.
        """
        if self._remote:
            self._pull()
        log.info("compiled programs are kept in %s", self.folder)
        jax.config.update("jax_compilation_cache_dir", str(self.folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        # These caches for GPU put the folder's name into the key, and each attempt's local copy has another one.
        jax.config.update("jax_persistent_cache_enable_xla_caches", "none")

    def push(self) -> None:
        """Copy new programs to the store, if JAX cannot write there itself; only process 0 of a run has any.

        Raises:
            TrainerError: Fenced or OutputUnwritable.
        """
        if not self._remote:
            return
        new = sorted({path.name for path in self.folder.glob(f"*{PROGRAM}")} - self._there)
        if not new:
            return
        self._out.check_fence()
        with ThreadPoolExecutor(TRANSFERS) as pool:
            for done in [pool.submit(self._push_one, name) for name in new]:
                done.result()
        self._there |= set(new)

    def _pull(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._there = {name for name in self._place.list(self._path) if name.endswith(PROGRAM)}
        with ThreadPoolExecutor(TRANSFERS) as pool:
            for done in [pool.submit(self._pull_one, name) for name in sorted(self._there)]:
                done.result()

    def _push_one(self, name: str) -> None:
        self._place.write_bytes(f"{self._path}/{name}", (self.folder / name).read_bytes())

    def _pull_one(self, name: str) -> None:
        if not (self.folder / name).exists():
            (self.folder / name).write_bytes(self._place.read_bytes(f"{self._path}/{name}"))


def shared_root() -> Path | None:
    """Return the folder that several jobs share (`runtime.env`), None if there is none."""
    name = os.environ.get(SHARED)
    return Path(name) if name else None


def cpu_model(cpu_info: str) -> str:
    """Return a short digest of the instruction sets that ``/proc/cpuinfo`` names."""
    flags = next((line for line in cpu_info.splitlines() if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(" ".join(sorted(flags.split())).encode()).hexdigest()[:12]
