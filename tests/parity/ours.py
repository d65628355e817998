"""Our side: runs the cases in this process and writes each one's curve, and the tokenised rows that both sides use.

`python -m tests.parity.ours FOLDER STEPS CASE...`
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from tests.parity import cases
from tests.trainer.jobs import Claim, mounted

from dpojob_api.spec import ExportFormat
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer import data, easydel_compat, store

UNEXPORTED = {"export_format": ExportFormat.NONE}


def configuration(claim: Claim, case: cases.Case, steps: int) -> TrainerConfig:
    """Return the case's job on one device."""
    setting = case.setting
    training = {"globalBatchSize": setting.batch, "maxSteps": steps, "learningRate": setting.learning_rate}
    training |= {"scheduler": "constant", "shuffle": False, "checkpointSteps": 10**6} | case.training
    if training["scheduler"] == "linear":
        # transformers' schedule reaches 0 after the last step, ours its end on the last step.
        training["learningRateEnd"] = setting.learning_rate / steps
    config = claim.config(
        case.name,
        model={"uri": f"pvc://{claim.name}/{case.family}"},
        dataset={"uri": f"pvc://{claim.name}/{case.family}.jsonl", "columns": {"prompt": "prompt"}},
        dpo={"maxPromptLength": setting.prompt, "maxCompletionLength": setting.completion} | case.dpo,
        training=training,
    )
    config = config.model_copy(update={"output": config.output.model_copy(update=UNEXPORTED)})
    one = {"chips": 1, "hosts": 1, "chips_per_host": 1}
    mesh = config.plan.mesh.model_copy(update={"fsdp": 1})
    return config.model_copy(update={"plan": config.plan.model_copy(update=one | {"mesh": mesh})})


def run(claim: Claim, case: cases.Case, steps: int) -> None:
    """Train and leave the curve in the case's folder."""
    from dpojob_trainer.training import plan
    from dpojob_trainer.training import run as training

    config = configuration(claim, case, steps)
    store.open_store(config.output.uri).claim(config.job.uid, config.job.name)
    whole = plan.MAX_LOGIT_BYTES
    plan.MAX_LOGIT_BYTES = 2**17 if case.chunked_head else whole
    try:
        place = training.Place(0, "localhost", claim.path / f"{case.name}-work")
        training.run(config, place, lambda event: None)
    finally:
        plan.MAX_LOGIT_BYTES = whole
    curve = [line for line in claim.metrics(case.name) if "loss" in line]
    (claim.path / f"{case.name}.ours.json").write_text(json.dumps(curve))


def write_rows(claim: Claim, case: cases.Case, folder: Path) -> None:
    """Write the token ids of the case's pairs for the other side."""
    columns = ["prompt_ids", "chosen_ids", "rejected_ids"]
    prepared = data.prepare(configuration(claim, case, 1), folder / case.family)
    rows: list[dict[str, Any]] = list(prepared.train.select_columns(columns))
    (folder / f"{case.name}.rows.json").write_text(json.dumps(rows))


def main() -> None:
    """Run the cases that are named on the command line."""
    folder, steps, names = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    easydel_compat.prepare()
    with mounted(folder) as claim:
        for case in [*cases.CASES, *cases.REAL_CASES]:
            if case.name in names and not (folder / f"{case.name}.ours.json").exists():
                # An earlier run that was interrupted left half a curve.
                shutil.rmtree(folder / case.name, ignore_errors=True)
                write_rows(claim, case, folder)
                run(claim, case, steps)
                print(case.name, flush=True)


if __name__ == "__main__":
    main()
