"""Lookups have the numbers and gradients of plain indexing, alone and in whole models on a mesh, and never gather the embedding."""

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
from jax.sharding import NamedSharding, PartitionSpec
from tests.trainer import tiny_models

from dpojob_trainer import easydel_compat, weights
from dpojob_trainer.training.batches import Shape, collate
from dpojob_trainer.training.lookups import embedded, positions_at, rows_at

pytestmark = pytest.mark.jax
FAMILIES = {"tied": tiny_models.GEMMA, "untied": tiny_models.QWEN3}


def gradient(function: Callable[[jax.Array], jax.Array], at: jax.Array, given: jax.Array) -> jax.Array:
    found: jax.Array = jax.jit(lambda one: jax.vjp(function, one)[1](given)[0])(at)
    return found


def test_rows_have_the_gradients_of_plain_indexing() -> None:
    generator = np.random.default_rng(0)
    rows = jnp.asarray(generator.normal(size=(11, 4)), jnp.float32)
    ids = jnp.asarray(generator.integers(0, 11, (3, 50)))
    given = jnp.asarray(generator.normal(size=(3, 50, 4)), jnp.float32)
    np.testing.assert_array_equal(rows_at(rows, ids), rows[ids])
    np.testing.assert_allclose(
        gradient(lambda one: rows_at(one, ids), rows, given),
        gradient(lambda one: one[ids], rows, given),
        atol=1e-5,
    )


def test_a_frequent_token_has_its_whole_gradient_in_bfloat16() -> None:
    """Sums in bfloat16 stay at 256, where 1 more is below its precision."""
    ids, given = jnp.zeros((1, 1000), jnp.int32), jnp.ones((1, 1000, 2), jnp.bfloat16)
    rows = jnp.zeros((3, 2), jnp.bfloat16)
    found = gradient(lambda one: rows_at(one, ids), rows, given)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found.astype(np.float32), [[1000, 1000], [0, 0], [0, 0]])


def rows_of(pairs: int, **longest: int) -> dict[str, list[list[int]]]:
    generator = np.random.default_rng(1)
    return {
        f"{name}_ids": [
            generator.integers(3, 500, generator.integers(2, most)).tolist() for _ in range(pairs)
        ]
        for name, most in longest.items()
    }


def test_positions_have_the_gradients_of_plain_indexing_without_a_sum() -> None:
    """Behind a long prompt the padding of a completion lies on the sequence's last position; it is given nothing."""
    batch = collate(rows_of(16, prompt=19, chosen=11, rejected=11), Shape(30, 16), 0)
    places, mask = (jnp.asarray(batch[f"chosen_{name}"]) for name in ("places", "label_mask"))
    assert (np.diff(places, axis=1) == 0).any(), "no padding reaches beyond the sequence"
    generator = np.random.default_rng(2)
    hidden = jnp.asarray(generator.normal(size=(16, 30, 4)), jnp.float32)
    given = jnp.asarray(generator.normal(size=(16, 16, 4)), jnp.float32) * mask[..., None]

    def plain(one: jax.Array) -> jax.Array:
        return jnp.take_along_axis(one, places[..., None], axis=1)

    def ours(one: jax.Array) -> jax.Array:
        return positions_at(one, places)

    np.testing.assert_array_equal(ours(hidden), plain(hidden))
    np.testing.assert_array_equal(gradient(ours, hidden, given), gradient(plain, hidden, given))
    text = jax.jit(lambda one: jax.vjp(ours, one)[1](given)).lower(hidden).as_text()
    assert "scatter" not in text


def loaded(folder: Path, family: str, mesh: dict[str, int]) -> Any:
    easydel_compat.prepare()
    written = tiny_models.write_model(folder / family, FAMILIES[family], tied=family == "tied")
    return weights.load_model(written, tiny_models.configuration(mesh))


@pytest.mark.parametrize("mesh", [tiny_models.FSDP, tiny_models.MIXED], ids=["divided", "mixed"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_has_the_gradients_of_its_own_lookup(
    family: str, mesh: dict[str, int], tmp_path: Path
) -> None:
    model = loaded(tmp_path, family, mesh)
    state = model.to_state()
    ids = jnp.asarray(np.random.default_rng(3).integers(3, 500, (8, 32)))
    mask = jnp.ones_like(ids)

    def mean(tree: Any, *, ours: bool) -> jax.Array:
        module = state.merge(tree=tree)
        given = {"inputs_embeds": embedded(module, ids)} if ours else {"input_ids": ids}
        states = module(**given, attention_mask=mask, apply_lm_head=False).last_hidden_state
        return jnp.square(states[..., 0]).mean()

    with model.mesh:
        found, wanted = (
            jax.jit(jax.value_and_grad(lambda tree, ours=ours: mean(tree, ours=ours)))(state.graphstate)
            for ours in (True, False)
        )
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5)
    pairs = zip(jax.tree.leaves(found[1]), jax.tree.leaves(wanted[1]), strict=True)
    for one, two in pairs:
        np.testing.assert_allclose(one, two, atol=1e-6, rtol=1e-4)


def test_no_device_has_the_whole_embedding(tmp_path: Path) -> None:
    """Not in the forward pass, and not for the gradient."""
    model = loaded(tmp_path, "untied", tiny_models.FSDP)
    state = model.to_state()
    shape = state.model.get_embedding().embedding.value.shape
    whole = f"[{shape[0]},{shape[1]}]"
    places = jax.tree.map(lambda leaf: leaf.sharding, state.graphstate)
    tokens = (8, 512)
    ids = jax.ShapeDtypeStruct(tokens, jnp.int32, sharding=NamedSharding(model.mesh, PartitionSpec("fsdp")))

    def compiled(lookup: Callable[[Any, jax.Array], jax.Array]) -> str:
        def mean(tree: Any, ids: jax.Array) -> jax.Array:
            return jnp.square(lookup(state.merge(tree=tree), ids)).mean()

        with model.mesh:
            lowered = jax.jit(jax.grad(mean), out_shardings=places).lower(state.graphstate, ids)
        return str(lowered.compile().as_text())

    assert whole in compiled(lambda module, ids: module.get_embedding()(ids))
    assert whole not in compiled(embedded)
