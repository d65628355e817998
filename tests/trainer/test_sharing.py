"""Layers that are alike are traced once and compute what each would compute alone."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

if "jax" not in sys.modules:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.trainer import tiny_models

from dpojob_trainer import easydel_compat, weights
from dpojob_trainer.weights import sharing

pytestmark = pytest.mark.jax

IDS = jnp.asarray(np.random.default_rng(0).integers(3, 500, (8, 32)))


def gradients(folder: Path, made: list[Any], **spec: Any) -> Any:
    """Return a model's loss and gradients; `made` gets every layer that is traced."""
    from flax import nnx

    config = tiny_models.configuration(
        tiny_models.FSDP, **({"gradientCheckpointing": "nothing_saveable"} | spec)
    )
    module = weights.load_model(folder, config)
    definition, parameters, rest = nnx.split(module, nnx.Param, ...)
    mlp = type(module.get_decoder().layers[0].mlp)
    call = mlp.__call__

    def loss(parameters: Any) -> jax.Array:
        out = nnx.merge(definition, parameters, rest)(input_ids=IDS, attention_mask=jnp.ones_like(IDS))
        return jnp.square(out.logits).mean()

    def noted(self: Any, *args: Any) -> Any:
        made.append(self)
        return call(self, *args)

    with patch.object(mlp, "__call__", noted), module.mesh:
        return jax.jit(jax.value_and_grad(loss))(parameters)


@pytest.mark.parametrize("policy", ["nothing_saveable", "none"])
@pytest.mark.parametrize(
    ("family", "kinds"), [(tiny_models.QWEN3, 1), (tiny_models.GEMMA, 1), (tiny_models.SMOLLM3, 2)]
)
def test_layers_are_traced_once_for_each_kind(
    tmp_path: Path, family: dict[str, Any], kinds: int, policy: str
) -> None:
    """SmolLM3's second layer has no rotary embedding, so it must not be taken for the first."""
    easydel_compat.prepare()
    tiny_models.write_model(tmp_path / "model", family)
    shared: list[Any] = []
    loss, found = gradients(tmp_path / "model", shared, gradientCheckpointing=policy)
    alone: list[Any] = []
    with patch.object(sharing, "alike", lambda first, second: False):
        expected_loss, expected = gradients(tmp_path / "model", alone, gradientCheckpointing=policy)
    assert (len(shared), len(alone)) == (kinds, 2)
    assert loss == expected_loss
    jax.tree_util.tree_map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("short", [{"none": 32}, {"checkpointDots": 32}])
def test_what_short_batches_keep_does_not_change_their_gradients(
    tmp_path: Path, short: dict[str, int]
) -> None:
    easydel_compat.prepare()
    tiny_models.write_model(tmp_path / "model", tiny_models.QWEN3)
    expected_loss, expected = gradients(tmp_path / "model", [])
    loss, found = gradients(tmp_path / "model", [], shortGradientCheckpointing=short)
    assert float(loss) == pytest.approx(float(expected_loss), rel=1e-6)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    jax.tree_util.tree_map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6 * largest),
        found,
        expected,
    )


def scaled(by: float) -> Callable[[float], float]:
    return lambda number: number * by


class Thing:
    """Equal only to itself, as objects are by default."""

    def __init__(self, number: int, inner: Any = None) -> None:
        self.number, self.inner = number, inner


def test_what_is_made_alike_is_the_same() -> None:
    assert sharing.same(scaled(2.0), scaled(2.0)) and not sharing.same(scaled(2.0), scaled(3.0))
    assert not sharing.same(scaled(2.0), lambda number: number * 2.0)
    assert sharing.same(Thing(1, Thing(2)), Thing(1, Thing(2)))
    assert not sharing.same(Thing(1, Thing(2)), Thing(1, Thing(3)))
    assert not sharing.same(object(), object())
    assert not sharing.same(1, True)
