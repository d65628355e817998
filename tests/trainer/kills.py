"""A run on one or two hosts as processes that can be killed: the real `run_host`, with the caller as their driver.

Chips are not real: every host computes on 4 virtual CPU devices, and gloo carries the collectives between two hosts.
"""

import os
import pickle
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tests.trainer.jobs import TRAINING, Claim

from dpojob_api.constants import OUTPUT_CHECKPOINTS
from dpojob_api.result import TrainerResult
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer import store
from dpojob_trainer.channel import Receiver
from dpojob_trainer.host import HostTask, launch_environment
from dpojob_trainer.progress import Begun, HostReport, Phase, Step

DEADLINE_SECONDS = 420.0
ACCELERATORS = {1: "v4-8", 2: "v4-16"}
HOST = (
    "import pickle, sys\n"
    "from dpojob_trainer.host import run_host\n"
    "sys.exit(0 if run_host(pickle.load(sys.stdin.buffer)) else 1)\n"
)
EXACT = (
    "loss",
    "grad_norm",
    "learning_rate",
    "rewards/chosen",
    "rewards/rejected",
    "logps/chosen",
    "logps/rejected",
)


def job(claim: Claim, output: str, hosts: int, attempt: int = 1, **training: Any) -> TrainerConfig:
    """Return a job of the tiny model on `hosts` hosts that writes a checkpoint every 3 steps."""
    spec = {
        "accelerator": {"type": ACCELERATORS[hosts]},
        "training": TRAINING | {"checkpointSteps": 3} | training,
    }
    return claim.config(output, attempt=attempt, **spec)


class Process(Protocol):
    """What `subprocess.Popen` offers, as far as it is used here."""

    def poll(self) -> int | None: ...
    def send_signal(self, sig: int, /) -> None: ...
    def kill(self) -> None: ...
    def wait(self, timeout: float | None = None) -> int: ...


Spawn = Callable[[TrainerConfig, HostTask, Path], Process]


def fresh(config: TrainerConfig, task: HostTask, log: Path) -> Process:
    """Start a host as a new process."""
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", HOST],
            env=os.environ | launch_environment(config),
            stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(pickle.dumps(task))
    process.stdin.close()
    return process


class Hosts:
    """The processes of one attempt."""

    def __init__(self, config: TrainerConfig, log: Path, spawn: "Spawn | None" = None) -> None:
        spawn = spawn or fresh
        store.open_store(config.output.uri).claim(config.job.uid, config.job.name)
        self.step, self.loading, self.begun = 0, False, False
        self.outcomes: dict[int, HostReport | TrainerResult] = {}
        self._log = log
        self._receiver = Receiver("127.0.0.1", secrets.token_bytes(16))
        addresses, port = ("127.0.0.1",) * config.plan.hosts, free_port()
        tasks = [
            HostTask(config.to_json(), rank, addresses, port, self._receiver.address)
            for rank in range(config.plan.hosts)
        ]
        self._processes = [spawn(config, task, log) for task in tasks]

    def listen(self, seconds: float) -> None:
        """Take in one message if one comes in time."""
        message = self._receiver.get(seconds)
        if message is None:
            return
        match message.payload:
            case Step(step=step):
                self.step = step
            case Phase():
                self.loading = True
            case Begun(step=step):
                self.step, self.begun = step, True
            case HostReport() | TrainerResult() as outcome:
                self.outcomes[message.rank] = outcome

    def wait_for(self, wanted: Callable[[], bool], what: str) -> bool:
        """Wait until something is so; return False if all hosts end before.

        Raises:
            AssertionError: neither happens in time.
        """
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not wanted():
            if len(self.outcomes) == len(self._processes) or all(
                p.poll() is not None for p in self._processes
            ):
                return wanted()
            assert time.monotonic() < deadline, (
                f"{what} did not happen in {DEADLINE_SECONDS:.0f} s: {self.tail()}"
            )
            self.listen(0.002)
        return True

    def end(self) -> dict[int, HostReport | TrainerResult]:
        """Wait until every host has told its outcome and has ended; return the outcomes by rank."""
        everyone = len(self._processes)
        self.wait_for(lambda: len(self.outcomes) == everyone, "the end")
        for process in self._processes:
            process.wait(60)
        self.listen(1.0)
        return self.outcomes

    def signal(self, number: signal.Signals, *ranks: int) -> None:
        """Send a signal to some hosts."""
        for rank in ranks:
            self._processes[rank].send_signal(number)

    def kill(self) -> None:
        """Kill all that still run, the last one first, as a driver does once it has lost a host."""
        for process in reversed(self._processes):
            process.kill()
        for process in self._processes:
            process.wait(60)
        self._receiver.__exit__(None, None, None)

    def tail(self) -> str:
        """Return the end of the hosts' log."""
        return self._log.read_text(errors="replace")[-3000:]


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def finish(config: TrainerConfig, log: Path, spawn: Spawn | None = None) -> None:
    """Run to the end.

    Raises:
        AssertionError: a host fails.
    """
    hosts = Hosts(config, log, spawn)
    try:
        outcomes = hosts.end()
    finally:
        hosts.kill()
    assert len(outcomes) == config.plan.hosts, hosts.tail()
    assert all(isinstance(found, HostReport) for found in outcomes.values()), hosts.tail()


