"""The operator's own Prometheus metrics."""

from collections import Counter as Count
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import REGISTRY, Collector, CollectorRegistry

from dpojob_api.ledger import Activity, LedgerStatus
from dpojob_api.status import DPOJobStatus
from dpojob_operator import ledger

RECONCILES = Counter("dpojob_operator_reconciles", "Reconciles by outcome.", ["outcome"])
DURATION = Histogram("dpojob_operator_reconcile_seconds", "Seconds that a reconcile took.")
QUEUE_LENGTH = Gauge("dpojob_operator_queue_length", "Jobs that wait for a worker.")
API_CALLS = Counter(
    "dpojob_operator_api_calls",
    "Calls of the API server by verb, resource and status code (none without an answer); watches are not counted.",
    ["verb", "resource", "code"],
)
API_SECONDS = Histogram("dpojob_operator_api_seconds", "Seconds that the API server took.", ["verb"])


@dataclass(frozen=True, slots=True)
class Entry:
    """What is kept of a job between reconciles."""

    summary: str
    ledger: LedgerStatus | None
    chips: int


class JobBook(Collector):
    """Jobs by summary, and the ledger of each, counted when they are asked for."""

    def __init__(
        self,
        registry: CollectorRegistry = REGISTRY,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._entries: dict[tuple[str, str], Entry] = {}
        self._clock = clock
        registry.register(self)

    def told(self, key: tuple[str, str], status: DPOJobStatus | None) -> None:
        """Take note of a job's status, or of its end with None."""
        if status is None:
            self._entries.pop(key, None)
            return
        chips = status.plan.chips if status.plan is not None else 0
        self._entries[key] = Entry(status.summary or "Unknown", status.ledger, chips)

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """Yield the jobs by summary and their chip-seconds; an activity that never was has no series."""
        # The scrape runs in a thread of its own.
        entries = dict(self._entries)
        jobs = GaugeMetricFamily(
            "dpojob_operator_jobs", "DPOJobs by the word in status.summary.", labels=["summary"]
        )
        for summary, number in Count(entry.summary for entry in entries.values()).items():
            jobs.add_metric([summary], number)
        yield jobs
        seconds = CounterMetricFamily(
            "dpojob_chip_seconds",
            "Chips times seconds of a job's attempts by activity, see status.ledger.",
            labels=["namespace", "dpojob", "activity"],
        )
        now = self._clock()
        for (namespace, name), entry in entries.items():
            for activity, number in counted(entry, now):
                seconds.add_metric([namespace, name, activity.value], number)
        yield seconds


def counted(entry: Entry, now: datetime) -> Iterator[tuple[Activity, int]]:
    """Yield the chip-seconds of a job by activity, those of the open interval included."""
    book = entry.ledger
    if book is None:
        return
    running = ledger.open_chip_seconds(book, entry.chips, now)
    for activity in Activity:
        number = book.chip_seconds.of(activity) + (running if activity == book.activity else 0)
        if number:
            yield activity, number


def count_reconcile(key: Hashable, seconds: float, error: BaseException | None) -> None:
    """Take note of a finished reconcile."""
    RECONCILES.labels("ok" if error is None else type(error).__name__).inc()
    DURATION.observe(seconds)


def count_call(verb: str, resource: str, code: int | None, seconds: float) -> None:
    """Take note of a call of the API server; `code` is None without an answer."""
    API_CALLS.labels(verb, resource, "none" if code is None else str(code)).inc()
    API_SECONDS.labels(verb).observe(seconds)
