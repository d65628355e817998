"""Finds out what configurations take: which cuts of the model are compiled, and where."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer.plan import lowering, topology, workers
from dpojob_trainer.plan.cuts import Cut, Task
from dpojob_trainer.plan.guess import is_hopeless, step_bytes
from dpojob_trainer.plan.lengths import Epoch
from dpojob_trainer.plan.telling import Probe
from dpojob_trainer.plan.whole import guessed, joined, whole
from dpojob_trainer.training.batches import Shape
from dpojob_trainer.weights.checkpoint import read_json

Tell = Callable[[str], None]

# A model of at most so many layers is compiled whole; of a larger one two cuts, and the line through them.
CUTS = (4, 8)


@contextmanager
def compiler(layers: int) -> Iterator[workers.Compiler]:
    """Yield where to compile: in processes beside each other; here, if there is one cut or no room for two at a time."""
    if layers <= CUTS[-1] or not workers.side_by_side():
        yield workers.Here()
        return
    with workers.Beside() as beside:
        yield beside


def shorter(config: TrainerConfig, shapes: Sequence[Shape]) -> list[Shape]:
    """Return the shapes that need most memory under policies that the longest one does not have; `shapes` are ascending."""
    largest = {config.checkpointing_of(shape.sequence): shape for shape in shapes}
    return [shape for shape in largest.values() if shape != shapes[-1]]


@dataclass(frozen=True)
class Prober:
    """Finds out about configurations of one model and one epoch.

    Attributes:
        model_dir: has config.json.
        epoch_of: returns a configuration's epoch.
        steps: of the whole job.
        compiler: where to compile.
        tell: is called with what begins.
    """

    model_dir: Path
    epoch_of: Callable[[TrainerConfig], Epoch]
    steps: int
    compiler: workers.Compiler
    tell: Tell

    def probe(self, config: TrainerConfig) -> Probe:
        """Compile a configuration with few layers and return what it takes with all of them.

        What is hopeless by a rough count is not compiled. Of the static lengths that keep more than the longest one does, the
        longest for each policy is compiled too, unless the longest does not fit anyway.
        """
        shapes = self.epoch_of(config).shapes
        found = self._probe(config, shapes[-1], passes=True)
        for shape in shorter(config, shapes) if found.verdict.fits else ():
            self.tell(f"batches of {shape.sequence} tokens")
            found = joined(found, shape.sequence, self._probe(config, shape, passes=False))
        return found

    def _probe(self, config: TrainerConfig, shape: Shape, *, passes: bool) -> Probe:
        task, chip = replace(self._task(config, shape), passes=passes), topology.chip_of(config)
        layers = task.layers
        if layers <= CUTS[-1]:
            return whole(config, [self._start(task).result()], layers, chip)
        needed = step_bytes(config, read_json(self.model_dir / "config.json"), shape)
        if is_hopeless(needed, chip.usable_hbm_bytes):
            begun = [self.compiler.start(replace(task, layers=cut, compiled=False)) for cut in CUTS]
            return guessed(config, [one.result() for one in begun], layers, chip, needed)
        return whole(config, self._two(task, layers), layers, chip)

    def identified(self, config: TrainerConfig, probe: Probe) -> Probe:
        """Return what was found with the fingerprint of the whole model's step, which is traced for it if it fits."""
        if probe.fingerprint is not None or not probe.verdict.fits:
            return probe
        task = self._task(config, self.epoch_of(config).longest)
        traced = self.compiler.start(replace(task, compiled=False)).result()
        return replace(probe, fingerprint=traced.fingerprint)

    def _task(self, config: TrainerConfig, shape: Shape) -> Task:
        return Task(config, self.model_dir, shape, self.steps, lowering.layers_of(self.model_dir))

    def _two(self, task: Task, layers: int) -> list[Cut]:
        # A pass without gradients keeps nothing of a layer, so one cut tells what it takes.
        more = self._start(replace(task, layers=CUTS[1], passes=False))
        few = self._start(replace(task, layers=CUTS[0]))
        found = more.result()
        if not found.refused:
            return [few.result(), found]
        few.cancel()
        return [
            found,
            self._start(replace(task, layers=min(layers, 2 * found.layers), passes=False)).result(),
        ]

    def _start(self, task: Task) -> workers.Pending:
        self.tell(f"compiling {task.layers} layers")
        return self.compiler.start(task)
