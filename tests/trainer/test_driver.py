"""The driver: what counts as success, how failures end, and the command's last line.

The gang is a fake (hosts are threads of the test that speak the real channel); real processes are in test_launchers.
"""

import json
import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.trainer.jobs import Claim, run_trainer

from dpojob_api import metrics
from dpojob_api.reasons import TrainerReason
from dpojob_api.result import TrainerResult, find_result
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer import driver, store
from dpojob_trainer.board import Board
from dpojob_trainer.channel import Address, Payload, Receiver, Sender
from dpojob_trainer.errors import TrainerError
from dpojob_trainer.launchers.nodes import wait_for_hosts
from dpojob_trainer.progress import HostReport, Phase, Step


class FakeGang:
    """Hosts that are alive until they are told otherwise."""

    def __init__(self) -> None:
        self.death: TrainerError | None = None
        self.over = False
        self.stopped = False

    def check(self) -> None:
        if self.death is not None:
            raise self.death

    def ended(self) -> bool:
        return self.over

    def stop(self) -> None:
        self.stopped = True


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver("127.0.0.1", b"key") as found:
        yield found


def report(rank: int, *, step: int = 12, loss: float = 0.3) -> HostReport:
    return HostReport(rank=rank, host=f"host-{rank}", step=step, total=12, last={"loss": loss})


def tell(address: Address, rank: int, *payloads: Payload) -> None:
    """Speak as the host of a rank."""

    def speak() -> None:
        sender = Sender(address, rank)
        for payload in payloads:
            sender.send(payload)
        sender.close()

    threading.Thread(target=speak, daemon=True).start()


def test_reports_are_collected_by_rank_and_events_are_shown(receiver: Receiver) -> None:
    board = Board()
    tell(receiver.address, 1, report(1))
    tell(receiver.address, 0, Phase("training"), Step(3, 12, {"loss": 0.5, "seconds": 1.0}), report(0))
    reports = driver.supervise(FakeGang(), 2, receiver, board)
    assert [found.rank for found in reports] == [0, 1]
    shown = {sample.name: sample.value for family in board.collect() for sample in family.samples}
    assert (shown[metrics.STEP], shown[metrics.LOSS]) == (3, 0.5)


def test_a_hosts_failure_ends_the_run_with_its_reason(receiver: Receiver) -> None:
    tell(receiver.address, 1, TrainerResult(reason=TrainerReason.HBM_EXHAUSTED, message="too big", step=4))
    with pytest.raises(TrainerError) as caught:
        driver.supervise(FakeGang(), 2, receiver, Board())
    assert (caught.value.reason, caught.value.message, caught.value.step) == (
        TrainerReason.HBM_EXHAUSTED, "too big", 4,
    )  # fmt: skip


def test_a_dead_process_is_noticed_without_a_word(receiver: Receiver) -> None:
    gang = FakeGang()
    gang.death = TrainerError(TrainerReason.HOST_LOST, "host 1 died")
    tell(receiver.address, 0, report(0))
    with pytest.raises(TrainerError, match="host 1 died"):
        driver.supervise(gang, 2, receiver, Board())


def test_a_broken_connection_is_blamed_on_the_host_that_died(receiver: Receiver) -> None:
    gang = FakeGang()
    tell(receiver.address, 0, TrainerResult(reason=TrainerReason.HOST_LOST, message="peer closed", step=7))

    def die() -> None:
        gang.death = TrainerError(TrainerReason.HOST_LOST, "host 1 died")

    threading.Timer(0.5, die).start()
    with pytest.raises(TrainerError, match="host 1 died") as caught:
        driver.supervise(gang, 2, receiver, Board())
    assert caught.value.step == 7


def test_processes_that_end_without_a_report_are_no_success(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "LAST_WORDS_SECONDS", 0.5)
    gang = FakeGang()
    gang.over = True
    tell(receiver.address, 0, report(0))
    with pytest.raises(TrainerError, match="host 1 ended without a word"):
        driver.supervise(gang, 2, receiver, Board())


