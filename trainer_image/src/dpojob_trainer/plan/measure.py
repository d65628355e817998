"""Compiles a program for devices that are not there, and keeps what the compiler said about it."""

import hashlib
import json
import os
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dpojob_trainer.plan.flops import arithmetic
from dpojob_trainer.plan.hlo import work_of
from dpojob_trainer.plan.measured import Measured, TooLarge, refusal
from dpojob_trainer.training.planned import fingerprint

CACHE = "DPOJOB_PLAN_CACHE"
# Changes with what a file of the cache says.
FORMAT = 2


def measure(
    traced: Any, lowered: Any, devices: list[Any], options: dict[str, str] | None = None
) -> Measured | TooLarge:
    """Compile a traced program for its devices and return what it takes; an equal one was compiled only once.

    Args:
        traced: the program.
        lowered: the same, lowered.
        devices: those of the slice.
        options: of the compiler, by the names of `runtime.xlaFlags`.

    Raises:
        jax.errors.JaxRuntimeError: the compiler fails for another reason than memory.
    """
    file = _file(fingerprint(lowered), devices, options or {})
    found = _kept(file)
    if found is None:
        found = _compile(lowered, traced, options or {})
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps({type(found).__name__: asdict(found)}))
        partial.rename(file)
    return found


def _compile(lowered: Any, traced: Any, options: dict[str, str]) -> Measured | TooLarge:
    from jax.errors import JaxRuntimeError

    try:
        compiled = lowered.compile(compiler_options=dict(options) or None)
    except JaxRuntimeError as error:
        if found := refusal(str(error)):
            return found
        raise
    stats, work, counted = (
        compiled.memory_analysis(),
        work_of(compiled.as_text()),
        arithmetic(traced.jaxpr.jaxpr),
    )
    return Measured(
        arguments=stats.argument_size_in_bytes,
        outputs=stats.output_size_in_bytes,
        aliased=stats.alias_size_in_bytes,
        temporaries=stats.temp_size_in_bytes,
        code=stats.generated_code_size_in_bytes,
        cycles=work.cycles,
        blocking=sum(work.blocking.values()),
        hidden=sum(work.hidden.values()),
        products=counted.products,
        kernels=counted.kernels,
    )


def _file(digest: str, devices: list[Any], options: dict[str, str]) -> Path:
    """Return where what the compiler said about a program is kept: by program, devices, versions and options."""
    kept = os.environ.get(CACHE) or Path.home() / ".cache" / "dpojob" / "plan"
    last = devices[-1]
    # Shardings in the program's text name devices by number alone.
    parts = [
        digest,
        last.device_kind,
        str(getattr(last, "coords", None)),
        str(last.process_index),
        str(len(devices)),
    ]
    parts += [version("jaxlib"), version("libtpu"), os.environ.get("LIBTPU_INIT_ARGS", ""), str(FORMAT)]
    parts += [f"{name}={value}" for name, value in sorted(options.items())]
    return Path(kept) / f"{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:32]}.json"


def _kept(file: Path) -> Measured | TooLarge | None:
    """Return what a file of the cache says; None if there is none that can be read."""
    kinds: dict[str, Any] = {"Measured": Measured, "TooLarge": TooLarge}
    try:
        ((name, values),) = json.loads(file.read_text()).items()
        found: Measured | TooLarge = kinds[name](**values)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found
