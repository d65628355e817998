"""The stages of a run beside its step: what they take at most on a device and in a host's RAM. Pure.

The initialisation is compiled; loading, checkpoints and the export follow from the arrays' sizes and
from how `weights` and Orbax move them.
"""

from collections.abc import Mapping

from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer.plan.memory import Sizes, Stage
from dpojob_trainer.weights.exporter import MAX_SHARD_BYTES
from dpojob_trainer.weights.gather import CHUNK_BYTES

# A part is read as stored and then turned into the type and layout of the parameter.
COPIES_OF_A_PART = 2


def stages_of(
    config: TrainerConfig,
    sizes: Sizes,
    step: float,
    start: float,
    passes: Mapping[str, float],
    *,
    compiled: bool = True,
) -> list[Stage]:
    """Return the stages in their order.

    Args:
        config: the job.
        sizes: of the arrays with all layers.
        step: bytes of one device during a training step.
        start: bytes that the optimizer's initialisation adds to the parameters.
        passes: bytes of one device by the names of what runs without gradients. The optimizer's state, which those programs do
            not take, stays there meanwhile.
        compiled: whether the compiler says what the step and the initialisation take.
    """
    local = config.plan.chips_per_host
    loaded = sizes.parameters + sizes.reference
    gathered = CHUNK_BYTES if config.plan.hosts > 1 else 0
    saved = sizes.parameters + (sizes.optimizer if config.training.save_optimizer_state else 0)
    written = min(MAX_SHARD_BYTES, sizes.parameters * config.plan.chips)
    return [
        Stage("loading", loaded, COPIES_OF_A_PART * local * sizes.largest, compiled=False),
        Stage("optimizer initialisation", loaded + start, None, compiled=compiled),
        *(Stage(name, needed, None, compiled=True) for name, needed in passes.items()),
        Stage("training step", step, None, compiled=compiled),
        # Orbax copies every shard to its host, and writes while the run goes on (replica_slices.transfer_arrays_to_host).
        Stage("checkpoint", sizes.resident, local * saved, compiled=False),
        Stage("export", sizes.resident + gathered, written + gathered, compiled=False),
    ]
