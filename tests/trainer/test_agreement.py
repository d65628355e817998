"""What the hosts of a slice must have alike before they train: two real JAX processes that talk over gloo."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.trainer.jobs import Claim, write_pairs
from tests.trainer.kills import free_port

from dpojob_api.reasons import TrainerReason

pytestmark = pytest.mark.jax

HOST = """
import sys
from pathlib import Path
import jax
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer import easydel_compat, store
from dpojob_trainer.errors import TrainerError
easydel_compat.prepare()
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(sys.argv[3], 2, int(sys.argv[4]))
from dpojob_trainer.training import run as training
config = TrainerConfig.model_validate_json(Path(sys.argv[1]).read_text())
place = training.Place(int(sys.argv[4]), "localhost", Path(sys.argv[2]))
try:
    training.run(config, place, lambda event: None)
except TrainerError as error:
    print(f"{error.reason}: {error}", flush=True)
"""


def test_hosts_with_other_pairs_do_not_train(claim: Claim, tmp_path: Path) -> None:
    write_pairs(claim.path / "written.jsonl", 64)
    lines = (claim.path / "written.jsonl").read_text().splitlines(keepends=True)
    (claim.path / "written.jsonl").write_text("".join(lines[1:] + lines[:1]))
    address = f"127.0.0.1:{free_port()}"
    running = []
    for rank, pairs in enumerate(("pairs", "written")):
        dataset = {"uri": f"pvc://{claim.name}/{pairs}.jsonl", "columns": {"prompt": "prompt"}}
        # Outputs of their own, or the second host would take the pairs of the first one.
        config = claim.config(f"unlike-{rank}", dataset=dataset, accelerator={"type": "v4-16"})
        (claim.path / f"unlike-{rank}").mkdir()
        arguments = [str(claim.write_config(config)), str(tmp_path / str(rank)), address, str(rank)]
        running.append(
            subprocess.Popen(
                [sys.executable, "-c", HOST, *arguments],
                env=os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"},
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
    try:
        ends = [process.communicate(timeout=300) for process in running]
    finally:
        for process in running:
            process.kill()
    for told, err in ends:
        assert f"{TrainerReason.DATASET_INVALID}: the hosts have read different pairs" in told, err[-2000:]
