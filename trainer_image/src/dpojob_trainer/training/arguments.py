"""EasyDeL's training arguments for our configuration; what EasyDeL would do behind our back is switched off."""

from pathlib import Path
from typing import Any

from dpojob_api.trainer_config import TrainerConfig
from dpojob_api.training_spec import Optimizer
from dpojob_trainer.training.plan import learning_rate, micro_batch_size


def dpo_arguments(config: TrainerConfig, total: int, scratch: Path) -> Any:
    """Return EasyDeL's DPOConfig for a run of `total` steps."""
    import easydel as ed

    training, dpo = config.training, config.dpo
    return ed.DPOConfig(
        model_name=config.job.name,
        beta=dpo.beta,
        reference_free=dpo.reference_free,
        max_prompt_length=dpo.max_prompt_length,
        max_completion_length=dpo.max_completion_length,
        max_length=dpo.max_prompt_length + dpo.max_completion_length,
        total_batch_size=micro_batch_size(training),
        gradient_accumulation_steps=training.gradient_accumulation_steps,
        max_training_steps=total,
        learning_rate=training.learning_rate,
        custom_scheduler=lambda steps: learning_rate(training, steps),
        weight_decay=training.weight_decay,
        clip_grad=training.clip_grad_norm,
        optimizer=optimizer(training.optimizer),
        extra_optimizer_kwargs={"weight_decay_mask": decays},
        save_directory=str(scratch),
        **_SILENCED,
    )


# EasyDeL's own resuming, saving, evaluation and tracking hide their failures; ours do not.
_SILENCED: dict[str, Any] = {
    "resume_if_possible": False,
    "do_last_save": False,
    "save_steps": None,
    "save_tpu_preemption_checkpoints": False,
    "do_eval": False,
    "use_wandb": False,
    "report_metrics": False,
    "log_grad_norms": False,
    "generation_interval": None,
    "benchmark_interval": None,
    "use_esurge_generation": False,
    "track_memory": False,
    "weight_distribution_log_steps": 0,
    "progress_bar_type": "json",
    "verbose": False,
}


def decays(parameters: Any) -> Any:
    """Return which parameters the weight decay shrinks: matrices, but no norms and biases."""
    import jax

    return jax.tree_util.tree_map(lambda leaf: leaf.ndim > 1, parameters)


def optimizer(name: Optimizer) -> Any:
    """Return EasyDeL's name of an optimizer."""
    import easydel as ed

    return ed.EasyDeLOptimizers(name.value)
