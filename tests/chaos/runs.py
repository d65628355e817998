"""The trainer as the player plays it: a run of 40 steps with its metrics on a loopback address, and how it may end.

A real step or phase takes longer than a restart of the operator; a run here goes on only once its newest numbers were
read, so that what the operator knows at the end of an attempt does not depend on how fast a busy machine is.
"""

import itertools
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from aiohttp import web

from dpojob_api import metrics
from dpojob_api.constants import FIELD_MANAGER, METRICS_PATH, METRICS_PORT, RECORDED_HEADER
from dpojob_api.result import TrainerResult

TOTAL, PER_BEAT, EVERY = 40, 10, 20
"""Steps of a run, steps per beat, steps between checkpoints."""
REASONS = {
    "preempted": "Preempted",
    "internal": "Internal",
    "data": "DatasetNotFound",
    "fenced": "Fenced",
    "nan": "NonFiniteLoss",
}
"""Fates in which the trainer itself says why it ends."""


@dataclass(frozen=True)
class Fate:
    """How an attempt ends.

    Attributes:
        kind: succeed; a key of REASONS; crash (no last words); liar (success without proof); host, head (a pod is lost);
            capacity (the pods never come); delete (somebody deletes the RayJob); hold (it stays at its step for ever).
        step: at which step it strikes.
    """

    kind: str = "succeed"
    step: int = TOTAL


@dataclass
class Run:
    """One start of the trainer."""

    address: str
    resumed: int
    fate: Fate = Fate()
    phase: str = metrics.PHASES[0]
    step: int = 0
    serves: bool = True
    finished: bool = False
    struck: bool = False
    read: bool = False
    recorded: bool = False
    changed_at: float = field(default_factory=time.monotonic)

    @property
    def saved(self) -> int:
        """The step of the newest checkpoint that was due."""
        return max(self.resumed, TOTAL if self.step == TOTAL else self.step // EVERY * EVERY)

    def advance(self, patience: float) -> bool:
        """Take the next step, or strike; return whether anything has changed.

        Args:
            patience: seconds after which it goes on although nobody has read its numbers.
        """
        if not self.serves or (not self.read and time.monotonic() < self.changed_at + patience):
            return False
        if self.fate.kind != "succeed" and self.phase == "training" and self.step >= self.fate.step:
            self.struck = self.fate.kind != "hold"
            return self.struck
        if self.finished:
            return False
        if self.phase == metrics.PHASES[0]:
            self.phase, self.step = "training", self.resumed
        elif self.step >= TOTAL:
            self.phase, self.finished = "finished", True
        else:
            self.step = min(TOTAL, self.step + PER_BEAT)
        self.read, self.changed_at = False, time.monotonic()
        return True

    def last_words(self) -> str:
        """Return the tail of the driver's log."""
        if self.finished:
            return TrainerResult(
                reason="Succeeded", message="told.", step=self.step, recorded=False
            ).to_line()
        reason = REASONS.get(self.fate.kind)
        if reason is None:
            return "Segmentation fault"
        return TrainerResult(reason=reason, message="told.", step=self.step).to_line()

    def text(self) -> str:
        """Return the metrics in Prometheus' format."""
        lines = [
            f'{metrics.PHASE}{{phase="{self.phase}"}} 1',
            f"{metrics.STEP} {self.step}",
            f"{metrics.TOTAL_STEPS} {TOTAL}",
            f"{metrics.FINISHED} {int(self.finished)}",
            f"{metrics.LOSS} 0.5",
            f"{metrics.REWARD_ACCURACY} 0.75",
            f"{metrics.IDLE_SECONDS} {time.monotonic() - self.changed_at}",
        ]
        if self.phase != metrics.PHASES[0]:
            lines.append(f"{metrics.RESUMED_STEP} {self.resumed}")
        return "\n".join(lines) + "\n"


class Boards:
    """Serves the metrics of every run, each on an address of its own in 127.0.0.0/8, which the whole machine reaches."""

    def __init__(self) -> None:
        block = random.SystemRandom().randrange(1, 255), random.SystemRandom().randrange(0, 256)
        self._addresses: Iterator[str] = (
            f"127.{block[0]}.{(block[1] + n // 254) % 256}.{n % 254 + 1}" for n in itertools.count()
        )
        self._runners: dict[str, web.AppRunner] = {}

    async def open(self, resumed: int, fate: Fate) -> Run:
        """Return a run that serves its metrics."""
        run = Run(next(self._addresses), resumed, fate)

        async def answer(request: web.Request) -> web.Response:
            if not run.serves:
                return web.Response(status=503)
            # Others scrape too; only the operator's reading counts.
            if request.headers.get("User-Agent", "").startswith(FIELD_MANAGER):
                run.read = True
                run.recorded = run.finished and RECORDED_HEADER in request.headers
            return web.Response(text=run.text())

        app = web.Application()
        app.router.add_get(METRICS_PATH, answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, run.address, METRICS_PORT).start()
        self._runners[run.address] = runner
        return run

    async def close(self, run: Run) -> None:
        """End a run; its address answers no more."""
        run.serves = False
        runner = self._runners.pop(run.address, None)
        if runner is not None:
            await runner.cleanup()

    async def close_all(self) -> None:
        """End every run."""
        for runner in list(self._runners.values()):
            await runner.cleanup()
        self._runners.clear()
