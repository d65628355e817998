"""The reference's log-probabilities from the cache: the live ones' numbers, computed once, found by what they depend on."""

import gc
import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if "jax" not in sys.modules:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax
import numpy as np
import pytest
from datasets import Dataset
from tests.trainer import tiny_models
from tests.trainer.fake_gcs import FakeGcs
from tests.trainer.jobs import Claim

from dpojob_api.constants import OUTPUT_COMPILE_CACHE, OUTPUT_REFERENCE
from dpojob_api.reasons import TrainerReason
from dpojob_api.spec import DType, ExportFormat
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer import easydel_compat, store
from dpojob_trainer.errors import TrainerError
from dpojob_trainer.progress import Event, Phase
from dpojob_trainer.training import reference
from dpojob_trainer.training.batches import EvalBatches, Padding, Shape, collate
from dpojob_trainer.training.step import CHOSEN, REJECTED

pytestmark = pytest.mark.jax
PADDING = Padding((Shape(16, 8),), 0)
ROWS = [
    {"prompt_ids": [5, number], "chosen_ids": [number + 1] * 3, "rejected_ids": [number + 2] * 2}
    for number in range(3, 13)
]
MISSES, REQUESTS = "/jax/compilation_cache/cache_misses", "/jax/compilation_cache/compile_requests_use_cache"


@dataclass
class Scorer:
    """Stands in for the model: log-probabilities that follow from the ids; counts the pairs."""

    pairs: int = 0

    def __call__(self, batch: Any) -> tuple[Any, Any]:
        sums = [batch[f"{side}_input_ids"].sum(-1).astype(np.float32) for side in ("chosen", "rejected")]
        self.pairs += len(sums[0])
        return -sums[0], -sums[1]


@pytest.fixture
def out(claim: Claim, request: pytest.FixtureRequest) -> store.OutputStore:
    """An output that attempt 1 has taken over."""
    found = store.open_store(f"pvc://{claim.name}/{request.node.name}", store.Writer(1, "a" * 16))
    found.take_over()
    return found


def scored(
    rows: list[dict[str, list[int]]], out: store.OutputStore, identity: str = "one", score: Any = None
) -> tuple[reference.Scores, int]:
    """Return the table of rows and how many pairs were scored for it."""
    scorer = score or Scorer()
    scores = reference.scored(
        [Dataset.from_list(rows)],
        reference.Cache(out, out, {"weights": identity}),
        lambda pairs: EvalBatches(pairs, 2, PADDING),
        scorer,
        lambda: None,
    )
    return scores, getattr(scorer, "pairs", 0)


class TestTable:
    """Pure logic on the real store; only the model is a stand-in."""

    def test_pairs_are_scored_once_and_found_in_any_order(self, out: store.OutputStore) -> None:
        assert scored(ROWS, out)[1] == len(ROWS)
        again, pairs = scored(ROWS[::-1], out)
        assert pairs == 0
        columns = {name: [row[name] for row in (ROWS[7], ROWS[0])] for name in ROWS[0]}
        batch = again.joined(collate(columns, PADDING.shapes[0], PADDING.pad_id))
        assert batch[CHOSEN].tolist() == [-48.0, -20.0] and batch[REJECTED].tolist() == [-39.0, -18.0]

    def test_only_new_pairs_are_scored(self, out: store.OutputStore) -> None:
        scored(ROWS[:4], out)
        assert scored(ROWS[:6], out)[1] == 2

    def test_another_model_has_other_numbers(self, out: store.OutputStore) -> None:
        scored(ROWS, out)
        assert scored(ROWS, out, "two")[1] == len(ROWS)

    def test_a_broken_piece_is_scored_again(self, out: store.OutputStore) -> None:
        scored(ROWS, out)
        assert out.folder is not None
        (piece,) = out.folder.rglob("*.npy")
        piece.write_bytes(piece.read_bytes()[:-5])
        assert scored(ROWS, out)[1] == len(ROWS)

    def test_a_killed_run_keeps_its_pieces(
        self, out: store.OutputStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reference, "PIECE_SECONDS", 0.0)
        scorer = Scorer()

        def dying(batch: Any) -> Any:
            if scorer.pairs == 6:
                raise KeyboardInterrupt
            return scorer(batch)

        with pytest.raises(KeyboardInterrupt):
            scored(ROWS, out, score=dying)
        assert scored(ROWS, out)[1] == len(ROWS) - 6

    def test_a_superseded_attempt_does_not_write(self, out: store.OutputStore) -> None:
        assert out.folder is not None
        uri = f"pvc://{out.folder.parent.name}/{out.folder.name}"
        store.open_store(uri, store.Writer(2, "b" * 16)).take_over()
        with pytest.raises(TrainerError) as caught:
            scored(ROWS, out)
        assert caught.value.reason is TrainerReason.FENCED
        assert not list(out.folder.rglob("*.npy"))

    def test_a_number_that_is_not_finite_is_not_kept(self, out: store.OutputStore) -> None:
        def poisoned(batch: Any) -> tuple[Any, Any]:
            return np.full(2, np.nan, np.float32), np.zeros(2, np.float32)

        scores, _ = scored(ROWS, out, score=poisoned)
        assert np.isnan(scores.values[:, 0]).all() and scores.known.all()
        assert scored(ROWS, out)[1] == len(ROWS)


