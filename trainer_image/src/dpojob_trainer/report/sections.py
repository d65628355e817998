"""The page's words and tables: headline numbers, facts, counts, settings, lineage. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dpojob_api.input_spec import GateSpec
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer.report import words
from dpojob_trainer.report.history import ACCURACY, MARGIN, History, last, tied, wilson

Json = Mapping[str, Any]

GIB = 2**30


@dataclass(frozen=True)
class Headline:
    """One number before and after training, and what it means."""

    label: str
    before: str
    after: str
    change: str
    better: bool | None
    note: str


@dataclass(frozen=True)
class Fact:
    """A number or a name with its label and, if there is something to add, a note."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Count:
    """A count of the data report, its share of what it is counted among, and the gate's bound of that share."""

    label: str
    count: int
    share: float | None = None
    bound: float | None = None

    @property
    def beyond(self) -> bool:
        """Whether the bound is not kept."""
        return self.share is not None and self.bound is not None and self.share > self.bound


def verdict(history: History) -> str:
    """Say in one sentence what training has brought, with how far the numbers can be trusted."""
    final = last(history.held_out)
    if final is None:
        return "No pairs were held out, so nothing says how well the tuned model does on new ones."
    pairs = int(final.get("pairs", 0))
    accuracy, margin = final[ACCURACY], final[MARGIN]
    low, high = wilson(accuracy, pairs)
    return (
        f"On {pairs:,} held-out pairs the tuned model prefers the chosen completion in {words.percent(accuracy)} of cases "
        f"(95{words.NBSP}% interval {100 * low:.0f}–{100 * high:.0f}{words.NBSP}%), by a mean reward margin of {words.number(margin)}."
    )


def headlines(history: History) -> list[Headline]:
    """Return the numbers that count, before and after: of the held-out pairs, or of the batches without any."""
    table = history.held_out or history.train
    if not table:
        return []
    before, after = table[min(table)], table[max(table)]
    where = "held-out pairs" if history.held_out else "training batch"
    return [
        headline("Reward accuracy", ACCURACY, before, after, f"{where}; 50 % is chance"),
        headline("Reward margin", MARGIN, before, after, f"{where}; chosen − rejected reward"),
        headline("Loss", "loss", before, after, f"{where}; lower is better", rising=False),
    ]


def headline(label: str, name: str, before: Json, after: Json, note: str, *, rising: bool = True) -> Headline:
    """Return one of them; a policy that still equals its reference has ties for an accuracy."""
    one, two = before.get(name), after.get(name)
    if name == ACCURACY:
        return Headline(
            label, "all tied" if tied(before) else words.percent(one), words.percent(two), "", None, note
        )
    change = two - one if one is not None and two is not None else 0.0
    return Headline(
        label=label,
        before=words.number(one),
        after=words.number(two),
        change=words.signed(change) if change else "",
        better=(change > 0) is rising if change else None,
        note=note,
    )


def facts(config: TrainerConfig, summary: Json, history: History) -> list[Fact]:
    """Return what the run took."""
    seconds = summary.get("seconds", {})
    whole = sum(seconds.values())
    plan, data = config.plan, summary.get("data", {})
    rate = history.tokens_per_second()
    resumed = summary.get("resumedFrom")
    device = "CPU devices" if config.platform == "cpu" else f"{config.generation} chips"
    return [
        Fact("Steps", words.number(summary["step"]), f"of {words.number(summary['totalSteps'])}"),
        Fact(
            "Pairs", words.number(data.get("trainPairs")), f"+ {words.number(data.get('evalPairs'))} held out"
        ),
        Fact(
            "Wall time", words.duration(whole), f"since step {resumed:,}" if resumed else "loading to export"
        ),
        Fact(
            "Slice",
            words.number(plan.chips),
            f"{device} on {plan.hosts} {'hosts' if plan.hosts > 1 else 'host'}",
        ),
        Fact("Throughput", words.number(rate and float(f"{rate:.3g}")), "tokens/s without padding"),
        Fact("Attempt", words.number(config.job.attempt), "of this job"),
    ]