def test_a_stranger_without_the_key_is_ignored(receiver: Receiver) -> None:
    host, port = receiver.address.host, receiver.address.port
    with pytest.raises(Exception, match=r"digest|reset|closed|EOF|^$"):
        Sender(Address(host, port, b"wrong"), 0).send(report(0))
    tell(receiver.address, 0, report(0))
    assert len(driver.supervise(FakeGang(), 1, receiver, Board())) == 1


def test_the_gang_is_stopped_whatever_happens(receiver: Receiver, claim: Claim) -> None:
    gang = FakeGang()
    gang.death = TrainerError(TrainerReason.HOST_LOST, "gone")

    class Launcher:
        def launch(self, config: TrainerConfig, driver: Address) -> FakeGang:
            return gang

    with pytest.raises(TrainerError, match="gone"):
        driver.launch(Launcher(), claim.config("stop"), receiver, Board())
    assert gang.stopped


def exported(claim: Claim, name: str) -> TrainerConfig:
    """Return a configuration whose output folder has an exported model."""
    config = claim.config(name)
    folder = claim.path / name / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return config


def test_a_complete_run_is_a_success_with_a_summary(claim: Claim) -> None:
    config, board = exported(claim, "complete"), Board()
    result = driver.conclude(config, [report(0), report(1)], board, record_seconds=0)
    assert (result.reason, result.step) == (TrainerReason.SUCCEEDED, 12)
    assert config.output.uri in result.message
    assert result.recorded is None
    summary = claim.summary("complete")
    assert (summary["step"], summary["hosts"]) == (12, ["host-0", "host-1"])
    assert summary["versions"]["easydel"] == "0.3.0"


def test_a_run_that_nobody_records_says_so(claim: Claim) -> None:
    config = exported(claim, "unrecorded")
    result = driver.conclude(config, [report(0)], Board(), record_seconds=0.01)
    assert (result.reason, result.recorded) == (TrainerReason.SUCCEEDED, False)
    assert find_result(result.to_line()) == result


@pytest.mark.parametrize(
    ("name", "reports", "reason"),
    [
        ("early", lambda: [report(0), report(1, step=11)], TrainerReason.STOPPED_EARLY),
        ("infinite", lambda: [report(0, loss=math.inf)], TrainerReason.NON_FINITE_LOSS),
        ("nan", lambda: [report(0), report(1, loss=math.nan)], TrainerReason.NON_FINITE_LOSS),
    ],
)
def test_an_incomplete_run_is_no_success(
    claim: Claim, name: str, reports: Callable[[], list[HostReport]], reason: TrainerReason
) -> None:
    config, board = exported(claim, f"no-{name}"), Board()
    with pytest.raises(TrainerError) as caught:
        driver.conclude(config, reports(), board, record_seconds=0)
    assert caught.value.reason is reason
    assert not (claim.path / f"no-{name}" / "summary.json").exists()


def test_a_run_without_its_model_is_no_success(claim: Claim) -> None:
    config = claim.config("modelless")
    store.open_store(config.output.uri).claim(config.job.uid, config.job.name)
    with pytest.raises(TrainerError) as caught:
        driver.conclude(config, [report(0)], Board(), record_seconds=0)
    assert caught.value.reason is TrainerReason.EXPORT_FAILED


def test_a_slice_that_does_not_come_up_is_not_waited_for_for_ever(claim: Claim) -> None:
    node = {"Alive": True, "Resources": {"TPU": 4}, "Labels": {"ray.io/tpu-worker-id": "0"}}
    config = claim.config("slow", accelerator={"type": "v4-16"})
    with pytest.raises(TrainerError, match="1 of 2 hosts") as caught:
        wait_for_hosts(config, lambda: [node], seconds=0)
    assert caught.value.reason is TrainerReason.SLICE_NOT_READY


def test_hosts_are_ordered_by_their_number_in_the_slice(claim: Claim) -> None:
    nodes = [
        {"Alive": alive, "Resources": {"TPU": 4}, "Labels": {"ray.io/tpu-worker-id": str(number)}}
        for number, alive in ((1, True), (7, False), (0, True))
    ]
    found = wait_for_hosts(claim.config("order", accelerator={"type": "v4-16"}), lambda: nodes)
    assert [node["Labels"]["ray.io/tpu-worker-id"] for node in found] == ["0", "1"]


