"""Figures of bench-trainer from what contenders answered; the answers are made up."""

from benchmarks.trainers.figures import Contender, Measured, Run, figures, table

ROW = {"prompt_ids": [1] * 10, "chosen_ids": [2] * 5, "rejected_ids": [3] * 15}


def answer(seconds: list[float], losses: list[float]) -> dict[str, object]:
    return {
        "losses": losses,
        "seconds": seconds,
        "cpu_seconds": [2 * one for one in seconds],
        "compile_seconds": None,
        "peak_rss_bytes": 3_000_000_000,
    }


def measured() -> Measured:
    runs = {
        "ours-f32": [Run(answer([9.0, 1.0, 1.0], [0.69, 0.5, 0.4]), 20.0, 30.0)],
        "trl-f32-best": [
            Run(answer([3.0, 2.0, 2.0], [0.69, 0.5, 0.41]), 10.0, 20.0),
            Run(answer([3.0, 4.0, 4.0], [0.69, 0.5, 0.41]), 12.0, 22.0),
        ],
        "trl-bf16-best": [],
    }
    return Measured(runs, {"gathered": [ROW] * 6}, 2, 1e6, 1000)


LIST = [
    Contender(name, "ours", "float32", "gathered", True, "trl-f32-best")
    for name in ("trl-f32-best", "trl-bf16-best", "ours-f32")
]


def test_the_first_step_is_not_counted_and_the_median_run_is() -> None:
    trl, ours = figures(LIST, measured())
    assert (ours["name"], ours["pairs_per_s"], ours["cpu_seconds_per_pair"]) == ("ours-f32", 2.0, 1.0)
    assert (trl["runs"], trl["pairs_per_s"], trl["cpu_seconds_per_pair"]) == (2, 0.75, 3.0)
    assert ours["tokens_per_s"] == 2 * 40
    assert ours["gemm_share"] == round(80 * 6 * 1000 / 1e6, 4)


def test_losses_are_compared_with_the_rivals() -> None:
    trl, ours = figures(LIST, measured())
    assert trl["max_loss_deviation"] == 0
    assert round(ours["max_loss_deviation"], 6) == 0.01


def test_a_contender_without_a_finished_run_has_no_line_and_ratios_are_told() -> None:
    setting = {"model": "m", "pairs": 6, "data": "d", "prompt": 10, "completion": 15, "batch": 2}
    text = table(
        {
            "setting": setting,
            "gemm_flops": 1e6,
            "contenders": figures(LIST, measured()),
            "restart_seconds": {"ours-f32": {"cold": 50.0, "warm": 10.0}},
        }
    )
    assert "trl-bf16-best" not in text
    assert (
        "ours-f32, pairs per second: 2.67 × trl-f32-best; pairs per second of CPU: 3.00 × trl-f32-best."
        in text
    )
    assert "is at 48% of it, trl-f32-best at 18%. Twice trl-f32-best takes 36% of the peak" in text
    assert "50.0 s cold, 10.0 s warm (0.20)" in text
