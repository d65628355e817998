"""The HTML report: a pure function of the configuration, summary.json and metrics.jsonl."""

import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from tests.trainer.tiny_models import FSDP, configuration

from dpojob_trainer import report
from dpojob_trainer.report import charts, words
from dpojob_trainer.report.history import parse_lines, smoothed, thinned, wilson

HOSTILE = (
    '</pre></script><script>alert("x")</script><img src=x onerror=alert(1)>{{ 7*7 }}\x00\x1b[31m\ud800&amp;'
)
VOID = {"meta", "path", "circle", "rect", "br", "img", "link", "input"}


class Page(HTMLParser):
    """Reads a page: its elements with their attributes, its text, and what was not closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def tags(self) -> set[str]:
        return {tag for tag, _ in self.elements}


def lines(steps: int = 8, evaluations: tuple[int, ...] = (0, 8)) -> str:
    """The metrics of a run whose margin grows by 0.1 per step."""
    found: list[dict[str, Any]] = []
    for step in range(steps + 1):
        margin = 0.1 * step
        if step:
            numbers = {"loss": 0.7 - margin / 4, "rewards/margins": margin, "rewards/accuracies": 0.75}
            numbers |= {"rewards/chosen": margin / 2, "rewards/rejected": -margin / 2, "grad_norm": 2.0}
            numbers |= {"lengths/correlation": -0.25, "logps/chosen": -20.0, "logps/rejected": -30.0}
            numbers |= {"learning_rate": 1e-5, "tokens": 3000.0, "attempt": 1}
            numbers |= {"seconds": 2.0 if step > 1 else 60.0}
            found.append({"step": step} | numbers)
        if step in evaluations:
            accuracy = 0.0 if step == 0 else 0.75
            held_out = {"loss": 0.7, "rewards/margins": margin, "rewards/accuracies": accuracy, "pairs": 16.0}
            held_out |= {"lengths/correlation": 0.5 if step else -1.0}
            found.append({"step": step} | {f"eval/{name}": value for name, value in held_out.items()})
    return "\n".join(map(json.dumps, found))


def stats(*counts: int) -> dict[str, Any]:
    bins = [{"upTo": 2 ** (at + 3), "count": count} for at, count in enumerate(counts)]
    return {"p50": 8, "p90": 16, "p99": 30, "max": 31, "bins": bins}


def summary(**parts: Any) -> dict[str, Any]:
    """A summary with a data report beyond the gate's bound of truncation."""
    data = {
        "rows": 64, "trainPairs": 40, "evalPairs": 16, "droppedEmpty": 3, "droppedEqual": 5, "truncatedPairs": 42,
        "duplicatePairs": 0, "overlapPairs": 1, "longerChosen": 20, "violations": ["too many are cut"],
        "lengths": {side: stats(10, 20, 5) for side in ("prompt", "chosen", "rejected")},
    }  # fmt: skip
    base = {
        "step": 8,
        "totalSteps": 8,
        "resumedFrom": 0,
        "data": data,
        "seconds": {"train": 74.0, "export": 3.0},
    }
    return base | {"versions": {"jax": "0.9.2"}} | parts


def sample(**parts: Any) -> dict[str, Any]:
    base = {"prompt": "Say it.", "before": "long and", "after": "short", "chosen": "yes", "rejected": "no"}
    return base | {"beforeTokens": 40, "afterTokens": 30, "beforeEnded": False, "afterEnded": True} | parts


def samples(*completions: dict[str, Any]) -> dict[str, Any]:
    return {"heldOut": True, "maxNewTokens": 40, "completions": list(completions)}


def page_of(found: dict[str, Any], metrics: str) -> Page:
    return Page(report.render(configuration(FSDP), found, metrics))


@pytest.fixture(scope="module")
def page() -> Page:
    return page_of(summary(samples=samples(sample(), sample(afterTokens=10))), lines())


def test_every_element_is_closed(page: Page) -> None:
    assert page.open == []


def test_it_needs_nothing_but_itself(page: Page) -> None:
    assert not page.tags() & {"script", "link", "img", "iframe", "object", "embed", "form"}
    links = [value for _, attrs in page.elements for name, value in attrs.items() if name in ("src", "href")]
    assert links == ["#main"]
    policy = [attrs["content"] for tag, attrs in page.elements if tag == "meta" and "http-equiv" in attrs]
    assert policy and "default-src 'none'" in str(policy[0]) and "script-src" not in str(policy[0])


def test_it_has_the_headline_numbers(page: Page) -> None:
    for words_ in (
        "all tied → 75 %",
        "0 → 0.8",
        "+0.8",
        "1 min 17 s",
        "1,500 tokens/s",
        "On 16 held-out pairs the tuned model prefers the chosen completion in 75 % of cases (95 % interval 51–90 %)",
    ):
        assert words_ in page.text


def test_it_has_every_curve_with_its_legend(page: Page) -> None:
    labels = [
        str(attrs["aria-label"]) for tag, attrs in page.elements if tag == "svg" and "aria-label" in attrs
    ]
    titles = ["Loss", "Reward margin", "Reward accuracy", "Length drift", "Rewards", "Log-probabilities"]
    titles += ["Gradient norm", "Learning rate", "Seconds per step", "Histogram"]
    assert [label.split(" o")[0] for label in labels] == titles
    assert "training ends at 0.8; held out ends at 0.8" in labels[1]
    assert "training ends at −0.25; held out ends at 0.5" in labels[3]
    assert "chosen ends at 0.4; rejected ends at −0.4" in labels[4]


