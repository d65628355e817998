"""The numbers that the operator scrapes, over real HTTP."""

import socket
import time
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dpojob_api import metrics
from dpojob_api.constants import METRICS_PATH, RECORDED_HEADER
from dpojob_trainer.board import STEPS_OF_A_MEAN, Board
from dpojob_trainer.progress import (
    Begun,
    Data,
    Evaluation,
    Event,
    Phase,
    Planned,
    Saved,
    Step,
    Stopwatch,
    eta_seconds,
)


def serve(board: Board) -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    board.serve(port)
    return f"http://127.0.0.1:{port}{METRICS_PATH}"


def scrape(url: str, recorded: bool = False) -> dict[str, float]:
    """Return the samples by name; a phase by its label."""
    families = text_string_to_metric_families(text_of(url, recorded))
    return {s.labels.get("phase", s.name): s.value for family in families for s in family.samples}


def text_of(url: str, recorded: bool = False) -> str:
    request = urllib.request.Request(url, headers={RECORDED_HEADER: "true"} if recorded else {})
    with urllib.request.urlopen(request, timeout=10) as reply:
        return str(reply.read().decode())


def numbers(loss: float, seconds: float) -> dict[str, float]:
    return {"loss": loss, "rewards/accuracies": 0.75, "rewards/margins": 0.5, "seconds": seconds}


def test_the_newest_step_is_served_with_its_remaining_time() -> None:
    board = Board()
    url = serve(board)
    board.update(Phase("training"))
    board.update(Step(1, 10, numbers(0.69, 60.0)))
    for step in (2, 3, 4):
        board.update(Step(step, 10, numbers(0.5, 2.0)))
    found = scrape(url)
    assert (found[metrics.STEP], found[metrics.TOTAL_STEPS], found[metrics.LOSS]) == (4, 10, 0.5)
    assert (found[metrics.REWARD_ACCURACY], found[metrics.REWARD_MARGIN]) == (0.75, 0.5)
    assert found[metrics.ETA_SECONDS] == 6 * 2.0
    assert [name for name in metrics.PHASES if found[name]] == ["training"]


def test_the_total_is_served_before_the_first_step() -> None:
    board = Board()
    board.update(Begun(4, 10, 5))
    found = scrape(serve(board))
    assert (found[metrics.STEP], found[metrics.TOTAL_STEPS]) == (4, 10)
    assert found[metrics.RESUMED_STEP] == 4
    assert metrics.LOSS not in found


def test_what_is_not_known_yet_is_not_served() -> None:
    found = scrape(serve(Board()))
    assert found[metrics.FINISHED] == 0
    assert found["starting"] == 1
    assert not {metrics.LOSS, metrics.EVAL_LOSS, metrics.ETA_SECONDS} & found.keys()


def test_only_the_word_that_the_end_is_recorded_lets_the_driver_go() -> None:
    board = Board()
    url = serve(board)
    scrape(url, recorded=True)
    assert not board.wait_for_record(0)
    board.update(Evaluation(10, {"loss": 0.4, "rewards/accuracies": 0.9, "rewards/margins": 0.8}))
    board.finish(10, 10)
    found = scrape(url)
    assert not board.wait_for_record(0)
    scrape(url, recorded=True)
    assert board.wait_for_record(5)
    assert (found[metrics.FINISHED], found["finished"], found[metrics.STEP]) == (1, 1, 10)
    assert (found[metrics.EVAL_LOSS], found[metrics.EVAL_REWARD_MARGIN]) == (0.4, 0.8)


def test_every_gauge_has_help_and_the_documented_name() -> None:
    board = Board()
    board.update(Data({"read": 4}))
    board.update(Begun(0, 30, 2))
    board.update(Planned(matches=True))
    for step in range(1, STEPS_OF_A_MEAN + 1):
        board.update(Step(step, 30, STEP_NUMBERS, (1024, 2048)))
    board.update(Saved(1, 1.8e9))
    held_out = {"loss": 0.4, "rewards/accuracies": 0.9, "rewards/margins": 0.8, "lengths/correlation": 0.1}
    board.update(Evaluation(1, held_out))
    board.finish(2, 2)
    assert {family.name for family in board.collect()} == set(metrics.HELP)