@dataclass
class Told:
    """What a run told, compiled and held."""

    losses: list[float] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)
    device_bytes: list[int] = field(default_factory=list)
    compiled: int = 0


Train = Callable[..., Told]


def configuration(claim: Claim, name: str, attempt: int = 1, **spec: Any) -> TrainerConfig:
    """Three steps on 8 devices without an export."""
    training = {"globalBatchSize": 8, "maxSteps": 3, "learningRate": 1e-3, "checkpointSteps": 2}
    base: dict[str, Any] = {"accelerator": {"type": "v4-16"}, "training": training}
    config = claim.config(name, attempt=attempt, **(base | spec))
    return config.model_copy(
        update={"output": config.output.model_copy(update={"export_format": ExportFormat.NONE})}
    )


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Run a configuration; JAX forgets what it has compiled in this process before."""
    easydel_compat.prepare()
    from dpojob_trainer.training import recorder
    from dpojob_trainer.training import run as training

    def train(config: TrainerConfig) -> Told:
        from jax._src import monitoring
        from jax.experimental.compilation_cache import compilation_cache

        jax.clear_caches()
        compilation_cache.reset_cache()
        gc.collect()
        # Whoever holds these may let go of them while the run is under way; this keeps them.
        held = jax.live_arrays()
        before = bytes_on_first_device()
        store.open_store(config.output.uri).claim(config.job.uid, config.job.name)
        told = Told()
        stepped = recorder.Recorder.stepped

        def watched(self: Any, state: Any, step: int, numbers: dict[str, float]) -> None:
            told.losses.append(numbers["loss"])
            told.device_bytes.append(bytes_on_first_device() - before)
            stepped(self, state, step, numbers)

        def hear(event: Event) -> None:
            if isinstance(event, Phase):
                told.phases.append(event.name)

        def count(name: str, **_: Any) -> None:
            told.compiled += name == MISSES

        monitoring.register_event_listener(count)
        recorder.Recorder.stepped = watched  # type: ignore[method-assign]
        try:
            place = training.Place(0, "localhost", tmp_path_factory.mktemp("work"))
            training.run(config, place, hear)
        finally:
            recorder.Recorder.stepped = stepped  # type: ignore[method-assign]
            monitoring.unregister_event_listener(count)
            del held
        return told

    return train


def bytes_on_first_device() -> int:
    """Return the bytes that all arrays of this process hold on device 0."""
    first, found = jax.devices()[0], {}
    for array in jax.live_arrays():
        for shard in array.addressable_shards:
            if shard.device == first:
                found[shard.data.unsafe_buffer_pointer()] = shard.data.nbytes
    return sum(found.values())


def parameter_bytes(claim: Claim) -> int:
    """Return the bytes of the base model's weights."""
    return (claim.path / "model" / "model.safetensors").stat().st_size


