"""Gives an exception of training its documented reason and the fix."""

from dpojob_api.reasons import TrainerReason
from dpojob_api.spec import ShortGradientCheckpointing
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer.errors import TrainerError

MEMORY_MARKS = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory", "Cannot allocate memory")
PEER_MARKS = (
    "Connection reset by peer",
    "Connection closed by peer",
    "Connection refused",
    "Broken pipe",
    "coordination service",
    "CoordinationService",
    "Gloo",
    "heartbeat",
    "Barrier",
)
# How tensorstore, gcsfs and file systems say that the storage does not answer.
OUTAGE_MARKS = (
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "ABORTED",
    "Service Unavailable",
    "Too Many Requests",
    "Stale file handle",
    "timed out",
)
MAX_WORDS = 600


def explain(error: BaseException, config: TrainerConfig) -> TrainerError:
    """Return `error` as a TrainerError; one that already is stays as it is."""
    if isinstance(error, TrainerError):
        return error
    words = last_line(error)
    if out_of_memory(error):
        return TrainerError(TrainerReason.HBM_EXHAUSTED, f"{memory_hints(config)}. It said: {words}")
    lost = lost_peer(error)
    return lost or TrainerError(TrainerReason.INTERNAL, f"{type(error).__name__}: {words}")


def out_of_memory(error: BaseException) -> bool:
    """Return whether device or host memory did not suffice."""
    return isinstance(error, MemoryError) or any(mark in str(error) for mark in MEMORY_MARKS)


def lost_peer(error: BaseException) -> TrainerError | None:
    """Return HostLost if an exception comes from a broken connection between hosts, whatever it interrupted."""
    if not any(mark in str(error) for mark in PEER_MARKS):
        return None
    return TrainerError(
        TrainerReason.HOST_LOST, f"the connection to another host broke. It said: {last_line(error)}"
    )


def outage(error: BaseException) -> bool:
    """Return whether the storage did not answer, which says nothing about what lies there."""
    return isinstance(error, ConnectionError | TimeoutError) or any(m in str(error) for m in OUTAGE_MARKS)


def memory_hints(config: TrainerConfig) -> str:
    """Return what to change, the cheapest first, leaving out what is already so."""
    hints = []
    if config.short_gradient_checkpointing != ShortGradientCheckpointing():
        hints.append("leave out shortGradientCheckpointing")
    if config.gradient_checkpointing.value != "nothing_saveable":
        hints.append("set gradientCheckpointing: nothing_saveable")
    if config.training.global_batch_size > config.training.gradient_accumulation_steps:
        hints.append(
            f"raise training.gradientAccumulationSteps (now {config.training.gradient_accumulation_steps})"
        )
    if config.plan.mesh.data_shards < config.plan.chips and config.plan.mesh.fsdp == 1:
        hints.append("shard the parameters with mesh.fsdp: -1")
    hints.append("lower dpo.maxPromptLength or dpo.maxCompletionLength")
    hints.append("or take a larger accelerator.type")
    return "the model does not fit into memory: " + ", ".join(hints)


def last_line(error: BaseException) -> str:
    """Return the first line of an exception's message, cut to a readable length; its type if it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:MAX_WORDS] if lines else type(error).__name__
