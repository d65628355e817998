"""TRL's DPOTrainer as a contender: ``python trl_side.py JOB``, for the interpreter that has TRL.

Options: `precompute` takes the reference's log-probabilities once before the first step, `attention` names transformers'
implementation. bfloat16 is autocast with float32 parameters, as for us.
"""

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import torch
from datasets import Dataset
from job import Answer, Job  # type: ignore[import-not-found,unused-ignore]
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer


class TokenisedTrainer(DPOTrainer):  # type: ignore[misc]
    """TRL's trainer on rows that are token ids already."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset


class Clock(TrainerCallback):  # type: ignore[misc]
    """Times the steps and keeps their losses."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.began, self.used = answer, 0.0, 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock."""
        self.began, self.used = time.perf_counter(), time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop it."""
        self.answer.seconds.append(time.perf_counter() - self.began)
        self.answer.cpu_seconds.append(time.process_time() - self.used)
        self.answer.times.append(time.time())

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        """Keep the loss."""
        if "loss" in logs:
            self.answer.losses.append(float(logs["loss"]))


def arguments(job: Any) -> Any:
    """Return TRL's configuration of a job."""
    return DPOConfig(
        output_dir=str(Path(job.folder) / f"{job.name}-trl"),
        per_device_train_batch_size=job.batch,
        max_steps=job.steps,
        learning_rate=job.learning_rate,
        lr_scheduler_type="constant",
        optim="adamw_torch",
        train_sampling_strategy="sequential",
        max_length=None,
        bf16=job.dtype == "bfloat16",
        gradient_checkpointing=False,
        precompute_ref_log_probs=job.options["precompute"],
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def main() -> None:
    """Run a job."""
    job = Job.read(sys.argv[1])
    answer, model = Answer(), str(Path(job.folder) / "model")

    def load() -> Any:
        return AutoModelForCausalLM.from_pretrained(
            model, dtype=torch.float32, attn_implementation=job.options["attention"]
        )

    trainer = TokenisedTrainer(
        model=load(),
        ref_model=load(),
        args=arguments(job),
        train_dataset=Dataset.from_list(job.rows()),
        processing_class=AutoTokenizer.from_pretrained(model),
        callbacks=[Clock(answer)],
    )
    trainer.train()
    answer.write(job)


if __name__ == "__main__":
    main()
