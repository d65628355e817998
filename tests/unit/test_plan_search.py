"""Which cuts are compiled, and how a search for a faster job goes. The compiler is a stand-in: the real one takes minutes."""

import json
import re
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit import plan_builders

from dpojob_api.mesh import AXES
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer.data.lengths import PairLengths
from dpojob_trainer.plan import tuning
from dpojob_trainer.plan.cuts import Cut, Task
from dpojob_trainer.plan.fixes import Fix
from dpojob_trainer.plan.guess import is_hopeless, step_bytes
from dpojob_trainer.plan.lengths import epoch_of
from dpojob_trainer.plan.measured import Measured, TooLarge
from dpojob_trainer.plan.memory import Sizes
from dpojob_trainer.plan.probing import Prober
from dpojob_trainer.plan.telling import tuned
from dpojob_trainer.plan.tune import tune

GIB = 2**30
META = {"name": "job", "namespace": "test", "uid": "uid"}
# Qwen3-14B's.
SETTINGS = {
    "hidden_size": 5120,
    "intermediate_size": 17408,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
}
SETTINGS |= {"head_dim": 128, "num_hidden_layers": 40}


def config(**spec: Any) -> TrainerConfig:
    base: dict[str, Any] = {
        "dpo": {"maxPromptLength": 2048, "maxCompletionLength": 2048},
        "precision": {"params": "bfloat16", "compute": "bfloat16"},
        "training": {"globalBatchSize": 32},
        "gradientCheckpointing": "nothing_saveable",
    }
    return plan_builders.config(**(base | spec))


def cut(layers: int, total: float, cycles: float = 1.0) -> Cut:
    sizes = Sizes(parameters=1, optimizer=2, reference=0, logits=0, elements=9, multiplied=9, largest=1)
    step = Measured(0, 0, 0, total, 0, cycles=cycles) if total <= 30 * GIB else TooLarge(total, "too large")
    return Cut(layers, step, Measured(1, 2, 0, 0, 0), {}, sizes, f"print-{layers}")


@dataclass
class Compiler:
    """Every layer takes as much, but for lengths in `by_length`; faster with what `faster` names."""

    per_layer: float
    faster: dict[str, float] = field(default_factory=dict)
    by_length: dict[int, float] = field(default_factory=dict)
    started: list[Task] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)

    def start(self, task: Task) -> "Pending":
        self.started.append(task)
        return Pending(self, task)


@dataclass
class Pending:
    compiler: Compiler
    task: Task

    def result(self) -> Cut:
        seconds = 10.0 * self.task.shape.sequence / 4096
        for words, factor in self.compiler.faster.items():
            seconds *= factor if re.search(words, self.task.config.to_json()) else 1.0
        cycles = seconds * 1.05e9 * self.task.layers / 40
        per_layer = self.compiler.by_length.get(self.task.shape.sequence, self.compiler.per_layer)
        return cut(self.task.layers, per_layer * self.task.layers, cycles)

    def cancel(self) -> None:
        self.compiler.cancelled.append(self.task.layers)


def prober(
    compiler: Compiler, tmp_path: Path, layers: int = 40, lengths: PairLengths | None = None
) -> Prober:
    (tmp_path / "config.json").write_text(json.dumps(SETTINGS | {"num_hidden_layers": layers}))
    return Prober(tmp_path, partial(epoch_of, lengths=lengths), 100, compiler, lambda _: None)


def test_two_cuts_make_the_line_to_all_layers(tmp_path: Path) -> None:
    compiler = Compiler(0.5 * GIB)
    found = prober(compiler, tmp_path).probe(config())
    assert sorted(task.layers for task in compiler.started) == [4, 8]
    assert found.verdict.needed == pytest.approx(20 * GIB)
    assert (found.verdict.fits, found.fingerprint, compiler.cancelled) == (True, None, [])


