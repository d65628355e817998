"""EasyDeL's own DPOTrainer as a contender: ``python -m benchmarks.trainers.easydel_side JOB``.

Its own loop, loss, head and padding; the reference's log-probabilities in every step, since computing them ahead of
training keeps the reference in memory and needs whole logits.
"""

import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.trainers.job import Answer, Job
from dpojob_trainer import easydel_compat


def rows(job: Job) -> list[dict[str, list[int]]]:
    """Return the pairs as EasyDeL's collator takes them."""
    return [
        {
            f"{side}_{kind}": ids if kind == "input_ids" else [1] * len(ids)
            for side in ("prompt", "chosen", "rejected")
            for kind, ids in (("input_ids", row[f"{side}_ids"]), ("attention_mask", row[f"{side}_ids"]))
        }
        for row in job.rows()
    ]


def load(job: Job) -> Any:
    """Return the model with float32 parameters on one device."""
    import easydel as ed
    import jax.numpy as jnp

    kind = jnp.dtype(job.dtype)
    length = job.prompt + job.completion
    return ed.AutoEasyDeLModelForCausalLM.from_pretrained(
        str(Path(job.folder) / "model"),
        dtype=kind,
        param_dtype=jnp.float32,
        auto_shard_model=True,
        sharding_axis_dims=(1, 1, 1, 1, 1),
        config_kwargs={
            "attn_dtype": kind,
            "attn_mechanism": ed.AttentionMechanisms.VANILLA,
            "freq_max_position_embeddings": length,
            "mask_max_position_embeddings": length,
        },
    )


def arguments(job: Job) -> Any:
    """Return EasyDeL's configuration of a job."""
    import easydel as ed

    return ed.DPOConfig(
        model_name=job.name,
        beta=0.1,
        max_prompt_length=job.prompt,
        max_completion_length=job.completion,
        max_length=job.prompt + job.completion,
        total_batch_size=job.batch,
        num_train_epochs=1,
        max_training_steps=job.steps,
        learning_rate=job.learning_rate,
        scheduler=ed.EasyDeLSchedulers.NONE,
        optimizer=ed.EasyDeLOptimizers.ADAMW,
        weight_decay=0.0,
        clip_grad=1.0,
        save_directory=str(Path(job.folder) / f"{job.name}-easydel"),
        do_last_save=False,
        save_steps=None,
        do_eval=False,
        resume_if_possible=False,
        use_wandb=False,
        track_memory=False,
        log_steps=1,
        report_steps=1,
        progress_bar_type="json",
    )


def main() -> None:
    """Run a job.

    Raises:
        RuntimeError: EasyDeL's loop ended early, which it does not tell.
    """
    job, answer = Job.read(sys.argv[1]), Answer()
    easydel_compat.prepare()
    import easydel as ed
    from datasets import Dataset
    from transformers import AutoTokenizer

    class Timed(ed.DPOTrainer):  # type: ignore[misc]
        """Times the steps and keeps their losses."""

        began, used = 0.0, 0.0

        def on_step_start(self, state: Any, step: int) -> Any:
            self.began, self.used = time.perf_counter(), time.process_time()
            return state

        def on_step_end(self, state: Any, metrics: Any, step: int) -> Any:
            answer.losses.append(float(metrics.loss))
            answer.seconds.append(time.perf_counter() - self.began)
            answer.cpu_seconds.append(time.process_time() - self.used)
            answer.times.append(time.time())
            return state, metrics

    tokenizer = AutoTokenizer.from_pretrained(Path(job.folder) / "model")
    Timed(
        arguments=arguments(job),
        model=load(job),
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(rows(job)),
    ).train()
    if len(answer.losses) != job.steps:
        raise RuntimeError(f"EasyDeL did {len(answer.losses)} of {job.steps} steps")
    answer.write(job)


if __name__ == "__main__":
    main()
