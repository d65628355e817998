"""What could make a job that fits faster, in the order of what it usually brings. Pure: configurations in and out.

The search goes along one axis after the other and keeps what is faster (:mod:`tune`). A step's seconds are a model, but the
same one for all, so what it ranks matters more than what it says.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any

from pydantic.alias_generators import to_camel

from dpojob_api.accelerator import chips
from dpojob_api.mesh import AXES, resolve_mesh
from dpojob_api.spec import GradientCheckpointing
from dpojob_trainer.plan.fixes import Fix
from dpojob_trainer.plan.guess import step_bytes
from dpojob_trainer.plan.lengths import Epoch

# All collectives beside the products, within their programs; MaxText's choice for v5.
ASYNCHRONOUS = {
    "xla_tpu_enable_async_collective_fusion": "true",
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather": "true",
    "xla_tpu_enable_async_collective_fusion_multiple_steps": "true",
    "xla_tpu_overlap_compute_collective_tc": "true",
}
FLAGS: tuple[dict[str, str], ...] = (
    ASYNCHRONOUS,
    {"xla_tpu_scoped_vmem_limit_kib": "65536"},
    # Loops of partial products instead of gathered weights, the other way than the default.
    {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "0"},
)
# Ascending in what is kept, and so in bytes, and descending in what is computed twice.
POLICIES = (
    GradientCheckpointing.NOTHING_SAVEABLE,
    GradientCheckpointing.CHECKPOINT_DOTS_WITH_NO_BATCH_DIMS,
    GradientCheckpointing.CHECKPOINT_DOTS,
    GradientCheckpointing.NONE,
)
# What a rough count of bytes may be above what is there and still be worth a compilation.
ROUGH = 1.25
LARGEST_TP = 4
LARGEST_ACCUMULATION = 4
BUCKETS = (8, 16)
# A gain below this is within what the model of a step's time cannot tell.
LEAST_GAIN = 0.01

Moves = Callable[[Fix, dict[str, Any], Epoch], Iterator[Fix]]


def meshes(best: Fix, settings: dict[str, Any], _: Epoch) -> Iterator[Fix]:
    """Yield fsdp on all chips, then with a part of them for tensor parallelism."""
    plan, training = best.config.plan, best.config.training
    micro_batch = training.global_batch_size // training.gradient_accumulation_steps
    keys = int(settings.get("num_key_value_heads") or settings["num_attention_heads"])
    for tp in (2**power for power in range(LARGEST_TP.bit_length())):
        fsdp, rest = divmod(plan.chips, tp)
        mesh = {"dp": 1, "fsdp": fsdp, "ep": 1, "tp": tp, "sp": 1}
        if rest or keys % tp or micro_batch % fsdp or mesh == plan.mesh.model_dump():
            continue
        changed = plan.model_copy(update={"mesh": resolve_mesh(mesh, plan.chips)})
        yield Fix(
            best.changes | {f"spec.mesh.{axis}": mesh[axis] for axis in AXES},
            best.config.model_copy(update={"plan": changed}),
        )


def flags(best: Fix, _: dict[str, Any], __: Epoch) -> Iterator[Fix]:
    """Yield the compiler's options, each group on top of what is there."""
    for group in FLAGS:
        if not group.items() <= best.config.xla_flags.items():
            yield Fix(
                best.changes | {f"spec.runtime.xlaFlags.{name}": value for name, value in group.items()},
                best.config.model_copy(update={"xla_flags": best.config.xla_flags | group}),
            )


def policies(best: Fix, _: dict[str, Any], __: Epoch) -> Iterator[Fix]:
    """Yield the policies that recompute less, the leanest first."""
    at = POLICIES.index(best.config.gradient_checkpointing)
    for policy in POLICIES[at + 1 :]:
        yield Fix(
            best.changes | {"spec.gradientCheckpointing": policy.value},
            best.config.model_copy(update={"gradient_checkpointing": policy}),
        )