@dataclass(frozen=True)
class Kill:
    """One kill.

    Attributes:
        resumed_from: the step at which the killed attempt began.
        killed_at: the last step that it told.
        writing: whether a checkpoint was half-written at that moment.
    """

    resumed_from: int
    killed_at: int
    writing: bool


@dataclass
class Comparison:
    """Steps of killed attempts against those of the uninterrupted run."""

    kills: list[Kill] = field(default_factory=list)
    resumed_from: list[int] = field(default_factory=list)
    steps_compared: int = 0
    max_deviation: float = 0.0

    @property
    def lost_steps(self) -> list[int]:
        """Steps that were done again after each kill."""
        return [k.killed_at - r for k, r in zip(self.kills, self.resumed_from[1:], strict=True)]


def torture(
    claim: Claim,
    whole: str,
    output: str,
    hosts: int,
    kills: int,
    seed: int,
    log: Path,
    total: int,
    spawn: Spawn,
) -> Comparison:
    """Kill and restart a job `kills` times at random moments, let it finish, and compare it with the output `whole`."""
    found = Comparison()
    checkpoints = claim.path / output / OUTPUT_CHECKPOINTS
    for attempt in range(1, kills + 1):
        config = job(claim, output, hosts, attempt, maxSteps=total)
        kill = kill_once(config, checkpoints, random.Random(f"{seed}/{attempt}"), log, spawn)
        assert kill is not None, f"the run ended before kill {attempt}"
        found.kills.append(kill)
    finish(job(claim, output, hosts, kills + 1, maxSteps=total), log, spawn)
    compare(claim, whole, output, found)
    return found


def kill_once(
    config: TrainerConfig, checkpoints: Path, chance: random.Random, log: Path, spawn: Spawn | None = None
) -> Kill | None:
    """Start an attempt and kill it some steps later, every other time in the middle of a checkpoint; None if it ends first."""
    during_write, wait, more = chance.random() < 0.5, chance.uniform(0, 0.05), chance.randint(0, 7)
    hosts = Hosts(config, log, spawn)
    try:
        if not hosts.wait_for(lambda: hosts.begun, "training"):
            return None
        first = hosts.step
        if not hosts.wait_for(lambda: hosts.step >= first + more, f"step {first + more}"):
            return None
        if during_write:
            hosts.wait_for(lambda: half_written(checkpoints), "a checkpoint's beginning")
        else:
            time.sleep(wait)
        hosts.signal(signal.SIGKILL, chance.randrange(config.plan.hosts))
    finally:
        hosts.kill()
    hosts.listen(0.2)
    return None if hosts.outcomes else Kill(first, hosts.step, half_written(checkpoints))


def half_written(checkpoints: Path) -> bool:
    """Whether Orbax has begun a checkpoint and not ended it."""
    return any(".orbax-checkpoint-tmp" in entry.name for entry in checkpoints.glob("*"))


def compare(claim: Claim, whole: str, output: str, found: Comparison) -> None:
    """Add to `found` the largest difference between the steps of two outputs, and where each attempt began."""
    expected = {line["step"]: line for line in claim.metrics(whole) if "loss" in line}
    lines = [line for line in claim.metrics(output) if "loss" in line]
    for line in lines:
        found.steps_compared += 1
        deviations = (abs(line[name] - expected[line["step"]][name]) for name in EXACT)
        found.max_deviation = max(found.max_deviation, *deviations)
    assert {line["step"] for line in lines} == set(expected), "steps are missing"
    found.resumed_from += [begun_at(lines, k, attempt) for attempt, k in enumerate([*found.kills, None], 1)]


def begun_at(lines: list[dict[str, Any]], kill: Kill | None, attempt: int) -> int:
    """Return the step after which an attempt began."""
    if kill is not None:
        return kill.resumed_from
    steps = [line["step"] for line in lines if line["attempt"] == attempt]
    return int(min(steps) - 1 if steps else max(line["step"] for line in lines))