def test_the_mean_of_the_steps_leaves_out_the_first_and_waits_for_enough() -> None:
    board = Board()
    url = serve(board)
    for step in range(1, STEPS_OF_A_MEAN):
        board.update(Step(step, 30, numbers(0.5, 60.0 if step == 1 else 2.0)))
    assert metrics.MEAN_STEP_SECONDS not in scrape(url)
    board.update(Step(STEPS_OF_A_MEAN, 30, numbers(0.5, 4.0)))
    assert scrape(url)[metrics.MEAN_STEP_SECONDS] == pytest.approx((18 * 2.0 + 4.0) / 19)


STEP_NUMBERS = {
    "loss": 0.5,
    "rewards/accuracies": 0.75,
    "rewards/margins": 0.3,
    "rewards/chosen": 0.1,
    "rewards/rejected": -0.2,
    "logps/chosen": -30.0,
    "logps/rejected": -40.0,
    "rewards/margin_variance": 0.04,
    "lengths/differences": 12.0,
    "lengths/variance": 400.0,
    "lengths/covariance": 1.0,
    "lengths/correlation": 0.25,
    "grad_norm": 1.5,
    "learning_rate": 1e-6,
    "seconds": 2.0,
    "tokens": 300.0,
    "padded_tokens": 1024.0,
    "mfu": 0.25,
}


def test_every_number_of_a_step_is_served() -> None:
    board = Board()
    board.update(Begun(4, 24, 8))
    board.update(Step(6, 24, STEP_NUMBERS))
    found = scrape(serve(board))
    assert (found[metrics.REWARD_CHOSEN], found[metrics.REWARD_REJECTED]) == (0.1, -0.2)
    assert (found[metrics.LOGP_CHOSEN], found[metrics.LOGP_REJECTED]) == (-30, -40)
    assert (found[metrics.GRAD_NORM], found[metrics.LEARNING_RATE]) == (1.5, 1e-6)
    assert (found[metrics.LENGTH_DIFFERENCE], found[metrics.LENGTH_VARIANCE]) == (12, 400)
    assert (found[metrics.REWARD_MARGIN_VARIANCE], found[metrics.LENGTH_COVARIANCE]) == (0.04, 1)
    assert found[metrics.LENGTH_CORRELATION] == 0.25
    assert found[metrics.STEP_SECONDS] == 2
    assert (found[metrics.TOKENS_PER_SECOND], found[metrics.PADDED_TOKENS_PER_SECOND]) == (150, 512)
    assert (found[metrics.EPOCH], found[metrics.MFU]) == (0.75, 0.25)


def test_pairs_devices_and_checkpoints_are_served() -> None:
    board = Board()
    board.update(Data({"read": 300, "train": 284, "dropped_equal": 2}))
    board.update(Step(1, 2, STEP_NUMBERS, (1024, 2048)))
    board.update(Saved(1, 1.8e9))
    text = text_of(serve(board))
    assert 'dpojob_data_pairs{kind="read"} 300.0' in text
    assert 'dpojob_data_pairs{kind="dropped_equal"} 2.0' in text
    assert 'dpojob_device_bytes_in_use{device="1"} 2048.0' in text
    assert "dpojob_checkpoint_step 1.0" in text and "dpojob_checkpoint_timestamp_seconds 1.8e+09" in text


def test_idle_seconds_begin_anew_with_every_step_and_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is the test's."""
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    board = Board()

    def idle_after(*events: Event) -> float:
        for event in events:
            board.update(event)
        clock[0] += 10
        return next(f.samples[0].value for f in board.collect() if f.name == metrics.IDLE_SECONDS)

    assert idle_after() == 10
    assert idle_after(Phase("training"), Begun(0, 4, 2)) == 10
    assert idle_after(Evaluation(0, {"loss": 0.7}), Saved(0, 1.8e9)) == 20
    assert idle_after(Step(1, 4, STEP_NUMBERS)) == 10
    assert idle_after(Phase("training")) == 20
    assert idle_after(Phase("evaluating")) == 10


def test_events_are_passed_on_and_told_numbers_are_not() -> None:
    told: list[Event] = []
    board = Board(told.append)
    board.update(Phase("training"))
    board.keep(Evaluation(0, {"loss": 0.7}))
    assert told == [Phase("training")]


def test_eta_is_the_median_of_the_newest_steps() -> None:
    assert eta_seconds(3, [100.0] + [1.0] * 10) == 3.0
    assert eta_seconds(3, []) == 0.0


def test_stopwatch_adds_up() -> None:
    watch = Stopwatch()
    for _ in range(2):
        with watch("load"):
            pass
    assert list(watch.seconds) == ["load"]
    assert watch.seconds["load"] >= 0
