"""SIGKILL and SIGTERM to real host processes with the real EasyDeL, one host and two; see `kills.py`.

What an attempt does must be, to the last bit, what the uninterrupted run does at the same steps.
"""

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.trainer.jobs import Claim
from tests.trainer.kills import Comparison, Hosts, Spawn, compare, finish, job, torture
from tests.trainer.warm import Warm

from dpojob_api.constants import OUTPUT_CHECKPOINTS
from dpojob_api.reasons import TrainerReason
from dpojob_api.result import TrainerResult
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer.progress import HostReport
from dpojob_trainer.store.marker import MARKER, marker_text

pytestmark = [pytest.mark.jax, pytest.mark.slow]

# By hosts. A checkpoint is due every 3 steps and at the end, so the newest two are those of the last two steps.
TOTAL = {1: 31, 2: 13}
KILLS = {1: 4, 2: 1}
SEED = 20261124


@pytest.fixture(scope="module", params=[1, 2], ids=["one host", "two hosts"])
def hosts(request: pytest.FixtureRequest) -> int:
    found: int = request.param
    return found


@pytest.fixture(scope="module")
def spawn(claim: Claim) -> Iterator[Spawn]:
    """Forks hosts from a process that has imported EasyDeL."""
    with Warm(job(claim, "any", 1)) as warm:
        yield warm


@pytest.fixture(scope="module")
def whole(claim: Claim, hosts: int, spawn: Spawn, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of the uninterrupted run's output."""
    finish(
        job(claim, f"whole-{hosts}", hosts, maxSteps=TOTAL[hosts]),
        tmp_path_factory.mktemp("whole") / "log",
        spawn,
    )
    return f"whole-{hosts}"


Start = Callable[[TrainerConfig], Hosts]


@pytest.fixture
def start(tmp_path: Path, spawn: Spawn) -> Iterator[Start]:
    """Start hosts that do not outlive the test."""
    started: list[Hosts] = []

    def start(config: TrainerConfig) -> Hosts:
        started.append(Hosts(config, tmp_path / "log", spawn))
        return started[-1]

    yield start
    for found in started:
        found.kill()


def test_killed_at_any_moment_it_repeats_the_uninterrupted_run(
    claim: Claim, hosts: int, whole: str, tmp_path: Path, spawn: Spawn
) -> None:
    found = torture(
        claim, whole, f"killed-{hosts}", hosts, KILLS[hosts], SEED, tmp_path / "log", TOTAL[hosts], spawn
    )
    assert len(found.kills) == KILLS[hosts]
    assert found.max_deviation == 0.0


def test_told_to_stop_it_saves_exactly_this_step(claim: Claim, hosts: int, whole: str, start: Start) -> None:
    """Only one of the hosts is told; step 4 has no checkpoint of its own."""
    output = f"told-{hosts}"
    first = start(job(claim, output, hosts, maxSteps=TOTAL[hosts]))
    first.wait_for(lambda: first.step >= 4, "step 4")
    first.signal(signal.SIGTERM, hosts - 1)
    outcomes = [found for _, found in sorted(first.end().items())]
    assert len(outcomes) == hosts
    assert all(
        isinstance(found, TrainerResult) and found.reason is TrainerReason.PREEMPTED for found in outcomes
    )
    (step,) = {found.step for found in outcomes}
    assert step is not None and 4 <= step < TOTAL[hosts]
    assert (claim.path / output / OUTPUT_CHECKPOINTS / f"step_{step}").is_dir()

    again = start(job(claim, output, hosts, 2, maxSteps=TOTAL[hosts]))
    again.wait_for(lambda: again.begun, "training")
    assert again.step == step
    again.end()
    found = Comparison()
    compare(claim, whole, output, found)
    assert (found.max_deviation, found.steps_compared) == (0.0, TOTAL[hosts])


def test_told_to_stop_while_it_loads_it_ends_at_once(claim: Claim, hosts: int, start: Start) -> None:
    first = start(job(claim, f"early-{hosts}", hosts, maxSteps=TOTAL[hosts]))
    first.wait_for(lambda: first.loading, "loading")
    first.signal(signal.SIGTERM, 0)
    first.wait_for(lambda: 0 in first.outcomes, "the end of host 0")
    outcome = first.outcomes[0]
    assert isinstance(outcome, TrainerResult) and outcome.reason is TrainerReason.PREEMPTED
    assert "before it began to train" in outcome.message and not first.begun


def test_what_one_host_cannot_read_no_host_uses(claim: Claim, hosts: int, whole: str, start: Start) -> None:
    """Only files that the last host wrote are cut."""
    output = f"damaged-{hosts}"
    checkpoints = claim.path / output / OUTPUT_CHECKPOINTS
    shutil.copytree(claim.path / whole / OUTPUT_CHECKPOINTS, checkpoints)
    config = job(claim, output, hosts, 2, maxSteps=TOTAL[hosts])
    (claim.path / output / MARKER).write_text(marker_text(config.job.uid, config.job.name))
    own = list((checkpoints / f"step_{TOTAL[hosts]}").rglob(f"ocdbt.process_{hosts - 1}/d/*"))
    assert own, "Orbax keeps arrays elsewhere now"
    for file in own:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    outcomes = start(config).end()
    resumed = [found.resumed_from for found in outcomes.values() if isinstance(found, HostReport)]
    assert resumed == [TOTAL[hosts] - 1] * hosts
    losses = [
        {line["step"]: line["loss"] for line in claim.metrics(o) if "loss" in line} for o in (output, whole)
    ]
    assert losses[0] == {TOTAL[hosts]: losses[1][TOTAL[hosts]]}
