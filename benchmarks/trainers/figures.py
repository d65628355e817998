"""From what the contenders of ``make bench-trainer`` answered to their figures and the table. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

Rows = list[dict[str, list[int]]]
OURS = ("ours-f32", "ours-bf16")


@dataclass(frozen=True)
class Contender:
    """Who takes part, and how it is started.

    Attributes:
        name: in the table.
        program: file or module below benchmarks/trainers.
        dtype: what it computes in.
        order: of the pairs, see `Job`.
        tuned: whether it has the allocator that our hosts have.
        rival: whose losses its own are compared with.
        options: its own settings.
    """

    name: str
    program: str
    dtype: str
    order: str
    tuned: bool
    rival: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """What one process has measured; `first` and `whole` are seconds from its start to the first step's end and to its own."""

    answer: dict[str, Any]
    first: float
    whole: float


@dataclass(frozen=True)
class Measured:
    """All that was measured.

    Attributes:
        runs: of each contender, those that it has finished.
        rows: token ids of the pairs in each order.
        batch: pairs per step.
        peak: float32 matrix products of the machine, FLOP/s.
        parameters: of the model, a tied head counted once.
    """

    runs: Mapping[str, Sequence[Run]]
    rows: Mapping[str, Rows]
    batch: int
    peak: float
    parameters: int

    def per_pair(self, order: str) -> float:
        """Return the tokens of a pair of the steps that count, on average, without padding."""
        counted = self.rows[order][self.batch :]
        return tokens(counted) / len(counted)

    def rate(self, name: str) -> float:
        """Return a contender's pairs per second: the median of its runs."""
        return median(rated(one, self.batch) for one in self.runs[name])

    def apart(self, name: str, rival: str) -> float | None:
        """Return the largest difference of two contenders' losses; None without a run of the rival."""
        if not self.runs.get(rival):
            return None
        own: list[float] = self.runs[name][0].answer["losses"]
        other: list[float] = self.runs[rival][0].answer["losses"]
        return max(abs(mine - its) for mine, its in zip(own, other, strict=True))


def tokens(rows: Rows) -> int:
    """Return the tokens of both sequences of each pair, without padding."""
    return sum(2 * len(r["prompt_ids"]) + len(r["chosen_ids"]) + len(r["rejected_ids"]) for r in rows)


def figures(contenders: Sequence[Contender], measured: Measured) -> list[dict[str, Any]]:
    """Return one object per contender that has finished a run."""
    return [_of(one, measured) for one in contenders if measured.runs.get(one.name)]


def _of(contender: Contender, measured: Measured) -> dict[str, Any]:
    """Return a contender's figures. The first step of a run is left out of its rate, since it compiles.

    The share of the peak counts 6 FLOP per parameter and token that is no padding, which leaves attention out.
    """
    runs, rate = measured.runs[contender.name], measured.rate(contender.name)
    per_second = rate * measured.per_pair(contender.order)
    return {
        "name": contender.name,
        "dtype": contender.dtype,
        "runs": len(runs),
        "pairs_per_s": round(rate, 4),
        "tokens_per_s": round(per_second, 1),
        "cpu_seconds_per_pair": round(median(busy(one, measured.batch) for one in runs), 3),
        "peak_rss_bytes": max(one.answer["peak_rss_bytes"] for one in runs),
        "gemm_share": round(per_second * 6 * measured.parameters / measured.peak, 4),
        "max_loss_deviation": measured.apart(contender.name, contender.rival),
        "deviation_from": contender.rival,
        "first_step_seconds": {"cold": round(runs[0].first, 1), "warm": round(runs[-1].first, 1)},
        "compile_seconds": compiling(runs[0]),
    }


def rated(one: Run, batch: int) -> float:
    """Return a run's pairs per second over all steps but the first."""
    later: list[float] = one.answer["seconds"][1:]
    return batch * len(later) / sum(later)


def busy(one: Run, batch: int) -> float:
    """Return a run's seconds of CPU per pair over all steps but the first: what other work beside it disturbs least."""
    later: list[float] = one.answer["cpu_seconds"][1:]
    return sum(later) / (batch * len(later))


def compiling(one: Run) -> float:
    """Return the seconds of compilation: what the contender tells, or what its first step takes longer."""
    told = one.answer["compile_seconds"]
    seconds: list[float] = one.answer["seconds"]
    return round(max(seconds[0] - median(seconds[1:]), 0.0) if told is None else told, 1)


def table(result: Mapping[str, Any]) -> str:
    """Return the Markdown of the results."""
    setting = result["setting"]
    lines = [
        "## Trainer",
        "",
        f"`make bench-trainer`: {setting['model']}, {setting['pairs']} pairs of {setting['data']} at most "
        f"{setting['prompt']} + {setting['completion']} tokens a run, {setting['batch']} a step, the first step not counted; "
        f"float32 matrix products run at {result['gemm_flops'] / 1e9:.0f} GFLOP/s. Ratios compare, times inform.",
        "",
        "| contender | runs | pairs/s | CPU s per pair | tokens/s | peak memory, GB | share of the peak | largest loss deviation (from) "
        "| first step cold / warm, s | compile, s |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *map(_line, result["contenders"]),
    ]
    rates = {one["name"]: one["pairs_per_s"] for one in result["contenders"]}
    saved = {one["name"]: 1 / one["cpu_seconds_per_pair"] for one in result["contenders"]}
    for mine in filter(rates.__contains__, OURS):
        lines += [
            "",
            f"{mine}, pairs per second: {_ratios(mine, rates)}; pairs per second of CPU: {_ratios(mine, saved)}.",
        ]
    lines += _bounds({one["name"]: one["gemm_share"] for one in result["contenders"]})
    for name, both in result["restart_seconds"].items():
        lines += [
            "",
            f"Restart of {name} to its next step: {both['cold']} s cold, {both['warm']} s warm "
            f"({both['warm'] / both['cold']:.2f}).",
        ]
    return "\n".join(lines) + "\n"


def _line(one: Mapping[str, Any]) -> str:
    first = one["first_step_seconds"]
    apart = "" if one["max_loss_deviation"] is None else f"{one['max_loss_deviation']:.1e}"
    return (
        f"| {one['name']} | {one['runs']} | {one['pairs_per_s']} | {one['cpu_seconds_per_pair']} | {one['tokens_per_s']} "
        f"| {one['peak_rss_bytes'] / 1e9:.1f} | {one['gemm_share']} | {apart} ({one['deviation_from']}) "
        f"| {first['cold']} / {first['warm']} | {one['compile_seconds']} |"
    )


def _bounds(shares: Mapping[str, float]) -> list[str]:
    """Say how far the float32 contenders are from the products that all of them need, if both were measured."""
    mine, rival = "ours-f32", "trl-f32-best"
    if not {mine, rival} <= shares.keys():
        return []
    return [
        "",
        f"The roofline: 6 FLOP per parameter and real token at the measured peak would be {1 / shares[rival]:.1f} × {rival}, "
        f"without padding, attention, optimizer and anything but matrix products; {mine} is at {shares[mine]:.0%} of it, {rival} "
        f"at {shares[rival]:.0%}. Twice {rival} takes {2 * shares[rival]:.0%} of the peak.",
    ]


def _ratios(mine: str, rates: Mapping[str, float]) -> str:
    told = (f"{rates[mine] / rate:.2f} × {other}" for other, rate in rates.items() if other not in OURS)
    return ", ".join(told)
