"""Bad ends, provoked for real through the driver or the trainer's command: its exit code, one line with the documented
reason and the cause, no traceback.

Where else a reason is provoked: HostLost in test_launchers.py. Memory of a TPU cannot be exhausted without one; XLA's own
refusal of a buffer that is larger than the host's memory stands for it. The GCS that denies access is a stand-in.
"""

import json
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.trainer.gcs import Gcs
from tests.trainer.jobs import TRAINING, Claim, command_of, run_trainer

from dpojob_api.reasons import TrainerReason
from dpojob_api.result import TrainerResult, find_result
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer import driver
from dpojob_trainer.exit_codes import exit_code
from dpojob_trainer.store import Writer, open_store
from dpojob_trainer.training import failures

RUN_SECONDS = 240.0


@dataclass(frozen=True)
class BadEnd:
    """A configuration that must fail, what is prepared for it, and how it must end."""

    reason: TrainerReason
    words: str
    spec: Callable[[Claim], dict[str, Any]]
    prepare: Callable[[Claim, TrainerConfig], None] = lambda claim, config: None


def dataset(claim: Claim, **parts: Any) -> dict[str, Any]:
    """The claim's data set with other settings."""
    return {"dataset": {"uri": f"pvc://{claim.name}/pairs.jsonl", "columns": {"prompt": "prompt"}} | parts}


def put_a_file_in_the_way(claim: Claim, config: TrainerConfig) -> None:
    """Let output.uri be a file."""
    (claim.path / config.job.name).write_text("")


def let_a_newer_attempt_start(claim: Claim, config: TrainerConfig) -> None:
    """Take over the output as attempt 2."""
    out = open_store(config.output.uri, Writer(2, "b" * 16))
    out.claim(config.job.uid, config.job.name)
    out.take_over()


BEFORE_TRAINING = [
    BadEnd(
        TrainerReason.DATA_INVALID, "dataset.gate.minPairs", lambda c: dataset(c, gate={"minPairs": 1000})
    ),
    BadEnd(TrainerReason.MODEL_NOT_FOUND, "nowhere", lambda c: {"model": {"uri": f"pvc://{c.name}/nowhere"}}),
    BadEnd(
        TrainerReason.CREDENTIALS_MISSING, "objectViewer", lambda c: {"model": {"uri": "gs://secret/model"}}
    ),
    BadEnd(TrainerReason.OUTPUT_UNWRITABLE, "cannot be written", lambda c: {}, put_a_file_in_the_way),
    BadEnd(TrainerReason.FENCED, "attempt 2 has started", lambda c: {}, let_a_newer_attempt_start),
]


def require_bad_end(
    code: int, result: TrainerResult | None, output: str, reason: TrainerReason, words: str
) -> None:
    """Check the exit code and that the last line says all."""
    assert code == exit_code(reason), output
    assert result is not None and result.reason is reason, output
    assert words in result.message and "\n" not in result.message
    assert output.splitlines()[-1] == result.to_line()
    assert "Traceback" not in output


@pytest.mark.parametrize("end", BEFORE_TRAINING, ids=lambda end: str(end.reason))
def test_bad_end_before_training(claim: Claim, gcs: Gcs, end: BadEnd) -> None:
    gcs.buckets["secret"] = {}
    gcs.denied.add("secret")
    config = claim.config(f"end-{end.reason.value.lower()}", **end.spec(claim))
    end.prepare(claim, config)
    result = driver.drive(claim.write_config(config), 0)
    assert result.reason is end.reason and exit_code(result.reason) > 0, result
    assert end.words in result.message and "\n" not in result.message


def test_the_command_ends_with_one_line_that_says_why(claim: Claim) -> None:
    config = claim.config("end-told", **dataset(claim, gate={"minPairs": 1000}))
    done = run_trainer(["drive", "--config", str(claim.write_config(config)), "--metrics-port", "0"])
    require_bad_end(*done, TrainerReason.DATA_INVALID, "dataset.gate.minPairs")


def test_what_nobody_foresaw_is_internal(claim: Claim) -> None:
    """Another process has the port of the metrics."""
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        result = driver.drive(claim.write_config(claim.config("end-internal")), other.getsockname()[1])
    assert result.reason is TrainerReason.INTERNAL
    assert "Address already in use" in result.message and "\n" not in result.message


@pytest.mark.jax
def test_a_loss_that_is_not_finite(claim: Claim) -> None:
    poisoned = claim.path / "poisoned-end"
    shutil.copytree(claim.path / "model", poisoned)
    parameters = load_file(poisoned / "model.safetensors")
    parameters["model.norm.weight"] = np.full_like(parameters["model.norm.weight"], np.nan)
    save_file(parameters, poisoned / "model.safetensors")
    config = claim.config("end-nan", model={"uri": f"pvc://{claim.name}/poisoned-end"})
    done = run_trainer(["local", "--config", str(claim.write_config(config))])
    require_bad_end(*done, TrainerReason.NON_FINITE_LOSS, "nan")


@pytest.mark.jax
def test_memory_that_is_not_there(claim: Claim) -> None:
    import jax.numpy as jnp

    with pytest.raises(Exception, match="RESOURCE_EXHAUSTED") as caught:
        jnp.zeros((2**30, 2**20), jnp.float32).block_until_ready()
    found = failures.explain(caught.value, claim.config("end-memory"))
    assert found.reason is TrainerReason.HBM_EXHAUSTED
    assert "does not fit into memory" in found.message and "gradientAccumulationSteps" in found.message


@pytest.mark.jax
def test_a_run_that_is_superseded_while_it_trains(claim: Claim) -> None:
    """Two live writers: a whole training process, and a newer attempt that takes over its output.

    The line whose check has just passed may still follow the newer attempt's.
    """
    training = TRAINING | {"maxSteps": 5000, "evalSteps": 5000, "checkpointSteps": 5000}
    config = claim.config("superseded", training=training)
    lines = claim.path / "superseded" / "metrics.jsonl"
    with command_of(["local", "--config", str(claim.write_config(config))]) as process:
        try:
            deadline = time.monotonic() + RUN_SECONDS
            while not lines.exists() or lines.read_text().count("\n") < 3:
                assert process.poll() is None, process.communicate()[0][-4000:]
                assert time.monotonic() < deadline, f"no step within {RUN_SECONDS:.0f} s"
                time.sleep(0.1)
            newer = open_store(config.output.uri, Writer(2, "b" * 16))
            newer.take_over()
            newer.append_line("metrics.jsonl", json.dumps({"attempt": 2}))
            output = process.communicate(timeout=RUN_SECONDS)[0]
        finally:
            process.kill()
    require_bad_end(
        process.returncode, find_result(output), output, TrainerReason.FENCED, "attempt 2 has started"
    )
    attempts = [line["attempt"] for line in claim.metrics("superseded")]
    assert attempts.count(2) == 1 and len(attempts) - attempts.index(2) <= 2
    assert not (claim.path / "superseded" / "model").exists()
