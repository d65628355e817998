"""The operator's own Prometheus metrics."""

from collections import Counter as Count
from collections.abc import Hashable

from prometheus_client import Counter, Gauge, Histogram

RECONCILES = Counter("dpojob_operator_reconciles", "Reconciles by outcome.", ["outcome"])
DURATION = Histogram("dpojob_operator_reconcile_seconds", "Seconds that a reconcile took.")
QUEUE_LENGTH = Gauge("dpojob_operator_queue_length", "Jobs that wait for a worker.")
JOBS = Gauge("dpojob_operator_jobs", "DPOJobs by the word in status.summary.", ["summary"])


class JobCounter:
    """Keeps the number of jobs by summary."""

    def __init__(self) -> None:
        self._summaries: dict[Hashable, str] = {}

    def told(self, key: Hashable, summary: str | None) -> None:
        """Take note of a job's summary, or of its end with None."""
        if summary is None:
            self._summaries.pop(key, None)
        else:
            self._summaries[key] = summary
        JOBS.clear()
        for word, number in Count(self._summaries.values()).items():
            JOBS.labels(word).set(number)


def count_reconcile(key: Hashable, seconds: float, error: BaseException | None) -> None:
    """Take note of a finished reconcile."""
    RECONCILES.labels("ok" if error is None else type(error).__name__).inc()
    DURATION.observe(seconds)