def test_a_job_that_fits_is_identified_by_its_whole_step(tmp_path: Path) -> None:
    compiler = Compiler(0.5 * GIB)
    asked = prober(compiler, tmp_path)
    assert asked.identified(config(), asked.probe(config())).fingerprint == "print-40"
    whole = compiler.started.pop()
    assert (whole.layers, whole.compiled) == (40, False)
    asked = prober(Compiler(8 * GIB), tmp_path)
    assert asked.identified(config(), asked.probe(config())).fingerprint is None


def test_a_refused_cut_makes_the_smaller_one_useless(tmp_path: Path) -> None:
    compiler = Compiler(8 * GIB)
    found = prober(compiler, tmp_path).probe(config())
    assert ([task.layers for task in compiler.started], compiler.cancelled) == ([8, 4, 16], [4])
    assert (found.verdict.at_least, found.verdict.needed) == (True, pytest.approx(320 * GIB))


def test_a_small_model_is_compiled_whole(tmp_path: Path) -> None:
    compiler = Compiler(GIB)
    assert prober(compiler, tmp_path, layers=8).probe(config()).cuts == [8]


def test_what_is_hopeless_by_a_rough_count_is_not_compiled(tmp_path: Path) -> None:
    """The tutorial's job keeps all activations. The count was fitted to that job, so its size here is no independent check."""
    job, compiler = config(gradientCheckpointing="none"), Compiler(GIB)
    found = prober(compiler, tmp_path).probe(job)
    assert not any(task.compiled for task in compiler.started)
    assert (found.cuts, found.step, found.verdict.fits, found.verdict.at_least) == ([], None, False, False)
    assert 70 * GIB < found.verdict.needed < 100 * GIB


def test_a_rough_count_of_a_job_that_may_fit_decides_nothing() -> None:
    needed = step_bytes(config(), SETTINGS, epoch_of(config(), None).longest)
    assert 5 * GIB < needed < 30 * GIB
    assert not is_hopeless(needed, 30.75 * GIB)
    assert not is_hopeless(60 * GIB, 30.75 * GIB)


def test_a_search_keeps_what_is_faster_and_builds_on_it(tmp_path: Path) -> None:
    compiler = Compiler(0.5 * GIB, {"scoped_vmem": 0.4, '"fsdp": 32': 0.7, "overlap_compute": 1.2})
    job = config(mesh={"dp": 1, "fsdp": 1, "sp": -1})
    trials = list(tune(prober(compiler, tmp_path), Fix({}, job), SETTINGS, float("inf")))
    answer = tuned(trials)
    assert answer is not None
    assert [trial.axis for trial in trials if trial.kept] == ["start", "mesh", "flags"]
    assert answer.changes == {
        **{f"spec.mesh.{axis}": size for axis, size in zip(AXES, (1, 32, 1, 1, 1), strict=True)},
        "spec.runtime.xlaFlags.xla_tpu_scoped_vmem_limit_kib": "65536",
    }
    assert answer.patch == {
        "spec": {
            "mesh": {"dp": 1, "fsdp": 32, "ep": 1, "tp": 1, "sp": 1},
            "runtime": {"xlaFlags": {"xla_tpu_scoped_vmem_limit_kib": "65536"}},
        }
    }
    seconds = [trial.seconds for trial in trials if trial.kept]
    assert seconds == pytest.approx([10.0, 7.0, 2.8])


def test_a_search_ends_with_its_time(tmp_path: Path) -> None:
    compiler, told = Compiler(0.5 * GIB), list[str]()
    one = prober(compiler, tmp_path)
    asked = Prober(tmp_path, one.epoch_of, 100, compiler, told.append)
    trials = list(tune(asked, Fix({}, config()), SETTINGS, 0.0))
    assert (len(trials), told[-1]) == (1, "out of time: nothing further is tried")
    answer = tuned(trials)
    assert answer is not None
    assert answer.changes == {}


