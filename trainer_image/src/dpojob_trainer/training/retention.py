"""Which checkpoints stay: the newest, every so many steps, the best; by Orbax's policies."""

import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import (
    AnyPreservationPolicy,
    BestN,
    EveryNSteps,
    LatestN,
    PreservationPolicy,
)

from dpojob_api.training_spec import TrainingSpec

STEP_PREFIX = "step"
MARGIN = "rewards/margins"
Metrics = dict[str, float]


def manager_options(training: TrainingSpec) -> ocp.CheckpointManagerOptions:
    """Return the options of Orbax's manager."""
    return ocp.CheckpointManagerOptions(
        preservation_policy=AnyPreservationPolicy(policies(training)),
        best_fn=margin if training.keep_best_checkpoint else None,
        step_prefix=STEP_PREFIX,
        cleanup_tmp_directories=True,
    )


def policies(training: TrainingSpec) -> list[PreservationPolicy]:
    """Return the policies of which one must want to keep a checkpoint."""
    kept: list[PreservationPolicy] = [LatestN(training.checkpoints_to_keep or None)]
    if training.keep_checkpoint_every:
        kept.append(EveryNSteps(training.keep_checkpoint_every))
    if training.keep_best_checkpoint:
        kept.append(BestN(get_metric_fn=margin, n=1, keep_checkpoints_without_metrics=False))
    return kept


def margin(metrics: Metrics) -> float:
    """Return the mean reward margin of the held-out pairs."""
    return metrics[MARGIN]
