"""TRL's side, for an interpreter that has TRL and none of our packages: runs the cases of a file and writes curves.

`python trl_side.py FOLDER`; FOLDER/trl.json lists for each case its name, the model's folder, the arguments of TRL's
DPOConfig and whether the reference's log-probabilities are 0. The rows are token ids, so tokenisation plays no part. If
there are held-out rows (NAME.held.json), they are evaluated after the last step.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from transformers.utils.logging import set_verbosity_error
from trl import DPOConfig, DPOTrainer


class TokenisedDPOTrainer(DPOTrainer):
    """TRL's trainer on rows that are token ids already."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset


class Curve(TrainerCallback):
    """Keeps what TRL logs after each step."""

    def __init__(self) -> None:
        self.lines: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" in logs:
            self.lines.append({"step": state.global_step} | logs)


def load(model: str) -> Any:
    """Return the model in float32 with plain attention, every token's embedding with its whole gradient.

    transformers makes the embedding with `padding_idx`, for which torch leaves out the gradient of the token's look-ups,
    also where padding is the end of a turn, as in SmolLM2.
    """
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager")
    loaded.get_input_embeddings().padding_idx = None
    return loaded


def run(folder: Path, name: str, model: str, arguments: dict[str, Any], zero_reference: bool) -> None:
    """Train and write the curve."""
    rows = json.loads((folder / f"{name}.rows.json").read_text())
    if zero_reference:
        rows = [row | {"ref_chosen_logps": 0.0, "ref_rejected_logps": 0.0} for row in rows]
    curve = Curve()
    trainer = TokenisedDPOTrainer(
        model=load(model),
        ref_model=load(model),
        args=DPOConfig(output_dir=str(folder / f"{name}-trl"), **arguments),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(model),
        callbacks=[curve],
    )
    # With this flag set after its own pass over the data TRL takes the reference from the rows.
    trainer.precompute_ref_logps = zero_reference
    trainer.train()
    (folder / f"{name}.trl.json").write_text(json.dumps(curve.lines))
    if (held := folder / f"{name}.held.json").exists():
        found = trainer.evaluate(Dataset.from_list(json.loads(held.read_text())))
        (folder / f"{name}.held.trl.json").write_text(json.dumps(found))


def main() -> None:
    """Run every case of FOLDER/trl.json."""
    set_verbosity_error()
    folder = Path(sys.argv[1])
    for case in json.loads((folder / "trl.json").read_text()):
        run(folder, **case)
        print(case["name"], flush=True)


if __name__ == "__main__":
    main()
