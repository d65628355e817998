"""Checkpoints of a small state on 8 virtual devices: damage, retention, other meshes. Orbax is real, EasyDeL absent."""

import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

if "jax" not in sys.modules:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dpojob_api.constants import OUTPUT_CHECKPOINTS
from dpojob_api.reasons import TrainerReason
from dpojob_api.training_spec import TrainingSpec
from dpojob_trainer.errors import TrainerError
from dpojob_trainer.training.checkpoints import Checkpoints
from dpojob_trainer.training.retention import MARGIN

pytestmark = pytest.mark.jax

WIDTH = 64


@dataclass(frozen=True)
class State:
    """As much of an EasyDeL state as checkpoints use."""

    graphstate: Any
    opt_state: Any
    step: Any

    def replace(self, **changes: Any) -> "State":
        return replace(self, **changes)


def shardings(devices: int = 8, width: int = WIDTH) -> State:
    mesh = Mesh(np.array(jax.devices()[:devices]), ("fsdp",))
    sharded, whole = (NamedSharding(mesh, spec) for spec in (PartitionSpec("fsdp"), PartitionSpec()))
    return State({"kernel": sharded, "bias": whole}, {"mu": {"kernel": sharded}, "count": whole}, whole)


def state(step: int, devices: int = 8, width: int = WIDTH) -> State:
    """A state whose numbers follow from the step."""
    numbers = np.random.default_rng(step).normal(size=(2, width, 32)).astype(np.float32)
    values = State(
        {"kernel": numbers[0], "bias": numbers[0, 0]},
        {"mu": {"kernel": numbers[1]}, "count": np.int32(step)},
        np.int32(step),
    )
    return jax.tree.map(jax.device_put, values, shardings(devices))


def equal(one: State, two: State) -> bool:
    return all(
        jax.tree.leaves(jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), one, two))
    )


jax.tree_util.register_dataclass(State, ["graphstate", "opt_state", "step"], [])

Open = Callable[..., Checkpoints]


@pytest.fixture
def opened(tmp_path: Path) -> Any:
    """Open the folder of the test as a new attempt would; `root` names another one."""
    found: list[Checkpoints] = []

    def opened(root: Path = tmp_path, **training: Any) -> Checkpoints:
        found.append(Checkpoints(str(root), TrainingSpec(**training)))
        return found[-1]

    yield opened
    for checkpoints in found:
        checkpoints.close()


