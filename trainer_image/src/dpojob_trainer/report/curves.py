"""Which curves the page has, from a run's history. Pure."""

from dpojob_trainer.report.charts import Chart, Curve, chart
from dpojob_trainer.report.history import ACCURACY, DRIFT, MARGIN, History


def curves_of(history: History) -> list[Chart]:
    """Return every curve there are numbers for."""
    both = (
        ("Loss", "loss", "loss of the batches and of the held-out pairs", None),
        ("Reward margin", MARGIN, "chosen minus rejected reward", 0.0),
        ("Reward accuracy", ACCURACY, "share of pairs whose chosen reward is higher", 0.5),
        ("Length drift", DRIFT, "correlation of margin with chosen less rejected length", 0.0),
    )
    sides = (
        ("Rewards", "rewards", "beta times the log-ratio of policy and reference", 0.0),
        ("Log-probabilities", "logps", "sum over the completion's tokens under the policy", None),
    )
    single = (
        ("Gradient norm", "grad_norm", "before clipping"),
        ("Learning rate", "learning_rate", "of each step"),
    )
    drawn = [
        *(chart(title, note, with_held_out(history, name), guide) for title, name, note, guide in both),
        *(chart(title, note, of_both_sides(history, name), guide) for title, name, note, guide in sides),
        *(
            chart(title, note, [Curve("training", "train", history.curve(name))])
            for title, name, note in single
        ),
        speed(history),
    ]
    return [one for one in drawn if one is not None]


def speed(history: History) -> Chart | None:
    """Return the curve of the steps' durations."""
    curve = Curve("training", "train", history.durations())
    return chart("Seconds per step", "without the first of an attempt, which compiles", [curve])


def with_held_out(history: History, name: str) -> list[Curve]:
    """Return a metric's curves of the batches and of the held-out pairs."""
    return [
        Curve("training", "train", history.curve(name)),
        Curve("held out", "heldout", history.held_out_curve(name), dots=True),
    ]


def of_both_sides(history: History, name: str) -> list[Curve]:
    """Return a metric's curves of the chosen and of the rejected completions."""
    return [Curve(side, side, history.curve(f"{name}/{side}")) for side in ("chosen", "rejected")]
