"""The reference's log-probabilities, computed once per pair before the first step and kept in the output or in the folder
that jobs share.

Before its first step the policy is the reference, so it is the policy that scores the pairs and no second model is
loaded. A pair is found by its token ids, so batches may hold the pairs in any order and shape.
"""

import hashlib
import io
import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from datasets import Dataset, concatenate_datasets
from numpy.typing import NDArray

from dpojob_api.constants import OUTPUT_REFERENCE
from dpojob_api.spec import DType, PrecisionSpec
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer import store, weights
from dpojob_trainer.data.tokens import key
from dpojob_trainer.training import logps
from dpojob_trainer.training.arrays import Arrays, digests, named
from dpojob_trainer.training.batches import Batch, token_ids
from dpojob_trainer.training.step import CHOSEN, REJECTED
from dpojob_trainer.weights.architecture import FOREIGN_KEYS, attention_mechanism
from dpojob_trainer.weights.checkpoint import read_json

log = logging.getLogger(__name__)

Keys = NDArray[np.int64]
Values = NDArray[np.float32]
Score = Callable[[Batch], tuple[NDArray[Any], NDArray[Any]]]
PIECE = np.dtype([("pair", "<i8"), ("chosen", "<f4"), ("rejected", "<f4")])
# How much work a run that is killed may lose.
PIECE_SECONDS = 30.0
ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Scores:
    """Log-probabilities of pairs under the reference.

    Attributes:
        keys: the pairs' keys, sorted `[pairs]`.
        values: of the chosen and the rejected completion, summed over tokens `[pairs, 2]`.
        known: whether there are such values `[pairs]`.
    """

    keys: Keys
    values: Values
    known: NDArray[np.bool_]

    @classmethod
    def unknown(cls, keys: Keys) -> "Scores":
        """Return the table of distinct keys without values."""
        return cls(keys, np.zeros((len(keys), 2), np.float32), np.zeros(len(keys), bool))

    def put(self, keys: Keys, values: Values) -> None:
        """Enter the values of pairs; those of other pairs are left out."""
        at = np.minimum(np.searchsorted(self.keys, keys), max(len(self.keys) - 1, 0))
        mine = self.keys[at] == keys if len(self.keys) else np.zeros(len(keys), bool)
        self.values[at[mine]], self.known[at[mine]] = values[mine], True

    def joined(self, batch: Batch) -> Batch:
        """Return the batch with the reference's log-probabilities of its pairs.

        Raises:
            KeyError: a pair is not in the table.
        """
        keys = batch_keys(batch)
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        if not ((self.keys[at] == keys) & self.known[at]).all():
            raise KeyError("a pair has no log-probabilities of the reference")
        return batch | {CHOSEN: self.values[at, 0], REJECTED: self.values[at, 1]}


class Cache:
    """Pieces of the table below ``reference/<digest>/``, each a whole file named by its content.

    Args:
        place: the folder that holds ``reference/``.
        out: the job's output, whose fence decides whether this attempt may write.
        identity: what decides the numbers.
    """

    def __init__(self, place: store.OutputStore, out: store.OutputStore, identity: dict[str, Any]) -> None:
        self._place, self._out, self._identity = place, out, identity
        text = json.dumps(identity, sort_keys=True)
        self._folder = f"{OUTPUT_REFERENCE}/{hashlib.sha256(text.encode()).hexdigest()[:32]}"

    @property
    def root(self) -> str:
        """The folder of the pieces."""
        return f"{self._place.root}/{self._folder}"

    def fill(self, scores: Scores) -> None:
        """Enter what is there; a piece that cannot be read is left out, so its pairs are scored again."""
        for name in self._place.list(self._folder):
            if not name.endswith(".npy"):
                continue
            try:
                piece = np.load(
                    io.BytesIO(self._place.read_bytes(f"{self._folder}/{name}")), allow_pickle=False
                )
                values = np.stack([piece["chosen"], piece["rejected"]], axis=1)
            except (ValueError, IndexError, EOFError, FileNotFoundError) as error:
                log.warning("%s/%s cannot be read and is computed again: %s", self.root, name, error)
                continue
            scores.put(piece["pair"], values)

    def save(self, keys: Keys, values: Values) -> None:
        """Write a piece; numbers that are not finite are left out, as they end the run at its first step.

        Raises:
            TrainerError: Fenced or OutputUnwritable.
        """
        finite = np.isfinite(values).all(axis=1)
        piece = np.zeros(int(finite.sum()), PIECE)
        piece["pair"], piece["chosen"], piece["rejected"] = keys[finite], values[finite, 0], values[finite, 1]
        if not len(piece):
            return
        content = io.BytesIO()
        np.save(content, piece, allow_pickle=False)
        self._out.check_fence()
        name = hashlib.sha256(content.getvalue()).hexdigest()[:32]
        self._place.write_bytes(f"{self._folder}/{name}.npy", content.getvalue())
        self._place.write_text(f"{self._folder}/identity.json", json.dumps(self._identity, indent=2))