def save(checkpoints: Checkpoints, *steps: int, margins: dict[int, float] | None = None) -> None:
    for step in steps:
        margin = (margins or {}).get(step)
        checkpoints.save(state(step), step, None if margin is None else {MARGIN: margin, "loss": 0.5})
    checkpoints.wait()


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flip(path: Path) -> None:
    """Change a byte in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def damage(root: Path, step: int) -> None:
    """Truncate every array file of a checkpoint."""
    files = [file for file in folder(root, step).rglob("d/*") if file.is_file()]
    assert files, "Orbax keeps arrays elsewhere now"
    for file in files:
        truncate(file)


def folder(root: Path, step: int) -> Path:
    return root / OUTPUT_CHECKPOINTS / f"step_{step}"


def test_what_was_saved_comes_back(opened: Open) -> None:
    save(opened(), 5, 10)
    found, step = opened().restore(state(0), shardings())
    assert step == 10 and equal(found, state(10))


def test_without_checkpoints_the_state_stays(opened: Open) -> None:
    found, step = opened().restore(state(0), shardings())
    assert step == 0 and equal(found, state(0))


@pytest.mark.parametrize("harm", [truncate, flip])
def test_whatever_file_is_harmed_the_state_is_right(
    opened: Open, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    """Each file of the newest checkpoint in turn is harmed: then the older one is used, or nothing is lost."""
    save(opened(), 5, 10)
    files = [
        f.relative_to(tmp_path) for f in folder(tmp_path, 10).rglob("*") if f.is_file() and f.stat().st_size
    ]
    used = {}
    for number, name in enumerate(files):
        root = tmp_path / f"copy-{number}"
        shutil.copytree(tmp_path / OUTPUT_CHECKPOINTS, root / OUTPUT_CHECKPOINTS)
        harm(root / name)
        found, used[str(name)] = opened(root).restore(state(0), shardings())
        assert used[str(name)] in (5, 10) and equal(found, state(used[str(name)])), name
    assert {
        used[f"{OUTPUT_CHECKPOINTS}/step_10/{item}/manifest.ocdbt"] for item in ("parameters", "optimizer")
    } == {5}
    assert 5 in {step for name, step in used.items() if "/d/" in name}


@pytest.mark.parametrize("gone", ["optimizer", "parameters", "parameters/manifest.ocdbt"])
def test_a_checkpoint_without_a_part_is_skipped(
    opened: Open, tmp_path: Path, gone: str, caplog: pytest.LogCaptureFixture
) -> None:
    save(opened(), 5, 10)
    path = folder(tmp_path, 10) / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    found, step = opened().restore(state(0), shardings())
    assert step == 5 and equal(found, state(5))
    assert "the checkpoint of step 10 is damaged and is skipped" in caplog.text


def test_a_skipped_checkpoint_can_be_saved_again(opened: Open, tmp_path: Path) -> None:
    save(opened(), 5, 10)
    damage(tmp_path, 10)
    again = opened()
    assert again.restore(state(0), shardings())[1] == 5
    save(again, 10)
    found, step = opened().restore(state(0), shardings())
    assert step == 10 and equal(found, state(10))


def test_a_skipped_checkpoint_is_saved_again_by_another_mesh(opened: Open, tmp_path: Path) -> None:
    """TensorStore refuses to write arrays with other chunks over those of the damaged checkpoint."""
    save(opened(), 5, 10)
    damage(tmp_path, 10)
    again = opened()
    assert again.restore(state(0, 2), shardings(2))[1] == 5
    again.save(state(10, 2), 10, None)
    again.wait()
    found, step = opened().restore(state(0), shardings())
    assert step == 10 and equal(found, state(10))


def test_a_half_written_checkpoint_is_not_seen(opened: Open, tmp_path: Path) -> None:
    """Orbax writes into a folder of a temporary name; that of a writer that died is removed."""
    save(opened(), 5, 10)
    left = folder(tmp_path, 10).rename(folder(tmp_path, 10).with_name("step_10.orbax-checkpoint-tmp-7"))
    assert opened().restore(state(0), shardings())[1] == 5
    deadline = time.monotonic() + 60
    while left.exists():
        assert time.monotonic() < deadline, f"60 s after the manager was opened {left.name} is still there"
        time.sleep(0.1)


def test_when_all_are_damaged_nothing_starts_over(opened: Open, tmp_path: Path) -> None:
    save(opened(), 5, 10)
    damage(tmp_path, 5)
    damage(tmp_path, 10)
    with pytest.raises(TrainerError) as caught:
        opened().restore(state(0), shardings())
    assert caught.value.reason is TrainerReason.RESTORE_FAILED
    assert "steps 10, 5" in caught.value.message and "delete that folder" in caught.value.message
    assert folder(tmp_path, 10).exists() and folder(tmp_path, 5).exists()


def test_the_checkpoint_of_another_model_is_refused(opened: Open) -> None:
    save(opened(), 5)
    with pytest.raises(TrainerError) as caught:
        opened().restore(state(0, width=2 * WIDTH), shardings())
    assert caught.value.reason is TrainerReason.RESTORE_FAILED


def test_a_lack_of_memory_is_no_damage(opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(opened(), 5, 10)

    def exhausted(*_: Any) -> None:
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")

    monkeypatch.setattr(Checkpoints, "_read", exhausted)
    with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED"):
        opened().restore(state(0), shardings())
    assert folder(tmp_path, 10).exists()


@pytest.mark.parametrize("words", ["UNAVAILABLE: CURL error", "DEADLINE_EXCEEDED", "Stale file handle"])
def test_an_outage_is_no_damage(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    save(opened(), 5, 10)

    def away(*_: Any) -> None:
        raise ValueError(words)

    monkeypatch.setattr(Checkpoints, "_read", away)
    with pytest.raises(TrainerError, match=words) as caught:
        opened().restore(state(0), shardings())
    assert caught.value.reason is TrainerReason.DOWNLOAD_FAILED
    assert folder(tmp_path, 5).exists() and folder(tmp_path, 10).exists()


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_it_restores_on_other_devices(opened: Open, devices: int) -> None:
    save(opened(), 5)
    found, _ = opened().restore(state(0, devices), shardings(devices))
    assert equal(found, state(5)) and len(found.graphstate["kernel"].sharding.device_set) == devices


@pytest.mark.parametrize(
    ("training", "kept"),
    [
        ({"checkpoints_to_keep": 2}, [9, 8]),
        ({"checkpoints_to_keep": 0}, list(range(9, 0, -1))),
        ({"checkpoints_to_keep": 1, "keep_checkpoint_every": 4}, [9, 8, 4]),
        ({"checkpoints_to_keep": 2, "keep_best_checkpoint": True}, [9, 8, 3]),
        ({"checkpoints_to_keep": 1, "keep_checkpoint_every": 5, "keep_best_checkpoint": True}, [9, 5, 3]),
    ],
    ids=["newest", "all", "every", "best", "every and best"],
)
def test_retention(opened: Open, training: dict[str, Any], kept: list[int]) -> None:
    """The best margin is at step 3; it has one at odd steps only, and half of the steps are saved by another attempt."""
    margins = {1: 0.1, 3: 0.9, 5: 0.5, 7: -0.2, 9: 0.8}
    save(opened(**training), 1, 2, 3, 4, margins=margins)
    last = opened(**training)
    save(last, 5, 6, 7, 8, 9, margins=margins)
    assert last.steps() == opened(**training).steps() == kept


def test_metrics_that_cannot_be_read_are_none(opened: Open, tmp_path: Path) -> None:
    best = {"checkpoints_to_keep": 1, "keep_best_checkpoint": True}
    save(opened(**best), 1, 2, margins={1: 0.9, 2: 0.1})
    truncate(folder(tmp_path, 1) / "metrics" / "metrics")
    again = opened(**best)
    save(again, 3, margins={3: 0.2})
    assert again.steps() == [3]