def short_batches(field: str, best: Fix, settings: dict[str, Any], epoch: Epoch) -> Iterator[Fix]:
    """Yield a policy for short batches alone, from the longest length that may have room for what it keeps.

    Args:
        field: of `spec.shortGradientCheckpointing`.
        best: what to change.
        settings: the model's config.json.
        epoch: of that configuration.
    """
    short = best.config.short_gradient_checkpointing
    usable = chips()[best.config.generation].usable_hbm_bytes
    for shape in reversed(epoch.shapes[:-1]):
        changed = short.model_copy(update={field: shape.sequence})
        config = best.config.model_copy(update={"short_gradient_checkpointing": changed})
        if getattr(short, field) < shape.sequence and step_bytes(config, settings, shape) <= ROUGH * usable:
            yield Fix(
                best.changes | {f"spec.shortGradientCheckpointing.{to_camel(field)}": shape.sequence}, config
            )


def accumulations(best: Fix, _: dict[str, Any], __: Epoch) -> Iterator[Fix]:
    """Yield other numbers of micro-batches, the fewest first."""
    training, shards = best.config.training, best.config.plan.mesh.data_shards
    for steps in (2**power for power in range(LARGEST_ACCUMULATION.bit_length())):
        if steps == training.gradient_accumulation_steps or training.global_batch_size % (steps * shards):
            continue
        changed = training.model_copy(update={"gradient_accumulation_steps": steps})
        yield Fix(
            best.changes | {"spec.training.gradientAccumulationSteps": steps},
            best.config.model_copy(update={"training": changed}),
        )


def buckets(best: Fix, _: dict[str, Any], epoch: Epoch) -> Iterator[Fix]:
    """Yield more static lengths, if the pairs' own are known."""
    training = best.config.training
    for number in BUCKETS if epoch.pairs else ():
        if number > training.length_buckets:
            yield Fix(
                best.changes | {"spec.training.lengthBuckets": number},
                best.config.model_copy(
                    update={"training": training.model_copy(update={"length_buckets": number})}
                ),
            )


# Other lengths leave the longest step, which is compiled, as it is. Of the rest the first two bring most; what a policy keeps must
# fit beside what they take.
AXES_OF_SEARCH: tuple[tuple[str, Moves], ...] = (
    ("lengths", buckets),
    ("mesh", meshes),
    ("flags", flags),
    ("recomputation", policies),
    # What keeps less first: it fits for longer ones.
    ("short batches", partial(short_batches, "checkpoint_dots")),
    ("shorter batches", partial(short_batches, "none")),
    ("micro-batches", accumulations),
)


@dataclass(frozen=True)
class Trial:
    """A configuration that was compiled.

    Attributes:
        axis: what was changed last.
        fix: all changes so far.
        fits: whether it does.
        needed: bytes of one chip.
        seconds: of a step on average, None if it was not compiled.
        utilisation: MFU on tokens without padding.
        kept: whether the search went on from it.
    """

    axis: str
    fix: Fix
    fits: bool
    needed: float
    seconds: float | None
    utilisation: float | None
    kept: bool = False


def better(trial: Trial, best: float) -> bool:
    """Whether a trial fits and is faster by more than the model's noise."""
    return trial.fits and trial.seconds is not None and trial.seconds < best * (1 - LEAST_GAIN)


def fastest(trials: Sequence[Trial]) -> Trial | None:
    """Return the last trial that was kept: each one kept is faster than those before."""
    return next((trial for trial in reversed(trials) if trial.kept), None)


def best_seconds(trials: Sequence[Trial]) -> float:
    """Return the seconds to beat."""
    found = fastest(trials)
    return inf if found is None or found.seconds is None else found.seconds


def merge_patch(changes: dict[str, str | int]) -> dict[str, Any]:
    """Return changes as a JSON merge patch of the manifest."""
    patch: dict[str, Any] = {}
    for field, value in changes.items():
        *parents, last = field.split(".")
        at = patch
        for parent in parents:
            at = at.setdefault(parent, {})
        at[last] = value
    return patch
