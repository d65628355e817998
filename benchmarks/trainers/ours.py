"""Our trainer as a contender: ``python -m benchmarks.trainers.ours JOB``, the job's defaults on one device, but that no layer is
computed again in the backward pass, as for the others.

A run of the same name goes on where the last one ended. ``--rows`` only writes ``rows.json``, the token ids of
the pairs that our steps take, for all contenders.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from tests.trainer.jobs import Claim, mounted

from benchmarks.trainers.job import Answer, Job
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer import data, easydel_compat, store
from dpojob_trainer.progress import Event, Phase, Step


def configuration(claim: Claim, job: Job) -> TrainerConfig:
    """Return the job on one device, without evaluation, samples and export."""
    config = claim.config(
        job.name,
        model={"uri": f"pvc://{claim.name}/model"},
        dataset={
            "uri": f"pvc://{claim.name}/pairs{job.options['suffix']}",
            "columns": {"prompt": job.options["column"]},
            "gate": {"maxTruncatedFraction": 1},
        },
        dpo={"maxPromptLength": job.prompt, "maxCompletionLength": job.completion},
        training={
            "globalBatchSize": job.batch,
            "maxSteps": job.steps,
            "learningRate": job.learning_rate,
            "scheduler": "constant",
            "checkpointSteps": 10**6,
        },
        precision={"params": "float32", "compute": job.dtype},
        output={
            "uri": f"pvc://{claim.name}/{job.name}",
            "sampleCompletions": 0,
            "exportFormat": "none",
        },
    )
    mesh = config.plan.mesh.model_copy(update={"fsdp": 1})
    one = {"chips": 1, "hosts": 1, "chips_per_host": 1, "mesh": mesh}
    return config.model_copy(update={"plan": config.plan.model_copy(update=one)})


def write_rows(claim: Claim, job: Job) -> None:
    """Write the pairs of the job's steps in our order and in the file's."""
    from dpojob_trainer.training import run as training

    config = configuration(claim, job)
    prepared = data.prepare(config, claim.path / "model")
    batches = training.train_batches(config, prepared)
    gathered = [int(row) for step in range(job.steps) for row in batches.indices(step)]
    columns = prepared.train.select_columns(["prompt_ids", "chosen_ids", "rejected_ids"])
    orders = {"gathered": gathered, "file": sorted(gathered)}
    found: dict[str, Any] = {name: list(columns.select(order)) for name, order in orders.items()}
    (claim.path / "rows.json").write_text(json.dumps(found))


def run(claim: Claim, job: Job, answer: Answer) -> None:
    """Train and keep what the trainer tells."""
    from dpojob_trainer.training import run as training

    phase, since, compiling, used = "", 0.0, 0.0, 0.0

    def hear(event: Event) -> None:
        nonlocal phase, since, compiling, used
        if isinstance(event, Phase):
            compiling += time.perf_counter() - since if phase == "compiling" else 0.0
            phase, since = event.name, time.perf_counter()
        if isinstance(event, Step):
            answer.losses.append(event.numbers["loss"])
            answer.seconds.append(event.numbers["seconds"])
            answer.cpu_seconds.append(time.process_time() - used)
            answer.times.append(time.time())
            used = time.process_time()

    config = configuration(claim, job)
    store.open_store(config.output.uri).claim(config.job.uid, config.job.name)
    training.run(config, training.Place(0, "localhost", claim.path / f"{job.name}-work"), hear)
    answer.compile_seconds = compiling


def main() -> None:
    """Run a job, or write its rows."""
    job, answer = Job.read(sys.argv[1]), Answer()
    easydel_compat.prepare()
    with mounted(Path(job.folder)) as claim:
        if "--rows" in sys.argv:
            write_rows(claim, job)
            return
        run(claim, job, answer)
    answer.write(job)


if __name__ == "__main__":
    main()
