"""The report: configuration, summary.json and metrics.jsonl in, one HTML page out that needs nothing but itself.

The page has no script, and its Content-Security-Policy allows none: prompts and completions are text of strangers.
"""

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer.report import sections, words
from dpojob_trainer.report.charts import histogram
from dpojob_trainer.report.curves import curves_of
from dpojob_trainer.report.history import parse_lines

Json = Mapping[str, Any]


def render(config: TrainerConfig, summary: Json, metrics: str) -> str:
    """Return the page.

    Args:
        config: the attempt's configuration.
        summary: what summary.json holds; the parts `samples` and `lineage` may be absent.
        metrics: the text of metrics.jsonl.
    """
    history = parse_lines(metrics)
    page = (
        environment()
        .get_template("report.html.j2")
        .render(
            config=config,
            summary=summary,
            title=config.job.name,
            verdict=sections.verdict(history),
            headlines=sections.headlines(history),
            facts=sections.facts(config, summary, history),
            charts=curves_of(history),
            histogram=histogram(summary.get("data", {}).get("lengths", {})),
            lengths=summary.get("data", {}).get("lengths", {}),
            counts=sections.counts(summary.get("data", {}), config.dataset.gate),
            violations=summary.get("data", {}).get("violations", []),
            samples=summary.get("samples"),
            drift=sections.drift(summary.get("samples")),
            planned=sections.planned(config, summary, history),
            settings=sections.settings(config),
            lineage=sections.lineage(summary.get("lineage", {})),
            versions=summary.get("versions", {}),
            document=json.dumps(config.to_wire(), indent=2, ensure_ascii=False),
        )
    )
    # A lone surrogate, which JSON may carry, cannot be written.
    return page.encode("utf-8", "replace").decode("utf-8")


@cache
def environment() -> Environment:
    """Return the template environment: everything that is printed is escaped, a missing name is an error."""
    found = Environment(
        loader=PackageLoader("dpojob_trainer.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: words.printable(value) if type(value) is str else value,
    )
    found.filters |= {
        "number": words.number,
        "percent": words.percent,
        "duration": words.duration,
    }
    return found
