"""What could make a job fit, smallest change first. Pure: configurations in, configurations out."""

from collections.abc import Iterator
from dataclasses import dataclass

from dpojob_api.accelerator import SliceShape, shapes
from dpojob_api.mesh import resolve_mesh
from dpojob_api.spec import DType, GradientCheckpointing, ReferenceLogProbs
from dpojob_api.trainer_config import TrainerConfig

# A slice of more chips than this many times the job's own is another job.
LARGEST_GROWTH = 4


@dataclass(frozen=True)
class Fix:
    """A changed configuration.

    Attributes:
        changes: field of the manifest to its new value.
        config: the whole configuration.
    """

    changes: dict[str, str | int]
    config: TrainerConfig


def words_of(changes: dict[str, str | int]) -> str:
    """Write changes as in a manifest."""
    return ", ".join(f"{field}: {value}" for field, value in changes.items())


def candidates(config: TrainerConfig) -> Iterator[Fix]:
    """Yield what to try, each on top of the cheaper ones that always help; what is likely to be enough comes first.

    Weights divided over chips that would each hold all of them, and a reference computed ahead of training, cost next to
    nothing; short batches that keep no more than others cost less than recomputing all activations, which costs a third of
    the speed and nothing else. Where sequences are divided over chips, giving those chips whole sequences comes with it: the
    attention kernel is not divided along sp (docs/plan.md). Then come recomputing alone, smaller micro-batches, parameters
    of half the size, and larger slices of the same generation.
    """
    divided = _divided(Fix({}, config))
    if divided.changes:
        yield divided
    alone = _without_reference(divided)
    if alone is not divided:
        yield alone
    if _alike(alone) is not alone:
        yield _alike(alone)
    recomputed = _recomputed(alone)
    unsplit = _unsplit(recomputed)
    if unsplit:
        yield unsplit
    if recomputed is not alone:
        yield recomputed
    smaller = [*_accumulated(unsplit or recomputed)]
    yield from smaller
    if config.precision.params is DType.FLOAT32:
        yield _halved(smaller[-1] if smaller else recomputed)
    yield from _larger(recomputed)


def _divided(fix: Fix) -> Fix:
    """Return the mesh with dp given to fsdp, but for one part per slice: weights do not travel between slices."""
    plan = fix.config.plan
    replicas = plan.mesh.dp // plan.slices
    if replicas < 2 or plan.mesh.dp % plan.slices:
        return fix
    mesh = plan.mesh.model_copy(update={"dp": plan.slices, "fsdp": plan.mesh.fsdp * replicas})
    changes = fix.changes | {"spec.mesh.dp": mesh.dp, "spec.mesh.fsdp": mesh.fsdp}
    return Fix(changes, fix.config.model_copy(update={"plan": plan.model_copy(update={"mesh": mesh})}))


def _without_reference(fix: Fix) -> Fix:
    dpo = fix.config.dpo
    if not dpo.live_reference:
        return fix
    ahead = ReferenceLogProbs.PRECOMPUTED
    changed = fix.config.model_copy(update={"dpo": dpo.model_copy(update={"reference_log_probs": ahead})})
    return Fix(fix.changes | {"spec.dpo.referenceLogProbs": ahead.value}, changed)


def _recomputed(fix: Fix) -> Fix:
    wanted = GradientCheckpointing.NOTHING_SAVEABLE
    fix = _alike(fix)
    if fix.config.gradient_checkpointing is wanted:
        return fix
    changed = fix.config.model_copy(update={"gradient_checkpointing": wanted})
    return Fix(fix.changes | {"spec.gradientCheckpointing": wanted.value}, changed)


def _alike(fix: Fix) -> Fix:
    """Return short batches that keep no more than the others do."""
    short = fix.config.short_gradient_checkpointing
    given = short.model_dump(by_alias=True, exclude_defaults=True)
    if not given:
        return fix
    changes: dict[str, str | int] = {f"spec.shortGradientCheckpointing.{field}": 0 for field in given}
    return Fix(
        fix.changes | changes,
        fix.config.model_copy(update={"short_gradient_checkpointing": type(short)()}),
    )


def _accumulated(fix: Fix) -> Iterator[Fix]:
    """Yield doubled numbers of micro-batches as long as every data shard has a pair of each."""
    training, shards = fix.config.training, fix.config.plan.mesh.data_shards
    count = training.gradient_accumulation_steps * 2
    while training.global_batch_size % (count * shards) == 0:
        changed = training.model_copy(update={"gradient_accumulation_steps": count})
        yield Fix(
            fix.changes | {"spec.training.gradientAccumulationSteps": count},
            fix.config.model_copy(update={"training": changed}),
        )
        count *= 2


def _unsplit(fix: Fix) -> Fix | None:
    """Return the mesh with its sequence axis given to fsdp, if the batch can be divided so."""
    mesh, training = fix.config.plan.mesh, fix.config.training
    fsdp = mesh.fsdp * mesh.sp
    micro_batch = training.global_batch_size // training.gradient_accumulation_steps
    if mesh.sp == 1 or micro_batch % (mesh.dp * fsdp):
        return None
    plan = fix.config.plan.model_copy(update={"mesh": mesh.model_copy(update={"fsdp": fsdp, "sp": 1})})
    changes = fix.changes | {"spec.mesh.fsdp": fsdp, "spec.mesh.sp": 1}
    return Fix(changes, fix.config.model_copy(update={"plan": plan}))


def _halved(fix: Fix) -> Fix:
    precision = fix.config.precision.model_copy(update={"params": DType.BFLOAT16})
    return Fix(
        fix.changes | {"spec.precision.params": DType.BFLOAT16.value},
        fix.config.model_copy(update={"precision": precision}),
    )


def _larger(fix: Fix) -> Iterator[Fix]:
    """Yield larger slices of the generation, ascending, whose fsdp axis takes what is new and divides the batch."""
    plan, training = fix.config.plan, fix.config.training
    own = plan.chips // plan.slices
    micro_batch = training.global_batch_size // training.gradient_accumulation_steps
    axes = dict(zip(type(plan.mesh).model_fields, plan.mesh.dims(), strict=True))
    for shape in _defaults(fix.config.generation):
        grown = shape.chips // own
        fits = shape.chips % own == 0 and 1 < grown <= LARGEST_GROWTH
        if fits and micro_batch % (plan.mesh.data_shards * grown) == 0:
            mesh = resolve_mesh(axes | {"fsdp": plan.mesh.fsdp * grown}, shape.chips * plan.slices)
            yield _on(fix, shape, {"mesh": mesh})


def _on(fix: Fix, shape: SliceShape, update: dict[str, object]) -> Fix:
    plan = fix.config.plan
    changed = plan.model_copy(
        update=update
        | {
            "accelerator_type": shape.accelerator_type,
            "topology": shape.topology,
            "chips": shape.chips * plan.slices,
            "hosts": shape.hosts * plan.slices,
            "chips_per_host": shape.chips_per_host,
        }
    )
    changes: dict[str, str | int] = {
        "spec.accelerator.type": shape.accelerator_type,
        "spec.accelerator.topology": shape.topology,
        "spec.mesh.fsdp": changed.mesh.fsdp,
    }
    return Fix(fix.changes | changes, fix.config.model_copy(update={"plan": changed}))


def _defaults(generation: str) -> list[SliceShape]:
    """Return the first row of every type of a generation, fewest chips first."""
    first: dict[str, SliceShape] = {}
    for shape in shapes():
        if shape.generation == generation:
            first.setdefault(shape.accelerator_type, shape)
    return sorted(first.values(), key=lambda shape: shape.chips)
