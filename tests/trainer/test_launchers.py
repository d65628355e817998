"""The driver on a real local Ray cluster: a head and two nodes that carry the resources and labels of a v4-16 slice.

Chips are the one thing that is not real: each "TPU host" is a Ray node on this machine that claims 4 chips and computes
on 4 virtual CPU devices; gloo carries the collectives between the two processes.
"""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from ray.cluster_utils import Cluster
from tests.trainer.jobs import TRAINING, Claim, run_trainer
from tests.trainer.kills import free_port

from dpojob_api import metrics
from dpojob_api.constants import RECORDED_HEADER
from dpojob_api.reasons import TrainerReason
from dpojob_api.result import TrainerResult, find_result
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer import stopping, store

pytestmark = [pytest.mark.jax, pytest.mark.slow]

TWO_HOSTS = {"accelerator": {"type": "v4-16"}}
DEADLINE_SECONDS = 600


def add_slice(cluster: Cluster, number: int) -> Any:
    """Join a node that looks like slice `number` of several v4-8 under KubeRay, which have one host each."""
    name = f"tpu-{number}"
    return cluster.add_node(
        num_cpus=4,
        resources={"TPU": 4, name: 1, "accelerator_type:TPU-V4": 1, "TPU-v4-8-head": 1},
        labels={
            "ray.io/tpu-slice-name": name,
            "ray.io/tpu-worker-id": "0",
            "ray.io/tpu-topology": "2x2x1",
            "ray.io/tpu-pod-type": "v4-8",
        },
        env_vars={
            "TPU_NAME": name,
            "TPU_WORKER_ID": "0",
            "TPU_ACCELERATOR_TYPE": "v4-8",
            "TPU_TOPOLOGY": "2x2x1",
            "MEGASCALE_NUM_SLICES": "2",
            "MEGASCALE_SLICE_ID": str(number),
        },
    )