def scored(
    parts: Sequence[Dataset],
    cache: Cache,
    batches: Callable[[Dataset], Iterable[tuple[Batch, Any]]],
    score: Score,
    begin: Callable[[], None],
) -> Scores:
    """Return the table of all pairs of `parts`, from the cache as far as it has them; a collective of all processes.

    Args:
        parts: tokenised pairs.
        cache: what process 0 reads and writes.
        batches: cuts pairs into the batches that are scored.
        score: a batch to the log-probabilities of both sides, each `[pairs]`.
        begin: called if there is anything to score.

    Raises:
        TrainerError: Fenced or OutputUnwritable.
    """
    pairs = concatenate_datasets(list(parts)) if len(parts) > 1 else parts[0]
    keys, rows = np.unique(dataset_keys(pairs), return_index=True)
    scores = Scores.unknown(keys)
    if jax.process_index() == 0:
        cache.fill(scores)
    scores = agreed(scores)
    missing = rows[~scores.known]
    log.info("%d of %d pairs have log-probabilities of the reference in %s",
             len(keys) - len(missing), len(keys), cache.root)  # fmt: skip
    if len(missing):
        begin()
        _score(scores, cache, batches(pairs.select(np.sort(missing))), score)
    return scores


def _score(scores: Scores, cache: Cache, batches: Iterable[tuple[Batch, Any]], score: Score) -> None:
    """Enter the values of the batches' pairs and write them piece by piece."""
    waiting: list[tuple[Keys, Values]] = []
    written = time.monotonic()

    def write() -> None:
        if waiting and jax.process_index() == 0:
            cache.save(np.concatenate([keys for keys, _ in waiting]), np.concatenate([v for _, v in waiting]))
        waiting.clear()

    for batch, _ in batches:
        found = batch_keys(batch), np.stack(score(batch), axis=1).astype(np.float32)
        scores.put(*found)
        waiting.append(found)
        if time.monotonic() - written >= PIECE_SECONDS:
            write()
            written = time.monotonic()
    write()


def agreed(scores: Scores) -> Scores:
    """Return process 0's table on all processes, so that all score the same pairs."""
    if jax.process_count() == 1:
        return scores
    from jax.experimental import multihost_utils

    values, known = multihost_utils.broadcast_one_to_all((scores.values, scores.known))
    return Scores(scores.keys, np.array(values), np.array(known))


def dataset_keys(pairs: Dataset) -> Keys:
    """Return the key of every pair: 64 bits of its token ids `[pairs]`."""
    found: list[int] = []
    for start in range(0, len(pairs), ROWS_AT_ONCE):
        rows = pairs[start : start + ROWS_AT_ONCE]
        found += [
            key(*sides)
            for sides in zip(*(rows[f"{side}_ids"] for side in ("prompt", "chosen", "rejected")), strict=True)
        ]
    return np.array(found, np.int64)


def batch_keys(batch: Batch) -> Keys:
    """Return the keys of a padded batch's pairs `[pairs]`."""
    return np.array([key(*sides) for sides in token_ids(batch)], np.int64)


def load(config: TrainerConfig, model_dir: Path) -> Any | None:
    """Return what the policy is before its first step, in as little memory as possible; None if no step needs it."""
    if not config.dpo.live_reference:
        return None
    return weights.load_model(model_dir, config, matrix_dtype=matrix_dtype(config.precision))


def matrix_dtype(precision: PrecisionSpec) -> DType | None:
    """Return the type of the reference's matrices if it is not the policy's.

    It is the narrower of the types of parameters and computation, as no update ever needs more. Norms and biases keep
    the policy's type, because XLA may skip rounding them to the type of the computation.
    """
    return DType.BFLOAT16 if DType.BFLOAT16 in (precision.params, precision.compute) else None


def identity(config: TrainerConfig, model_dir: Path, sums: NDArray[np.uint32]) -> dict[str, Any]:
    """Return what decides the log-probability of given token ids; see docs/adr/0017.

    Args:
        config: number formats, kernel and positions are read.
        model_dir: the base model's folder, for the architecture's settings.
        sums: :func:`arrays.digests` of the loaded weights.
    """
    settings = {k: v for k, v in read_json(model_dir / "config.json").items() if k not in FOREIGN_KEYS}
    return {
        "weights": hashlib.sha256(sums.astype("<u4").tobytes()).hexdigest(),
        "architecture": _sha256(json.dumps(settings, sort_keys=True).encode()),
        "params": config.precision.params.value,
        "compute": config.precision.compute.value,
        "attention": attention_mechanism(config.attention.mechanism).name,
        "positions": config.attention.max_positions,
        "backend": jax.default_backend(),
        "code": _sha256(*(file.read_bytes() for file in _sources())),
        "versions": {name: version(name) for name in ("easydel", "jax")},
    }


def weight_sums(parameters: Any, mesh: Any) -> NDArray[np.uint32]:
    """Return :func:`arrays.digests` of parameters that lie on `mesh`; a collective of all processes."""
    arrays: Arrays = named(parameters)
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return np.asarray(jax.jit(digests, out_shardings=everywhere)(arrays))


def _sources() -> list[Path]:
    """Return the files of this package that decide the numbers."""
    return [Path(logps.__file__), *sorted(Path(weights.__file__).parent.glob("*.py"))]


def _sha256(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
