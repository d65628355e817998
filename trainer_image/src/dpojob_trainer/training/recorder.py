"""What a run tells while it goes on: lines of metrics.jsonl, trackers, the driver."""

import json
import logging
import time
from typing import Any

import jax

from dpojob_api.constants import OUTPUT_METRICS
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer import store
from dpojob_trainer.progress import Begun, Emit, Evaluation, Numbers, Phase, Planned, Saved, Step
from dpojob_trainer.training.compile_cache import CompileCache
from dpojob_trainer.training.tracking import Tracker

log = logging.getLogger(__name__)


class Recorder:
    """Keeps the numbers of a run and, on host 0, passes them on: metrics.jsonl, W&B, the driver, the log."""

    def __init__(
        self,
        config: TrainerConfig,
        first: bool,
        total: int,
        out: store.OutputStore,
        tracker: Tracker,
        emit: Emit,
        programs: CompileCache,
    ) -> None:
        self._programs = programs
        self._config, self._out, self._tracker, self._emit = config, out, tracker, emit
        self.first = first
        self._total = total
        self.last: Numbers | None = None
        self.matches_plan: bool | None = None
        self.evaluations: dict[int, Numbers] = {}

    def stepped(self, state: Any | None, step: int, numbers: Numbers) -> None:
        """Record one optimizer step; the state is there if the trackers may want it."""
        self.last = numbers
        if state is not None:
            self._tracker.weights(state, step)
        if not self.first:
            return
        self._emit(Step(step, self._total, numbers, device_bytes()))
        self._write({"step": step, "total": self._total} | numbers)
        if step % self._config.training.log_steps == 0 or step == self._total:
            self._tracker.log("train", step, numbers)

    def evaluated(self, step: int, numbers: Numbers) -> None:
        """Record one evaluation."""
        self.evaluations[step] = numbers
        if not self.first:
            return
        self._emit(Evaluation(step, numbers))
        self._write({"step": step} | {f"eval/{name}": value for name, value in numbers.items()})
        self._tracker.log("eval", step, numbers)
        log.info("evaluation after step %d %s", step, _words(numbers))

    def saved(self, step: int) -> None:
        """Tell the driver that a checkpoint was begun."""
        if self.first:
            self._emit(Saved(step, time.time()))

    def begun(self, step: int, per_epoch: int) -> None:
        """Tell the driver that the loop begins after `step` steps."""
        self.phase("training")
        if self.first:
            self._emit(Begun(step, self._total, per_epoch))

    def planned(self, matches: bool) -> None:
        """Tell the driver whether the step is the one that was planned."""
        self.matches_plan = matches
        if self.first:
            self._emit(Planned(matches))

    def phase(self, name: str) -> None:
        """Tell the driver that a phase begins; programs that the last one compiled are kept."""
        if self.first:
            self._programs.push()
            self._emit(Phase(name))

    def _write(self, line: dict[str, Any]) -> None:
        stamp = {"attempt": self._config.job.attempt, "time": time.time()}
        self._out.append_line(OUTPUT_METRICS, json.dumps(line | stamp))


def device_bytes() -> tuple[int, ...]:
    """Return the bytes in use on each device of this host; empty on the CPU, where JAX does not tell."""
    stats = (device.memory_stats() for device in jax.local_devices())
    return tuple(found["bytes_in_use"] for found in stats if found and "bytes_in_use" in found)


def _words(numbers: Numbers) -> str:
    return " ".join(f"{name}={value:.6g}" for name, value in numbers.items())