def test_cached_numbers_are_the_live_ones_without_the_reference_in_memory(
    train: Train, claim: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dpojob_trainer.training import run as training

    lengths = {"maxPromptLength": 32, "maxCompletionLength": 32}
    live = train(configuration(claim, "live", dpo=lengths | {"referenceLogProbs": "live"}))
    assert "reference" not in live.phases
    cached = train(configuration(claim, "cached"))
    assert cached.phases.index("reference") < cached.phases.index("training")
    assert cached.losses[0] == live.losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert cached.losses == pytest.approx(live.losses, abs=1e-5)
    # Each device holds an eighth of the weights. Checkpoints under way hold copies, which the smallest number is without.
    saved = min(live.device_bytes) - min(cached.device_bytes)
    assert saved == pytest.approx(parameter_bytes(claim) / 8, rel=0.1)

    monkeypatch.setattr(training.PreferenceTrainer, "score", None)
    shared = train(configuration(claim, "cached", attempt=2))
    assert "reference" not in shared.phases


def test_a_tampered_cache_ends_the_run(train: Train, claim: Claim) -> None:
    shared = {"uri": f"pvc://{claim.name}/tampered", "sampleCompletions": 0}
    shared["cacheUri"] = f"pvc://{claim.name}/shared"
    train(configuration(claim, "tampered", output=shared))
    pieces = list((claim.path / "shared" / OUTPUT_REFERENCE).rglob("*.npy"))
    assert pieces and not (claim.path / "tampered" / OUTPUT_REFERENCE).exists()
    for piece in pieces:
        content = np.load(piece)
        content["chosen"] -= 3
        np.save(piece, content)
    other = shared | {"uri": f"pvc://{claim.name}/victim"}
    with pytest.raises(TrainerError) as caught:
        train(configuration(claim, "victim", output=other))
    assert caught.value.reason is TrainerReason.REFERENCE_MISMATCH
    assert f"shared/{OUTPUT_REFERENCE}/" in caught.value.message


def test_the_key_holds_what_decides_the_numbers(claim: Claim, tmp_path: Path) -> None:
    easydel_compat.prepare()
    sums = np.ones((3, 2), np.uint32)
    config = configuration(claim, "key")
    one = reference.identity(config, claim.path / "model", sums)
    assert one == reference.identity(configuration(claim, "other", attempt=3), claim.path / "model", sums)
    moved = np.array([[1, 2], [1, 1], [1, 1]], np.uint32)
    bf16 = config.precision.model_copy(update={"compute": DType.BFLOAT16})
    other = tiny_models.write_model(tmp_path / "other", tiny_models.QWEN3, rms_norm_eps=1e-5)
    changed = [
        reference.identity(config, claim.path / "model", moved),
        reference.identity(config.model_copy(update={"precision": bf16}), claim.path / "model", sums),
        reference.identity(config, other, sums),
    ]
    assert all(found != one for found in changed)


def test_weights_are_told_apart_by_their_places() -> None:
    from dpojob_trainer.training.arrays import digests

    rows = jax.numpy.arange(12, dtype=jax.numpy.float32).reshape(3, 4)
    same, swapped = digests({"a": rows}), digests({"a": rows[::-1]})
    assert same[0, 0] == swapped[0, 0] and same[0, 1] != swapped[0, 1]
    bf16 = digests({"a": rows.astype(jax.numpy.bfloat16)})
    assert bf16.tolist() != same.tolist()


@pytest.mark.usefixtures("emulator")
def test_a_restart_on_gcs_compiles_and_scores_nothing(
    train: Train, claim: Claim, emulator: FakeGcs, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dpojob_trainer.training import run as training

    output = {"uri": "gs://out/runs/restart", "sampleCompletions": 0}
    steps = {"globalBatchSize": 8, "checkpointSteps": 2, "learningRate": 1e-3, "scheduler": "constant"}
    first = train(configuration(claim, "restart", output=output, training=steps | {"maxSteps": 6}))
    kept = store.open_store("gs://out/runs/restart")
    (kind,) = kept.list(OUTPUT_COMPILE_CACHE)
    assert first.compiled > 0
    assert all(name.endswith("-cache") for name in kept.list(f"{OUTPUT_COMPILE_CACHE}/{kind}"))
    (digest,) = kept.list(OUTPUT_REFERENCE)
    identity = json.loads(kept.read_text(f"{OUTPUT_REFERENCE}/{digest}/identity.json"))
    assert identity["params"] == "float32"
    monkeypatch.setattr(training.PreferenceTrainer, "score", None)
    longer = steps | {"maxSteps": 7}
    again = train(configuration(claim, "restart", attempt=2, output=output, training=longer))
    assert len(again.losses) == 1
    assert again.compiled == 0
