"""Attention in blocks has the numbers and gradients of plain attention, on one device and on a mesh, in a model too."""

import os
import sys
from collections.abc import Callable
from functools import partial
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
from dpojob_trainer.training.batches import Shape, collate
from dpojob_trainer.training.logps import completion_logps
from dpojob_trainer.weights import attention

pytestmark = pytest.mark.jax
SEQUENCES, HEADS, SIZE, SCALE = 4, 6, 8, 0.3
Arrays = tuple[jax.Array, ...]
Attention = Callable[..., jax.Array]


def problem(positions: int, key_heads: int, *, left: bool) -> Arrays:
    """Queries, keys, values, which keys are no padding, and what is given from above: nothing for queries of padding."""
    generator = np.random.default_rng(positions)
    shapes = [(SEQUENCES, positions, heads, SIZE) for heads in (HEADS, key_heads, key_heads, HEADS)]
    query, key, value, above = (jnp.asarray(generator.normal(size=shape), jnp.float32) for shape in shapes)
    tokens = generator.integers(1, positions + 1, SEQUENCES)
    places = np.arange(positions)
    real = jnp.asarray(places >= positions - tokens[:, None] if left else places < tokens[:, None])
    kept = real[:, :, None] & real[:, None, :]
    return query, key, value, kept, above * real[..., None, None]


def plain(scale: float, query: jax.Array, key: jax.Array, value: jax.Array, kept: jax.Array) -> jax.Array:
    """All scores at once."""
    repeated = [jnp.repeat(array, query.shape[2] // key.shape[2], axis=2) for array in (key, value)]
    scores = jnp.einsum("bthd,bshd->bhts", query, repeated[0], precision="highest") * scale
    seen = kept & jnp.tril(jnp.ones(kept.shape[1:], bool))
    probabilities = jax.nn.softmax(jnp.where(seen[:, None], scores, attention.LOWEST), axis=-1)
    return jnp.einsum("bhts,bshd->bthd", probabilities, repeated[1], precision="highest")


def with_gradients(function: Attention, given: Arrays) -> list[np.ndarray]:
    """Return what queries with tokens take, and the gradients by queries, keys and values."""
    *inputs, kept, above = given

    def both(*inputs: jax.Array) -> Arrays:
        found, back = jax.vjp(lambda *arrays: function(SCALE, *arrays, kept), *inputs)
        return (jnp.where(above != 0, found, 0), *back(above))

    return [np.asarray(array) for array in jax.jit(both)(*inputs)]


@pytest.mark.parametrize(
    ("positions", "key_heads", "left"), [(7, 2, False), (7, 6, True), (80, 2, True), (80, 6, False)]
)
def test_blocks_have_the_numbers_and_gradients_of_plain_attention(
    positions: int, key_heads: int, left: bool
) -> None:
    given = problem(positions, key_heads, left=left)
    for found, wanted in zip(
        with_gradients(attention.causal, given), with_gradients(plain, given), strict=True
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=2e-6)


def test_every_device_attends_with_its_own_sequences_and_heads() -> None:
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(2, 2, 1, 2, 1), ("dp", "fsdp", "ep", "tp", "sp"))
    given = problem(48, 2, left=False)
    spread = with_gradients(partial(attention.on_mesh, mesh), given)
    for found, wanted in zip(spread, with_gradients(plain, given), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=2e-6)


def test_a_mesh_that_divides_positions_is_left_to_easydel() -> None:
    query, key, _, kept, _ = problem(16, 2, left=False)
    mask = kept[:, None]
    names = ("dp", "fsdp", "ep", "tp", "sp")
    told = {"causal": True}
    for axis in names:
        sizes = [2 if name == axis else 1 for name in names]
        mesh = Mesh(np.array(jax.devices()[:2]).reshape(sizes), names)
        assert attention.covered(mesh, query, key, mask, told) == (axis != "sp")


@pytest.mark.parametrize(
    "told", [{"causal": False}, {"sliding_window": 4}, {"logits_soft_cap": 30.0}, {"dropout_prob": 0.1}]
)
def test_other_kinds_of_attention_are_left_to_easydel(told: dict[str, float]) -> None:
    query, key, _, kept, _ = problem(16, 2, left=False)
    mask = kept[:, None]
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1, 1, 1), ("dp", "fsdp", "ep", "tp", "sp"))
    assert attention.covered(mesh, query, key, mask, {"causal": True})
    assert not attention.covered(mesh, query, key, mask, {"causal": True} | told)


def test_a_model_attends_in_blocks_with_easydels_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    easydel_compat.prepare()
    config = tiny_models.configuration({"dp": 2, "fsdp": 2, "ep": 1, "tp": 2, "sp": 1})
    model = weights.load_model(tiny_models.write_model(tmp_path / "model", tiny_models.QWEN3), config)
    rows = {
        "prompt_ids": [[3, 4, 5], [5] * 9],
        "chosen_ids": [[6, 7, 8, 9], [7]],
        "rejected_ids": [[8, 9], [9, 10, 11]],
    }
    batch = {name: jnp.asarray(value) for name, value in collate(rows, Shape(16, 8), 0).items()}
    state, turns, causal = model.to_state(), [], attention.causal

    def counted(*given: Any) -> jax.Array:
        turns.append(given)
        return causal(*given)

    def scored() -> dict[str, jax.Array]:
        with model.mesh:
            found = jax.jit(lambda state, batch: completion_logps(state.model, batch))(state, batch)
        return dict(found)

    monkeypatch.setattr(attention, "causal", counted)
    blocks = scored()
    assert turns
    monkeypatch.setattr(attention, "covered", lambda *_: False)
    whole = scored()
    for side in ("chosen_logps", "rejected_logps"):
        np.testing.assert_allclose(blocks[side], whole[side], rtol=1e-5)