def test_a_wrong_configuration_ends_with_the_field(tmp_path: Path, claim: Claim) -> None:
    wire = json.loads(claim.config("wrong").to_json())
    wire["training"]["globalBatchSize"] = -1
    path = tmp_path / "trainer.json"
    path.write_text(json.dumps(wire))
    code, result, output = run_trainer(["drive", "--config", str(path), "--metrics-port", "0"])
    assert code == 2
    assert result is not None
    assert result.reason is TrainerReason.CONFIG_INVALID
    assert "training.globalBatchSize" in result.message
    assert output.splitlines()[-1] == result.to_line()


def test_a_missing_configuration_ends_with_its_path() -> None:
    code, result, _ = run_trainer(["drive", "--config", "/nowhere/trainer.json", "--metrics-port", "0"])
    assert (code, result and result.reason) == (2, TrainerReason.CONFIG_INVALID)
    assert result is not None
    assert "/nowhere/trainer.json" in result.message


def test_what_preflight_finds_ends_the_run_before_ray_is_asked(claim: Claim) -> None:
    """No Ray cluster runs here: reaching it would be another failure."""
    config = claim.config("nodata", dataset={"uri": f"pvc://{claim.name}/nothing.jsonl"})
    path = claim.write_config(config)
    code, result, output = run_trainer(["drive", "--config", str(path), "--metrics-port", "0"])
    assert (code, result and result.reason) == (4, TrainerReason.DATASET_NOT_FOUND)
    assert "Traceback" not in output
    assert output.splitlines()[-1].startswith("DPOJOB-RESULT ")


def test_the_data_are_checked_on_the_head_alone(claim: Claim) -> None:
    """Neither Ray nor weights are needed; the exit code is that of ``dpojob check``."""
    path = claim.write_config(claim.config("checked"))
    code, result, output = run_trainer(["check", "--config", str(path)])
    assert (code, result and result.reason) == (0, TrainerReason.SUCCEEDED), output
    report = json.loads(output.splitlines()[-2])
    assert (report["rows"], report["trainPairs"], report["evalPairs"]) == (64, 51, 13)
    assert [file.name for file in (claim.path / "checked").iterdir()] == [".dpojob.json"]


def test_output_of_another_job_is_found_without_a_slice(claim: Claim) -> None:
    config = claim.config("taken")
    store.open_store(config.output.uri).claim("other-uid", "other")
    code, result, output = run_trainer(["check", "--config", str(claim.write_config(config))])
    assert (code, result and result.reason) == (1, TrainerReason.OUTPUT_IN_USE), output
    assert result is not None
    assert "DPOJob other" in result.message


def test_refused_data_end_the_check_with_their_report(claim: Claim) -> None:
    gate = {
        "uri": f"pvc://{claim.name}/pairs.jsonl",
        "columns": {"prompt": "prompt"},
        "gate": {"minPairs": 65},
    }
    path = claim.write_config(claim.config("gated", dataset=gate))
    code, result, output = run_trainer(["check", "--config", str(path)])
    assert (code, result and result.reason) == (3, TrainerReason.DATA_INVALID), output
    assert json.loads(output.splitlines()[-2])["violations"]
    assert not (claim.path / "gated").exists()


@pytest.mark.jax
def test_the_local_command_runs_the_whole_path(claim: Claim) -> None:
    config = claim.config("local", training={"globalBatchSize": 8, "maxSteps": 2, "learningRate": 1e-3})
    code, result, output = run_trainer(["local", "--config", str(claim.write_config(config))])
    assert code == 0, output
    assert result is not None
    assert (result.reason, result.step) == (TrainerReason.SUCCEEDED, 2)
    assert (claim.path / "local" / "model" / "tokenizer.json").is_file()
    assert claim.summary("local")["evaluations"].keys() == {"0", "2"}
