"""What a contender of ``make bench-trainer`` is told and what it answers, as JSON files; standard library only, since TRL's
interpreter has none of our packages.
"""

import json
import resource
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Job:
    """One run of one contender.

    Attributes:
        name: the contender's.
        folder: holds ``model/``, ``pairs`` and ``rows.json``.
        result: where the answer goes.
        order: ``gathered`` is ours, pairs of similar length side by side; ``file`` has the same pairs in the file's order.
        dtype: what is computed in; parameters are float32.
        steps: optimizer steps.
        batch: pairs per step.
        prompt, completion: tokens kept.
        learning_rate: constant.
        options: the contender's own settings.
    """

    name: str
    folder: str
    result: str
    order: str
    dtype: str
    steps: int
    batch: int
    prompt: int
    completion: int
    learning_rate: float
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str) -> "Job":
        """Read a job."""
        return cls(**json.loads(Path(path).read_text()))

    def write(self, path: Path) -> None:
        """Write it for a contender."""
        path.write_text(json.dumps(asdict(self)))

    def rows(self) -> list[dict[str, list[int]]]:
        """Return the token ids of the pairs that the steps take, in the contender's order."""
        found: list[dict[str, list[int]]] = json.loads((Path(self.folder) / "rows.json").read_text())[
            self.order
        ]
        return found


@dataclass
class Answer:
    """What a run has measured.

    Attributes:
        losses: of each step.
        seconds: of each step; the first ones may compile.
        cpu_seconds: of the process from the end of the step before, or the step's begin, to each step's end.
        times: when each step ended, in seconds since 1970.
        compile_seconds: spent compiling, as far as the contender tells.
        peak_rss_bytes: largest resident memory of the process.
    """

    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    compile_seconds: float | None = None
    peak_rss_bytes: int = 0

    def write(self, job: Job) -> None:
        """Write it, with the memory of this process."""
        self.peak_rss_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        Path(job.result).write_text(json.dumps(asdict(self)))