def counts(data: Json, gate: GateSpec) -> list[Count]:
    """Return the data report's counts, each with the bound it is held against."""
    if not data:
        return []
    train, evaluation = data["trainPairs"], data["evalPairs"]
    pairs = train + evaluation
    dropped = data.get("droppedEmpty", 0) + data.get("droppedEqual", 0)

    def among(label: str, name: str, whole: int, bound: float | None = None) -> Count:
        found = data.get(name, 0)
        return Count(label, found, share(found, whole), bound)

    return [
        Count("rows read", data["rows"]),
        Count("pairs trained on", train),
        Count("pairs held out", evaluation),
        Count("dropped", dropped, share(dropped, data["rows"]), gate.max_dropped_fraction),
        Count("– of them a completion without text", data.get("droppedEmpty", 0)),
        Count("– of them both sides equal", data.get("droppedEqual", 0)),
        among("truncated", "truncatedPairs", pairs, gate.max_truncated_fraction),
        among("duplicates", "duplicatePairs", train, gate.max_duplicate_fraction),
        among("held out and also trained on", "overlapPairs", evaluation, gate.max_overlap),
        among("chosen is the longer side", "longerChosen", pairs),
    ]


def share(count: int, total: int) -> float | None:
    """Return a share; nothing has none."""
    return count / total if total else None


def drift(samples: Json | None) -> list[Fact]:
    """Return how the completions' lengths have changed; nothing without completions of both models."""
    if not samples or any(one.get("before") is None for one in samples["completions"]):
        return []
    found = samples["completions"]
    before, after = (sum(one[f"{when}Tokens"] for one in found) / len(found) for when in ("before", "after"))
    return [
        Fact("before", f"{before:.1f}", "tokens on average"),
        Fact("after", f"{after:.1f}", "tokens on average"),
        Fact(
            "change",
            f"{words.signed(round(100 * (after / before - 1)))}{words.NBSP}%" if before else "–",
            f"over {len(found)} prompts",
        ),
    ]


@dataclass(frozen=True)
class Planned:
    """A number of the plan beside the run's own."""

    label: str
    planned: str
    actual: str = ""


def planned(config: TrainerConfig, summary: Json, history: History) -> list[Planned]:
    """Return what was planned and what it came to; nothing without a plan."""
    plan = config.plan
    if plan.peak_bytes is None or plan.usable_bytes is None:
        return []
    found = [
        Planned(
            "Memory per chip", f"{plan.peak_bytes / GIB:.3g} of {plan.usable_bytes / GIB:.3g}{words.NBSP}GiB"
        )
    ]
    if plan.step_seconds is not None:
        mean = history.mean_seconds()
        drift = f" ({words.signed(round(100 * (mean / plan.step_seconds - 1)))}{words.NBSP}%)" if mean else ""
        found.append(
            Planned("Step", words.duration(plan.step_seconds), f"{words.duration(mean)} on average{drift}")
        )
    if plan.hours is not None:
        trained = summary.get("seconds", {}).get("train")
        found.append(
            Planned(
                "All steps", words.duration(3600 * plan.hours), f"{words.duration(trained)} in this attempt"
            )
        )
    matches = summary.get("matchesPlan")
    if matches is not None:
        found.append(Planned("Compiled step", "as planned", "the same" if matches else "another one"))
    return found


def settings(config: TrainerConfig) -> list[Fact]:
    """Return the settings that decide what is learnt."""
    dpo, training, precision = config.dpo, config.training, config.precision
    axes = ((axis, size) for axis, size in config.plan.mesh.to_wire().items() if size != 1)
    mesh = " × ".join(f"{axis} {size}" for axis, size in axes)
    warmup = f", {training.warmup_steps} warm-up steps" if training.warmup_steps else ""
    return [
        Fact("Loss", f"{dpo.loss_type}, β = {dpo.beta:g}"),
        Fact("Label smoothing", f"{dpo.label_smoothing:g}"),
        Fact("Reference", "none" if dpo.reference_free else "the base model"),
        Fact("Lengths", f"{dpo.max_prompt_length} + {dpo.max_completion_length} tokens"),
        Fact(
            "Batch",
            f"{training.global_batch_size} pairs, {training.gradient_accumulation_steps} micro-batches",
        ),
        Fact("Learning rate", f"{training.learning_rate:g}, {training.scheduler}{warmup}"),
        Fact("Optimizer", f"{training.optimizer}, gradient norm ≤ {training.clip_grad_norm:g}"),
        Fact("Precision", f"{precision.params} parameters, {precision.compute} computation"),
        Fact("Mesh", mesh or "1 device"),
        Fact("Seed", f"{training.seed}, {'shuffled' if training.shuffle else 'file order'}"),
    ]


def lineage(found: Json) -> list[Fact]:
    """Return where the model comes from; what is not known is left out."""
    labels = (
        ("model", "Base model"),
        ("modelRevision", "– revision"),
        ("dataset", "Data set"),
        ("datasetRevision", "– revision"),
        ("pairsSha256", "Pairs, SHA-256"),
        ("chatTemplateSha256", "Chat template, SHA-256"),
        ("image", "Trainer image"),
    )
    return [Fact(label, str(found[name])) for name, label in labels if found.get(name)]
