"""EasyDeL's own DPOTrainer on the tiny model: `python -m tests.trainer.plain_easydel FOLDER` prints what each trap does, as JSON.

On one device, with weights that our loader has read; everything else is EasyDeL's.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import easydel as ed
import jax
import numpy as np
from datasets import Dataset
from easydel.trainers.direct_preference_optimization_trainer import _fn
from tests.trainer import tiny_models
from transformers import AutoTokenizer

from dpojob_trainer.weights import load_model

ONE = dict.fromkeys(tiny_models.FSDP, 1)
Finding = Callable[[Path], Any]


def rows(count: int) -> Dataset:
    """Conversations whose prompts count up, so that each batch is another one."""
    return Dataset.from_list(
        [
            {
                side: [
                    {"role": "user", "content": f"prompt {number}"},
                    {"role": "assistant", "content": f"{side} answer {number}"},
                ]
                for side in ("chosen", "rejected")
            }
            for number in range(count)
        ]
    )


class Watched(ed.DPOTrainer):  # type: ignore[misc]
    """Notes the batches and the steps that are begun."""

    def __init__(self, *args: Any, **named: Any) -> None:
        self.batches: list[Any] = []
        self.chosen: list[Any] = []
        self.begun: list[int] = []
        self.saved: list[int] = []
        super().__init__(*args, **named)

    def _get_next_batch(self, *args: Any) -> Any:
        batch, iterator = super()._get_next_batch(*args)
        collated = self.data_collator(batch)
        self.batches.append(np.asarray(collated["prompt_input_ids"]).tolist())
        self.chosen.append(np.asarray(collated["chosen_input_ids"]).tolist())
        return batch, iterator

    def _save_state(self, state: Any, *args: Any, **named: Any) -> Any:
        self.saved.append(int(state.step))
        return super()._save_state(state, *args, **named)

    def on_step_start(self, state: Any, step: int) -> Any:
        self.begun.append(step)
        return state


class Mistyped(Watched):
    """A hook with a mistake."""

    def on_step_end(self, state: Any, metrics: Any, stepp: int) -> Any:
        return state, metrics


def trainer(
    folder: Path,
    kind: type[Watched] = Watched,
    *,
    data: Dataset | None = None,
    params: str = "float32",
    mesh: dict[str, int] = ONE,
    **options: Any,
) -> Watched:
    """Return a trainer of 4 pairs a step whose files go to `folder`."""
    model_dir = folder.parent / "model"
    arguments = ed.DPOConfig(
        save_directory=str(folder),
        **(
            {
                "total_batch_size": 4,
                "num_train_epochs": 1,
                "max_prompt_length": 16,
                "max_completion_length": 16,
                "max_length": 32,
                "learning_rate": 1e-5,
                "do_eval": False,
                "do_last_save": False,
                "save_steps": None,
                "use_wandb": False,
                "report_metrics": False,
                "progress_bar_type": "json",
                "weight_distribution_log_steps": 0,
                "track_memory": False,
            }
            | options
        ),
    )
    return kind(
        arguments=arguments,
        model=load_model(model_dir, tiny_models.configuration(mesh, params=params)),
        reference_model=load_model(model_dir, tiny_models.configuration(mesh, params=params)),
        processing_class=AutoTokenizer.from_pretrained(model_dir),
        train_dataset=rows(8) if data is None else data,
    )


def failure_in_a_hook(folder: Path) -> Any:
    """Trap 1: steps done, although every step's hook raises TypeError."""
    made = trainer(folder, Mistyped)
    return int(made.train().state.step)


def damaged_checkpoint(folder: Path) -> Any:
    """Trap 2: the steps that are begun by a run whose only checkpoint cannot be read."""
    options = {"save_steps": 1, "save_optimizer_state": True, "max_training_steps": 1}
    trainer(folder, **options).train()
    for file in folder.rglob("*"):
        # The description of an array stays, or the next save would fail.
        if (
            file.is_file()
            and {"model", "tx"} & set(file.parts)
            and file.name[0] != "."
            and file.suffix != ".json"
        ):
            file.write_bytes(b"")
    again = trainer(folder, **(options | {"max_training_steps": 2}))
    again.train()
    return {"saved": bool(list(folder.rglob("run-1"))), "begun": again.begun}


def two_epochs(folder: Path) -> Any:
    """Trap 3: the batches of two epochs that should be shuffled."""
    made = trainer(folder, num_train_epochs=2, shuffle_train_dataset=True)
    made.train()
    return made.batches