def test_it_holds_the_counts_against_the_gate(page: Page) -> None:
    assert "Gate: too many are cut" in page.text
    assert "dropped 8 12.5 % 10 % exceeded" in page.text
    assert "held out and also trained on 1 6.25 %" in page.text


def test_it_shows_completions_and_how_their_length_changed(page: Page) -> None:
    assert "Before 40 tokens, cut there long and After 30 tokens short" in page.text
    assert (
        "Length before 40.0 tokens on average Length after 20.0 tokens on average Length change −50 %"
        in page.text
    )


def test_it_holds_the_run_against_its_plan() -> None:
    numbers = {"peak_bytes": 20 * 2**30, "usable_bytes": 30 * 2**30, "step_seconds": 1.6, "hours": 1.5}
    config = configuration(FSDP)
    assert "What was planned" not in Page(report.render(config, summary(), lines())).text
    config = config.model_copy(update={"plan": config.plan.model_copy(update=numbers)})
    text = Page(report.render(config, summary(matchesPlan=False), lines())).text
    for told in (
        "20 of 30\u00a0GiB",
        "2\u00a0s on average (+25\u00a0%)",
        "1\u00a0h 30\u00a0min",
        "another one",
    ):
        assert told.replace("\u00a0", " ") in text.replace("\u00a0", " ")


def test_text_of_strangers_stays_text() -> None:
    hostile = sample(prompt=HOSTILE, before=HOSTILE, after=HOSTILE, chosen=HOSTILE, rejected=HOSTILE)
    found = summary(samples=samples(hostile), lineage={"model": HOSTILE}, versions={HOSTILE: HOSTILE})
    found["data"]["violations"] = [HOSTILE]
    html = report.render(configuration(FSDP), found, lines())
    page = Page(html)
    assert not page.tags() & {"script", "img"}
    assert page.open == []
    assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs)
    assert page.text.count('<script>alert("x")</script>') == 9
    assert "{{ 7*7 }}" in page.text and "\x00" not in html and "\x1b" not in html
    html.encode("utf-8")


def test_a_run_without_held_out_pairs_shows_its_batches() -> None:
    page = page_of(summary(), lines(evaluations=()))
    assert "No pairs were held out" in page.text
    assert "training batch" in page.text and "Before and after, in words" not in page.text


def test_a_resumed_reference_free_run_has_only_the_tuned_completions() -> None:
    only = sample(before=None, beforeTokens=None, beforeEnded=None)
    page = page_of(summary(samples=samples(only)), lines())
    assert "After 30 tokens short" in page.text
    assert "Before 40" not in page.text and "Length change" not in page.text


@pytest.mark.parametrize(
    "metrics", ["", "not json\n", lines(steps=1, evaluations=(0,)), '{"step": 3, "loss": NaN}']
)
def test_little_or_broken_history_still_makes_a_page(metrics: str) -> None:
    page = page_of(summary(data={}), metrics)
    assert "How it was made" in page.text and page.open == []


def test_of_a_repeated_step_the_last_line_counts() -> None:
    history = parse_lines(
        '{"step": 2, "loss": 9}\n{"step": 1, "loss": 3}\n{"step": 2, "loss": 4}\n{"step": 3, "lo'
    )
    assert history.curve("loss") == [(1, 3), (2, 4)]


def test_ties_are_no_accuracy() -> None:
    history = parse_lines(lines())
    assert history.held_out_curve("rewards/accuracies") == [(8, 0.75)]
    assert len(history.held_out_curve("loss")) == 2


def test_long_runs_stay_small() -> None:
    html = report.render(configuration(FSDP), summary(), lines(steps=5000, evaluations=(0, 5000)))
    assert len(html) < 600_000
    points = [(float(x), float(x % 2)) for x in range(5000)]
    assert len(thinned(points, 320)) <= 320
    assert smoothed(points, 101)[2500][1] == pytest.approx(0.5, abs=0.01)


def test_wilson_interval() -> None:
    """The values of Newcombe (1998), table I: 81 of 263, and 0 of 20."""
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0, 0.1611), abs=1e-4)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.25, 0.5, 0.75, 1]), (-3, 7, [-5, -2.5, 0, 2.5, 5, 7.5]), (5, 5, [2, 4, 6, 8])],
)
def test_ticks_are_round_and_cover_the_values(low: float, high: float, expected: list[float]) -> None:
    assert charts.nice_ticks(low, high, 4) == expected


def test_a_curve_stays_inside_its_chart() -> None:
    found = charts.chart("t", "d", [charts.Curve("a", "train", [(1, -1e6), (2, 3e6), (1000, 0)])], guide=0.0)
    assert found is not None
    places = [tuple(map(float, pair)) for pair in re.findall(r"([-\d.]+),([-\d.]+)", found.lines[0].path)]
    assert all(charts.LEFT <= x <= charts.WIDTH and 0 <= y <= charts.HEIGHT for x, y in places)
    assert found.hovers[0].text == "step 1 · a −1,000,000"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (1234567, "1,234,567"),
        (0.123456, "0.1235"),
        (-2.5, "−2.5"),
        (5e-6, "5e−6"),
        (12345.6, "12,346"),
    ],
)
def test_numbers_are_short(value: float | None, text: str) -> None:
    assert words.number(value) == text
