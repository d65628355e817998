"""The head in blocks has the numbers and gradients of the whole one, on one device and on a mesh, in a part of its memory."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

if "jax" not in sys.modules:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from tests.trainer import tiny_models

from dpojob_trainer import easydel_compat, weights
from dpojob_trainer.training import plan
from dpojob_trainer.training.batches import Shape, collate
from dpojob_trainer.training.logps import Head, completion_logps, token_logps

pytestmark = pytest.mark.jax
SEQUENCES, POSITIONS, HIDDEN, VOCABULARY = 8, 12, 16, 517
Arrays = tuple[jax.Array, ...]


def problem(kind: Any, seed: int = 0) -> Arrays:
    """Hidden states, rows of the head, labels, and what is given from above."""
    generator = np.random.default_rng(seed)
    hidden = generator.normal(size=(SEQUENCES, POSITIONS, HIDDEN))
    rows = generator.normal(size=(VOCABULARY, HIDDEN))
    labels = generator.integers(0, VOCABULARY, (SEQUENCES, POSITIONS))
    given = generator.normal(size=(SEQUENCES, POSITIONS))
    return jnp.asarray(hidden, kind), jnp.asarray(rows, kind), jnp.asarray(labels), jnp.asarray(given)


def plain(hidden: jax.Array, rows: jax.Array, labels: jax.Array) -> jax.Array:
    """JAX's own log-softmax over whole float32 logits."""
    logits = jnp.einsum("btd,vd->btv", hidden, rows, preferred_element_type=jnp.float32)
    return jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], -1)[..., 0]


def with_gradients(function: Callable[..., jax.Array], given: Arrays) -> Arrays:
    """Return log-probabilities and the gradients by hidden states and rows."""
    hidden, rows, labels, above = given

    def both(hidden: jax.Array, rows: jax.Array) -> Arrays:
        found, back = jax.vjp(lambda h, r: function(h, r, labels), hidden, rows)
        return (found, *back(above.astype(found.dtype)))

    return tuple(jax.jit(both)(hidden, rows))


def mesh() -> Mesh:
    """Two devices for each of fsdp, tp and sp."""
    return Mesh(np.array(jax.devices()[:8]).reshape(1, 2, 1, 2, 2), ("dp", "fsdp", "ep", "tp", "sp"))


@pytest.mark.parametrize(
    ("shards", "columns", "positions"),
    [(1, 1, 1), (1, 4, 3), (1, 1, 6), (2, 1, 1), (2, 3, 2)],
    ids=lambda number: str(number),
)
def test_blocks_have_the_gradients_of_the_whole(shards: int, columns: int, positions: int) -> None:
    """517 is prime, so the last block is never full."""
    head = Head(VOCABULARY, shards, columns, positions, mesh() if shards > 1 else None)
    given = problem(jnp.float32)
    expected = with_gradients(plain, given)
    for found, wanted in zip(
        with_gradients(lambda h, r, y: token_logps(h, r, y, head), given), expected, strict=True
    ):
        np.testing.assert_allclose(found, wanted, atol=2e-5, rtol=1e-5)


def test_bfloat16_is_summed_in_float32() -> None:
    given = problem(jnp.bfloat16)
    found = with_gradients(lambda h, r, y: token_logps(h, r, y, Head(VOCABULARY, 1, 4, 3)), given)
    expected = with_gradients(plain, given)
    assert (found[0].dtype, found[1].dtype, found[2].dtype) == (jnp.float32, jnp.bfloat16, jnp.bfloat16)
    np.testing.assert_allclose(found[0], expected[0], atol=1e-4)
    for one, two in zip(found[1:], expected[1:], strict=True):
        np.testing.assert_allclose(one.astype(np.float32), two.astype(np.float32), atol=0.1, rtol=0.02)


def peak(head: Head, vocabulary: int) -> int:
    """Return the bytes that forward and backward pass take beside their arguments and results."""

    def gradients(hidden: jax.Array, rows: jax.Array, labels: jax.Array) -> Any:
        return jax.grad(lambda h, r: token_logps(h, r, labels, head).sum(), (0, 1))(hidden, rows)

    kinds = ((4, 64, 8), jnp.float32), ((vocabulary, 8), jnp.float32), ((4, 64), jnp.int32)
    shapes = [jax.ShapeDtypeStruct(*kind) for kind in kinds]
    analysis = jax.jit(gradients).lower(*shapes).compile().memory_analysis()
    assert analysis is not None
    return int(analysis.temp_size_in_bytes)


def test_logits_are_never_whole() -> None:
    """A block of 64 of them is held a few times over; the rows' blocks and their gradients are the rest."""
    vocabulary = 50_000
    logits, rows = 4 * 64 * vocabulary * 4, vocabulary * 8 * 4
    assert peak(Head(vocabulary), vocabulary) >= logits
    assert peak(Head(vocabulary, 1, 16, 4), vocabulary) <= 6 * logits // 64 + 3 * rows


FAMILIES = {"tied": tiny_models.GEMMA, "untied": tiny_models.QWEN3}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_has_the_log_probabilities_of_its_own_head(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EasyDeL's own whole logits and its own head, on a mesh with every axis; the blocks are forced."""
    easydel_compat.prepare()
    folder = tiny_models.write_model(tmp_path / family, FAMILIES[family], tied=family == "tied")
    model = weights.load_model(folder, tiny_models.configuration(tiny_models.MIXED))
    generator = np.random.default_rng(1)
    lengths = {"prompt_ids": 16, "chosen_ids": 12, "rejected_ids": 16}
    rows = {
        name: [generator.integers(3, 500, generator.integers(2, most)).tolist() for _ in range(4)]
        for name, most in lengths.items()
    }
    batch = {name: jnp.asarray(value) for name, value in collate(rows, Shape(32, 16), 0).items()}
    monkeypatch.setattr(plan, "MAX_LOGIT_BYTES", 2**14)
    monkeypatch.setattr(plan, "MIN_COLUMNS", 64)
    state = model.to_state()
    whole = jax.jit(lambda state, i, m: state.model(input_ids=i, attention_mask=m).logits)
    with model.mesh:
        found = jax.jit(lambda state, batch: completion_logps(state.model, batch))(state, batch)
        for side in ("chosen", "rejected"):
            ids, mask = batch[f"{side}_input_ids"], batch[f"{side}_attention_mask"]
            logits = whole(state, ids, mask)
            each = jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), ids[:, 1:, None], -1)[..., 0]
            begins = np.array([len(prompt) for prompt in rows["prompt_ids"]])
            scored = mask[:, 1:] * (np.arange(1, 32) >= begins[:, None])
            wanted = jnp.sum(each * scored, -1)
            np.testing.assert_allclose(found[f"{side}_logps"], wanted, atol=2e-4, rtol=1e-5)
