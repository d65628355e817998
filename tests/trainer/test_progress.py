"""The numbers that the operator scrapes, over real HTTP."""

import socket
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from dpojob_api import metrics
from dpojob_api.constants import FIELD_MANAGER, METRICS_PATH
from dpojob_trainer.board import Board
from dpojob_trainer.progress import Begun, Evaluation, Phase, Step, Stopwatch, eta_seconds


def serve(board: Board) -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    board.serve(port)
    return f"http://127.0.0.1:{port}{METRICS_PATH}"


def scrape(url: str, agent: str = FIELD_MANAGER) -> dict[str, float]:
    """Return the samples by name; a phase by its label."""
    request = urllib.request.Request(url, headers={"User-Agent": agent})
    with urllib.request.urlopen(request, timeout=10) as reply:
        families = text_string_to_metric_families(reply.read().decode())
    return {s.labels.get("phase", s.name): s.value for family in families for s in family.samples}


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
    board.update(Begun(4, 10))
    found = scrape(serve(board))
    assert (found[metrics.STEP], found[metrics.TOTAL_STEPS]) == (4, 10)
    assert metrics.LOSS not in found


def test_what_is_not_known_yet_is_not_served() -> None:
    found = scrape(serve(Board()))
    assert found[metrics.FINISHED] == 0
    assert found["starting"] == 1
    assert not {metrics.LOSS, metrics.EVAL_LOSS, metrics.ETA_SECONDS} & found.keys()


def test_only_a_scrape_after_the_end_is_the_final_one() -> None:
    board = Board()
    url = serve(board)
    scrape(url)
    assert not board.wait_for_final_scrape(0)
    board.update(Evaluation(10, {"loss": 0.4, "rewards/accuracies": 0.9, "rewards/margins": 0.8}))
    board.finish(10, 10)
    scrape(url, "Prometheus/3.0")
    assert not board.wait_for_final_scrape(0)
    found = scrape(url)
    assert board.wait_for_final_scrape(5)
    assert (found[metrics.FINISHED], found["finished"], found[metrics.STEP]) == (1, 1, 10)
    assert (found[metrics.EVAL_LOSS], found[metrics.EVAL_REWARD_MARGIN]) == (0.4, 0.8)


def test_every_gauge_has_help_and_the_documented_name() -> None:
    board = Board()
    board.update(Step(1, 2, numbers(0.5, 1.0)))
    board.update(Evaluation(1, {"loss": 0.4, "rewards/accuracies": 0.9, "rewards/margins": 0.8}))
    board.finish(2, 2)
    assert {family.name for family in board.collect()} == set(metrics.HELP)


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