def evaluation_without_data(folder: Path) -> Any:
    """Trap 5: how a good run ends that has nothing to evaluate on."""
    try:
        trainer(folder, do_eval=True).train()
    except TypeError as error:
        return type(error).__name__
    return None


def wandb_by_default(folder: Path) -> Any:
    """Trap 6: what a machine without a key for W&B meets that has not asked for W&B."""
    os.environ.pop("WANDB_MODE")
    try:
        trainer(folder, use_wandb=ed.DPOConfig().use_wandb, report_metrics=True)
    except Exception as error:
        return type(error).__name__
    finally:
        os.environ["WANDB_MODE"] = "disabled"
    return None


def precomputed_reference(folder: Path) -> Any:
    """Trap 7: how a run ends that computes the reference's log-probabilities first."""
    try:
        trainer(folder, precompute_ref_log_probs=True).train()
    except AssertionError as error:
        return str(error)
    return None


def fewer_pairs_than_a_batch(folder: Path) -> Any:
    """Trap 8: what a run is told that has no batch, or how many steps it does without being told anything."""
    try:
        return int(trainer(folder, data=rows(3)).train().state.step)
    except ValueError as error:
        return str(error)


def end_of_a_completion(folder: Path) -> Any:
    """Trap 9: the first pair's chosen completion, without padding, as text."""
    made = trainer(folder)
    made.train()
    tokenizer = made.processing_class
    return tokenizer.decode([token for token in made.chosen[0][0] if token != tokenizer.pad_token_id])


def changed_in_bfloat16(folder: Path) -> Any:
    """Trap 10: the share of numbers that two steps at 1e-5 change if parameters are bfloat16."""
    made = trainer(folder, params="bfloat16")
    before = [np.asarray(leaf) for leaf in jax.tree.leaves(made.model_state.graphstate)]
    after = jax.tree.leaves(made.train().state.graphstate)
    changed = sum(int((np.asarray(leaf) != old).sum()) for leaf, old in zip(after, before, strict=True))
    return changed / sum(leaf.size for leaf in before)


def logits_of_a_batch(folder: Path) -> Any:
    """Trap 11: the shape of the logits that log-probabilities are taken from."""
    shapes = []
    original = _fn._compute_token_logps_chunked

    def noted(logits: Any, *args: Any, **named: Any) -> Any:
        shapes.append(list(logits.shape))
        return original(logits, *args, **named)

    with mock.patch.object(_fn, original.__name__, noted):
        trainer(folder, max_training_steps=1).train()
    return shapes[0]


def saves(folder: Path) -> Any:
    """Trap 13: the steps that a run of two steps saves, one checkpoint a step."""
    made = trainer(folder, save_steps=1, save_optimizer_state=True, do_last_save=True)
    made.train()
    return made.saved


def another_mesh(folder: Path) -> Any:
    """Trap 15: whether a run on another mesh can save to the folder of one on eight devices."""
    options = {"total_batch_size": 8, "max_training_steps": 1, "save_steps": 1}
    trainer(folder, mesh=tiny_models.FSDP, **options).train()
    try:
        trainer(folder, mesh=tiny_models.MIXED, resume_if_possible=False, **options).train()
    except Exception as error:
        return str(error)
    return None


def changed_variables() -> list[str]:
    """Trap 14: which variables of the process are not what they were when it started."""
    started = Path("/proc/self/environ").read_text().split("\0")
    before = dict(entry.split("=", 1) for entry in started if "=" in entry)
    return [name for name, value in os.environ.items() if before.get(name) != value]


FINDINGS: dict[str, Finding] = {
    function.__name__: function
    for function in (
        failure_in_a_hook,
        damaged_checkpoint,
        two_epochs,
        evaluation_without_data,
        wandb_by_default,
        precomputed_reference,
        fewer_pairs_than_a_batch,
        end_of_a_completion,
        changed_in_bfloat16,
        logits_of_a_batch,
        saves,
    )
}
ON_EIGHT_DEVICES: dict[str, Finding] = {another_mesh.__name__: another_mesh}


def main() -> None:
    """Print all findings as the last line."""
    root = Path(sys.argv[1])
    tiny_models.write_model(root / "model", tiny_models.QWEN3)
    names = sys.argv[2:] or list(FINDINGS)
    known = FINDINGS | ON_EIGHT_DEVICES
    found = {name: known[name](root / name) for name in names}
    found["environment"] = changed_variables()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
