"""EasyDeL 0.3.0's traps, and that the pinned version still has them: a test that is named here fails on the plain library.

| | trap of the plain library | what shows that ours is free of it |
|---|---|---|
| 1 | a failure in a hook, a NaN, a failed save end as success | test_training: `an_error_around_a_step`, `a_loss_that_is_not_finite`, `a_checkpoint_that_cannot_be_written` |
| 2 | a failed resume starts over at step 0 | test_training: `broken_checkpoints_are_not_silently_started_over` |
| 3 | no shuffle | test_batches: `every_epoch_has_its_own_order`, `the_order_of_a_seed`, `a_far_step` |
| 4 | two processes that save to one folder race | test_kills with two hosts, test_weights: `two_processes_write_one_directory` |
| 5 | evaluation without data fails after training | test_training: `gradient_accumulation` and all of test_identities have none |
| 6 | W&B is asked for a key by default | test_tracking: `event_files_hold_every_number` (no W&B), `wandb_*`, `other_hosts_open_no_run` |
| 7 | a precomputed reference needs a mesh context | ours is computed under the model's mesh: test_identities, every mesh |
| 8 | fewer pairs than a batch succeed with 0 steps or end with an error about warm-up; the last evaluation batch is dropped | test_data: `fewer_pairs_than_a_batch`; test_batches: `every_held_out_pair_counts_exactly_once` |
| 9 | EOS twice, the prompt column ignored, lengths | test_trl_ids, test_data |
| 10 | bfloat16 parameters hardly move | test_identities: `a_small_learning_rate_reaches_nearly_every_weight` |
| 11 | the logits of a batch are formed at once | test_batches: `large_logits_are_formed_in_chunks`; parity's case chunked-head |
| 12 | every host must see the same rows in the same order, unchecked | test_data: `same_on_every_host`; test_agreement: `hosts_with_other_pairs_do_not_train` |
| 13 | the last save rewrites a checkpoint in place | test_training: `the_best_checkpoint_is_kept_and_rated` counts the saves |
| 14 | importing it rewrites XLA_FLAGS, LIBTPU_INIT_ARGS, NCCL's variables | test_weights: `one_device_and_no_torch`, `two_processes` |
| 15 | saving over another mesh's folder fails | test_checkpoints: `a_skipped_checkpoint_is_saved_again_by_another_mesh` |
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.trainer import tiny_models
from tests.trainer.kills import free_port

pytestmark = [pytest.mark.jax, pytest.mark.slow]
SECONDS = 900
ALONE = {name: value for name, value in os.environ.items() if name not in ("EASYDEL_AUTO", "XLA_FLAGS")} | {
    "WANDB_MODE": "disabled",
    "ENABLE_DISTRIBUTED_INIT": "0",
}


def findings(folder: Path, *names: str, **variables: str) -> dict[str, Any]:
    """Return what `plain_easydel.py` finds, by default all that one device is enough for."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.trainer.plain_easydel", str(folder), *names],
        cwd=Path(__file__).parents[2],
        env=ALONE | variables,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def findings_of_hosts(folder: Path, name: str) -> list[Any]:
    """Return what each of two hosts finds, see `plain_hosts.py`; None for one that the other one's end has ended."""
    tiny_models.write_model(folder / "model", tiny_models.QWEN3)
    address = f"127.0.0.1:{free_port()}"
    hosts = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.trainer.plain_hosts", str(folder), name, address, str(rank)],
            cwd=Path(__file__).parents[2],
            env=ALONE | {"JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        told = [host.communicate(timeout=SECONDS)[0].splitlines() for host in hosts]
    finally:
        for host in hosts:
            host.kill()
    return [
        next((json.loads(line)["found"] for line in lines if line.startswith('{"found"')), None)
        for lines in told
    ]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run on one device meets."""
    return findings(tmp_path_factory.mktemp("plain"))


def test_1_a_failure_in_a_hook_is_a_success(plain: dict[str, Any]) -> None:
    assert plain["failure_in_a_hook"] < 2


def test_2_a_damaged_checkpoint_is_started_over(plain: dict[str, Any]) -> None:
    assert plain["damaged_checkpoint"] == {"saved": True, "begun": [0, 1]}


def test_3_both_epochs_have_the_order_of_the_file(plain: dict[str, Any]) -> None:
    first, second = plain["two_epochs"][:2], plain["two_epochs"][2:]
    assert first == second and len(first) == 2


def test_4_two_hosts_that_save_meet_in_one_file(tmp_path: Path) -> None:
    assert "JSONDecodeError" in findings_of_hosts(tmp_path, "index_in_use")


def test_5_evaluation_without_data_fails_after_training(plain: dict[str, Any]) -> None:
    assert plain["evaluation_without_data"] == "TypeError"


def test_6_a_machine_without_a_key_for_wandb_cannot_begin(plain: dict[str, Any]) -> None:
    assert plain["wandb_by_default"] == "UsageError"


def test_7_a_precomputed_reference_lacks_its_mesh(plain: dict[str, Any]) -> None:
    assert "No mesh found" in plain["precomputed_reference"]


def test_8_too_few_pairs_are_told_as_something_else(plain: dict[str, Any]) -> None:
    assert plain["fewer_pairs_than_a_batch"] == "Steps required when using warmup"


def test_9_a_completion_has_its_end_twice(plain: dict[str, Any]) -> None:
    assert plain["end_of_a_completion"].count("<|im_end|>") == 2


def test_10_bfloat16_parameters_hardly_move(plain: dict[str, Any]) -> None:
    assert plain["changed_in_bfloat16"] < 0.5


def test_11_the_logits_of_a_batch_are_formed_at_once(plain: dict[str, Any]) -> None:
    """8 sequences of 32 positions, as the prompts' logits are formed too; 512 tokens."""
    assert plain["logits_of_a_batch"] == [8, 32, 512]


def test_12_hosts_train_on_rows_in_other_orders(tmp_path: Path) -> None:
    first, second = findings_of_hosts(tmp_path, "another_order")
    assert first["steps"] == second["steps"] == 2
    assert first["first"] != second["first"]


def test_13_the_last_checkpoint_is_written_twice(plain: dict[str, Any]) -> None:
    assert plain["saves"] == [1, 2, 2]


def test_14_importing_it_changes_the_flags_of_the_process(plain: dict[str, Any]) -> None:
    assert {"XLA_FLAGS", "LIBTPU_INIT_ARGS"} & set(plain["environment"])


def test_15_another_mesh_cannot_save_to_a_folder(tmp_path: Path) -> None:
    eight = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    assert "FAILED_PRECONDITION" in findings(tmp_path, "another_mesh", **eight)["another_mesh"]