def add_host(cluster: Cluster, number: int) -> Any:
    """Join a node that looks like host `number` of a v4-16 slice under KubeRay."""
    identity = {
        "TPU_NAME": "slice-0",
        "TPU_WORKER_ID": str(number),
        "TPU_ACCELERATOR_TYPE": "v4-16",
        "TPU_TOPOLOGY": "2x2x2",
    }
    head = {"TPU-v4-16-head": 1} if number == 0 else {}
    return cluster.add_node(
        num_cpus=4,
        resources={"TPU": 4, "slice-0": 1, "accelerator_type:TPU-V4": 1} | head,
        labels={
            "ray.io/tpu-slice-name": "slice-0",
            "ray.io/tpu-worker-id": str(number),
            "ray.io/tpu-topology": "2x2x2",
            "ray.io/tpu-pod-type": "v4-16",
        },
        env_vars=identity,
    )


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A fresh head without CPUs for tasks, as the operator starts it."""
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    yield found
    found.shutdown()


class Drive:
    """The driver as a process, with its metrics endpoint."""

    def __init__(self, cluster: Cluster, config: Path, log: Path) -> None:
        self._log, self._port = log, free_port()
        command = [sys.executable, "-m", "dpojob_trainer", "drive", "--config", str(config)]
        with log.open("w") as file:
            self._process = subprocess.Popen(
                [*command, "--metrics-port", str(self._port)],
                env=os.environ | {"RAY_ADDRESS": cluster.address},
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def stop(self) -> None:
        """Kill the driver if it still runs."""
        self._process.kill()
        self._process.wait()

    def wait_for_step(self, step: int) -> None:
        """Wait until the metrics say that `step` is done."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while self.scrape().get(metrics.STEP, 0) < step:
            assert self._process.poll() is None, (
                f"the driver ended before step {step}: {self._log.read_text()}"
            )
            assert time.monotonic() < deadline, f"step {step} was not reached in {DEADLINE_SECONDS} s"
            time.sleep(0.2)

    def scrape(self) -> dict[str, float]:
        """Return the gauges, none while the endpoint is not up; like an operator that has recorded all of them."""
        address = f"http://127.0.0.1:{self._port}/metrics"
        request = urllib.request.Request(address, headers={RECORDED_HEADER: "true"})
        try:
            with urllib.request.urlopen(request, timeout=5) as reply:
                families = text_string_to_metric_families(reply.read().decode())
                return {sample.name: sample.value for family in families for sample in family.samples}
        except (OSError, HTTPException):
            # The driver may end in the middle of an answer.
            return {}

    def end(self) -> tuple[int, TrainerResult, str]:
        """Scrape until the driver ends; return exit code, result and the whole log."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while self._process.poll() is None:
            if time.monotonic() > deadline:
                self._process.kill()
                pytest.fail(f"the driver hangs: {self._log.read_text()[-3000:]}")
            self.scrape()
            time.sleep(0.5)
        text = self._log.read_text()
        result = find_result(text)
        assert result is not None, text[-3000:]
        return self._process.returncode, result, text


Start = Callable[[TrainerConfig], Drive]


@pytest.fixture
def start(cluster: Cluster, claim: Claim, tmp_path: Path) -> Iterator[Start]:
    """Start drivers that do not outlive the test."""
    drives: list[Drive] = []

    def start(config: TrainerConfig) -> Drive:
        drives.append(Drive(cluster, claim.write_config(config), tmp_path / f"driver-{len(drives)}.log"))
        return drives[-1]

    yield start
    for drive in drives:
        drive.stop()


def losses(claim: Claim, output: str) -> list[float]:
    return [line["loss"] for line in claim.metrics(output) if "loss" in line]


def two_hosts(claim: Claim, name: str, **spec: Any) -> TrainerConfig:
    return claim.config(name, **(TWO_HOSTS | spec))


def sampled(claim: Claim, name: str) -> TrainerConfig:
    """A job that completes two prompts before and after."""
    output = {"uri": f"pvc://{claim.name}/{name}", "sampleCompletions": 2, "sampleTokens": 8}
    return two_hosts(claim, name, output=output)


def before(claim: Claim, name: str) -> list[str]:
    """What the base model said; of the tuned model both runs told something."""
    told = claim.summary(name)["samples"]["completions"]
    assert len(told) == 2 and all(one["after"] is not None for one in told)
    return [one["before"] for one in told]


def test_two_processes_train_like_one(cluster: Cluster, claim: Claim, start: Start) -> None:
    for number in range(2):
        add_host(cluster, number)
    config = sampled(claim, "slice")
    code, result, log = start(config).end()
    assert (code, result.reason, result.step) == (0, TrainerReason.SUCCEEDED, 12), log[-3000:]
    assert len(claim.summary("slice")["hosts"]) == 2
    assert (claim.path / "slice" / "model" / "tokenizer.json").is_file()
    assert "Fatal Python error" not in log, "the hosts part in peace"

    alone = claim.write_config(sampled(claim, "alone"))
    code, _, log = run_trainer(["local", "--config", str(alone)], seconds=DEADLINE_SECONDS)
    assert code == 0, log
    assert losses(claim, "slice") == pytest.approx(losses(claim, "alone"), abs=1e-3)
    assert before(claim, "slice") == before(claim, "alone")


def test_two_slices_train_like_one_machine(cluster: Cluster, claim: Claim, start: Start) -> None:
    for number in (1, 0):
        add_slice(cluster, number)
    several = {"accelerator": {"type": "v4-8", "slices": 2}, "mesh": {"dp": 2}}
    code, result, log = start(claim.config("slices", **several)).end()
    assert (code, result.reason, result.step) == (0, TrainerReason.SUCCEEDED, 12), log[-3000:]
    hosts = claim.summary("slices")["hosts"]
    assert len(hosts) == 2

    alone = claim.write_config(claim.config("one", **several))
    code, _, log = run_trainer(["local", "--config", str(alone)], seconds=DEADLINE_SECONDS)
    assert code == 0, log
    assert losses(claim, "slices") == pytest.approx(losses(claim, "one"), abs=1e-3)


def test_a_lost_host_ends_the_attempt_and_the_next_one_resumes(
    cluster: Cluster, claim: Claim, start: Start
) -> None:
    add_host(cluster, 0)
    second = add_host(cluster, 1)
    spec = {"training": TRAINING | {"maxSteps": 30}}
    first = start(two_hosts(claim, "lost", **spec))
    first.wait_for_step(7)
    cluster.remove_node(second, allow_graceful=False)
    code, result, _ = first.end()
    assert (code, result.reason) == (1, TrainerReason.HOST_LOST)
    assert "host 1" in result.message
    assert not (claim.path / "lost" / "model").exists()

    add_host(cluster, 1)
    code, result, log = start(two_hosts(claim, "lost", attempt=2, **spec)).end()
    assert (code, result.step) == (0, 30), log[-3000:]
    assert claim.summary("lost")["resumedFrom"] >= 5


def test_a_host_that_is_told_to_stop_saves_and_the_next_attempt_goes_on_there(
    cluster: Cluster, claim: Claim, start: Start
) -> None:
    """The signal is the one that the pod's preStop hook sends."""
    for number in range(2):
        add_host(cluster, number)
    spec = {"training": TRAINING | {"maxSteps": 30}}
    others = set(stopping.running(stopping.FOLDER))
    first = start(two_hosts(claim, "told", **spec))
    first.wait_for_step(7)
    hosts = [file for file in set(stopping.running(stopping.FOLDER)) - others if file.suffix == ".host"]
    assert len(hosts) == 2
    os.kill(int(hosts[0].stem), signal.SIGTERM)
    code, result, log = first.end()
    assert (code, result.reason) == (1, TrainerReason.PREEMPTED), log[-3000:]
    assert result.step is not None and result.step >= 7

    code, done, log = start(two_hosts(claim, "told", attempt=2, **spec)).end()
    assert (code, done.step) == (0, 30), log[-3000:]
    assert claim.summary("told")["resumedFrom"] == result.step


def test_eformer_trains_on_two_hosts(cluster: Cluster, claim: Claim, start: Start) -> None:
    for number in range(2):
        add_host(cluster, number)
    config = two_hosts(claim, "eformer", runtime={"platform": "cpu", "launcher": "eformer"})
    code, result, log = start(config).end()
    assert (code, result.reason, result.step) == (0, TrainerReason.SUCCEEDED, 12), log[-3000:]
    assert len(claim.summary("eformer")["hosts"]) == 2


def test_a_failure_on_the_hosts_reaches_the_driver_through_eformer(
    cluster: Cluster, claim: Claim, start: Start
) -> None:
    """eformer returns failures as values and its driver would exit 0."""
    for number in range(2):
        add_host(cluster, number)
    config = two_hosts(claim, "failing", runtime={"platform": "cpu", "launcher": "eformer"})
    store.open_store(config.output.uri).claim(config.job.uid, config.job.name)
    (claim.path / "failing" / "checkpoints").write_text("a file where a folder should be")
    code, result, _ = start(config).end()
    assert (code, result.reason) == (1, TrainerReason.CHECKPOINT_FAILED)