def test_more_lengths_are_tried_where_lengths_are_known(tmp_path: Path) -> None:
    lengths = PairLengths(*(np.arange(1, 641) * 3 for _ in range(3)))
    job = config(training={"globalBatchSize": 32, "lengthBuckets": 1})
    trials = list(
        tune(prober(Compiler(0.1), tmp_path, lengths=lengths), Fix({}, job), SETTINGS, float("inf"))
    )
    found = [trial for trial in trials if trial.axis == "lengths"]
    assert [trial.fix.config.training.length_buckets for trial in found] == [8, 16]
    assert found[0].kept, "shorter batches take less time"


SPREAD = PairLengths(*(np.arange(1, 641) * 3 for _ in range(3)))


def test_short_batches_that_keep_more_decide_about_memory_too(tmp_path: Path) -> None:
    job = config(shortGradientCheckpointing={"none": 800, "checkpointDots": 3500})
    shapes = [shape.sequence for shape in epoch_of(job, SPREAD).shapes]
    none, dots = (max(length for length in shapes if length <= most) for most in (800, 3500))
    compiler = Compiler(0.5 * GIB, by_length={dots: 0.75 * GIB, none: 0.25 * GIB})
    found = prober(compiler, tmp_path, lengths=SPREAD).probe(job)
    assert {task.shape.sequence for task in compiler.started} == {none, dots, shapes[-1]}
    assert (found.verdict.needed, found.verdict.stage) == (pytest.approx(30 * GIB), "training step")
    assert set(found.shorter) == {none, dots}
    assert found.largest is found.shorter[dots]


def test_a_refused_short_batch_is_a_job_that_does_not_fit(tmp_path: Path) -> None:
    dots = epoch_of(config(), SPREAD).shapes[1].sequence
    job = config(shortGradientCheckpointing={"checkpointDots": dots})
    compiler = Compiler(0.5 * GIB, by_length={dots: 8 * GIB})
    found = prober(compiler, tmp_path, lengths=SPREAD).probe(job)
    assert (found.verdict.fits, found.verdict.at_least, found.largest) == (False, True, None)
    assert found.verdict.needed == pytest.approx(320 * GIB)


def test_a_search_lets_short_batches_keep_what_fits(tmp_path: Path) -> None:
    """What keeps everything is not compiled where a rough count is far beyond the chip."""
    *_, rough, fits, too_long, _ = (shape.sequence for shape in epoch_of(config(), SPREAD).shapes)
    compiler = Compiler(
        0.5 * GIB,
        {'"checkpointDots": [1-9]': 0.8, '"none": [1-9]': 0.8},
        by_length=dict.fromkeys([too_long], 8 * GIB),
    )
    job = config()
    trials = list(tune(prober(compiler, tmp_path, lengths=SPREAD), Fix({}, job), SETTINGS, float("inf")))
    of_short = [trial for trial in trials if "batches" in trial.axis and "micro" not in trial.axis]
    assert [trial.fits for trial in of_short] == [False, True, True]
    answer = tuned(trials)
    assert answer is not None
    assert answer.changes == {
        "spec.shortGradientCheckpointing.checkpointDots": fits,
        "spec.shortGradientCheckpointing.none": rough,
    }


def test_every_move_is_a_valid_job() -> None:
    start = Fix({}, config(training={"globalBatchSize": 64}))
    epoch = epoch_of(start.config, PairLengths(*(np.arange(1, 1281) for _ in range(3))))
    moves = [move for _, axis in tuning.AXES_OF_SEARCH for move in axis(start, SETTINGS, epoch)]
    assert any(move.config.short_gradient_checkpointing.none for move in moves)
    assert {move.config.gradient_checkpointing.value for move in moves} > {"none", "checkpoint_dots"}
    for move in moves:
        mesh, training = move.config.plan.mesh, move.config.training
        assert np.prod(mesh.dims()) == 32
        assert training.global_batch_size % (training.gradient_accumulation_steps * mesh.data_shards) == 0
        assert TrainerConfig.model_validate_json(move.config.to_json()) == move.config
