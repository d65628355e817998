"""The driver's Prometheus endpoint: the newest numbers of the run, scraped by the operator and by anyone else."""

import threading
import time
from collections.abc import Iterable, Iterator
from socketserver import ThreadingMixIn
from statistics import fmean
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from dpojob_api import metrics
from dpojob_api.constants import RECORDED_HEADER
from dpojob_trainer.progress import (
    Begun,
    Data,
    Emit,
    Evaluation,
    Event,
    Numbers,
    Phase,
    Planned,
    Saved,
    Step,
    eta_seconds,
)

STEPS_OF_A_MEAN = 20
RECORDED_VARIABLE = "HTTP_" + RECORDED_HEADER.upper().replace("-", "_")
"""The header's name in a WSGI environment."""
TRAIN_GAUGES = {
    "loss": metrics.LOSS,
    "rewards/accuracies": metrics.REWARD_ACCURACY,
    "rewards/margins": metrics.REWARD_MARGIN,
    "rewards/chosen": metrics.REWARD_CHOSEN,
    "rewards/rejected": metrics.REWARD_REJECTED,
    "logps/chosen": metrics.LOGP_CHOSEN,
    "logps/rejected": metrics.LOGP_REJECTED,
    "rewards/margin_variance": metrics.REWARD_MARGIN_VARIANCE,
    "lengths/differences": metrics.LENGTH_DIFFERENCE,
    "lengths/variance": metrics.LENGTH_VARIANCE,
    "lengths/covariance": metrics.LENGTH_COVARIANCE,
    "lengths/correlation": metrics.LENGTH_CORRELATION,
    "grad_norm": metrics.GRAD_NORM,
    "learning_rate": metrics.LEARNING_RATE,
    "seconds": metrics.STEP_SECONDS,
    "mfu": metrics.MFU,
}
EVAL_GAUGES = {
    "loss": metrics.EVAL_LOSS,
    "rewards/accuracies": metrics.EVAL_REWARD_ACCURACY,
    "rewards/margins": metrics.EVAL_REWARD_MARGIN,
    "lengths/correlation": metrics.EVAL_LENGTH_CORRELATION,
}


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """A scrape every few seconds is no news."""


class Board(Collector):
    """Keeps the newest numbers; safe to update and scrape from different threads.

    Args:
        tell: called with every event that comes.
    """

    def __init__(self, tell: Emit = lambda event: None) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._phase = metrics.PHASES[0]
        self._gauges: Numbers = {metrics.STEP: 0, metrics.TOTAL_STEPS: 0, metrics.FINISHED: 0}
        self._families: dict[str, Numbers] = {}
        self._per_epoch = 0
        self._durations: list[float] = []
        self._changed = time.monotonic()
        self._recorded = threading.Event()

    def serve(self, port: int) -> None:
        """Serve ``/metrics`` on every address."""
        registry = CollectorRegistry()
        registry.register(self)
        answer = make_wsgi_app(registry)

        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            with self._lock:
                finished = bool(self._gauges[metrics.FINISHED])
            body: Iterable[bytes] = answer(environ, start_response)
            # An operator that has merely read it may be gone before it has written anything.
            if finished and RECORDED_VARIABLE in environ:
                self._recorded.set()
            return body

        server = make_server("", port, app, _Server, handler_class=_Silent)
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def update(self, event: Event) -> None:
        """Take in what host 0 tells, and pass it on to the listener."""
        self.keep(event)
        self._tell(event)

    def keep(self, event: Event) -> None:
        """Take in numbers that have been told."""
        with self._lock:
            before = self._phase, self._gauges[metrics.STEP]
            match event:
                case Phase(name):
                    self._phase = name
                case Data(numbers):
                    self._families[metrics.DATA_PAIRS] = numbers
                case Begun(step, total, per_epoch):
                    self._per_epoch = per_epoch
                    self._gauges[metrics.RESUMED_STEP] = step
                    self._done(step, total)
                case Saved(step, when):
                    self._gauges |= {metrics.CHECKPOINT_STEP: step, metrics.CHECKPOINT_TIME: when}
                case Planned(matches):
                    self._gauges[metrics.PLAN_MATCHES] = float(matches)
                case Step():
                    self._step(event)
                case Evaluation(_, numbers):
                    self._gauges |= named(numbers, EVAL_GAUGES)
            if before != (self._phase, self._gauges[metrics.STEP]):
                self._changed = time.monotonic()

    def _step(self, event: Step) -> None:
        self._durations.append(event.numbers.get("seconds", 0.0))
        self._gauges |= named(event.numbers, TRAIN_GAUGES) | throughput(event.numbers)
        self._families[metrics.DEVICE_BYTES] = {str(i): float(b) for i, b in enumerate(event.device_bytes)}
        self._done(event.step, event.total)
        # The first step compiles and says nothing about the others.
        later, remaining = self._durations[1:], event.total - event.step
        if later or not remaining:
            self._gauges[metrics.ETA_SECONDS] = eta_seconds(remaining, later)
        if len(later) >= STEPS_OF_A_MEAN - 1:
            self._gauges[metrics.MEAN_STEP_SECONDS] = fmean(later)

    def _done(self, step: int, total: int) -> None:
        self._gauges |= {metrics.STEP: step, metrics.TOTAL_STEPS: total}
        if self._per_epoch:
            self._gauges[metrics.EPOCH] = step / self._per_epoch

    def finish(self, step: int, total: int) -> None:
        """Show the run as checked and written; `step` may come from a checkpoint that was already complete."""
        with self._lock:
            self._phase, self._changed = "finished", time.monotonic()
            self._gauges |= {
                metrics.STEP: step,
                metrics.TOTAL_STEPS: total,
                metrics.FINISHED: 1,
                metrics.ETA_SECONDS: 0,
            }

    def wait_for_record(self, seconds: float) -> bool:
        """Wait until the operator says that the finished run is in the job's status; return whether it has."""
        return self._recorded.wait(seconds)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield every gauge."""
        with self._lock:
            gauges, families, phase = dict(self._gauges), dict(self._families), self._phase
            gauges[metrics.IDLE_SECONDS] = time.monotonic() - self._changed
        for name, value in gauges.items():
            yield GaugeMetricFamily(name, metrics.HELP[name], value=value)
        families[metrics.PHASE] = {known: float(known == phase) for known in metrics.PHASES}
        for name, values in families.items():
            family = GaugeMetricFamily(name, metrics.HELP[name], labels=[metrics.LABELS[name]])
            for label, value in values.items():
                family.add_metric([label], value)
            yield family


def throughput(numbers: Numbers) -> Numbers:
    """Return tokens per second of a step, without and with padding."""
    seconds = numbers.get("seconds", 0.0)
    gauges = {"tokens": metrics.TOKENS_PER_SECOND, "padded_tokens": metrics.PADDED_TOKENS_PER_SECOND}
    return {gauge: numbers[name] / seconds for name, gauge in gauges.items() if name in numbers and seconds}


def named(numbers: Numbers, gauges: dict[str, str]) -> Numbers:
    """Return the numbers that have a gauge, by the gauge's name."""
    return {gauge: numbers[name] for name, gauge in gauges.items() if name in numbers}
