"""MFU by hand-counted weights."""

from types import SimpleNamespace

import pytest
from tests.unit import operator_builders as b

from dpojob_api.trainer_config import trainer_config
from dpojob_trainer.training.utilisation import flops_per_token, meter, multiplied

SEPARATE = {
    "model/embed_tokens/embedding": (100, 8),
    "model/layers/0/kernel": (8, 8),
    "lm_head/kernel": (8, 100),
}


def test_embedding_is_a_look_up_unless_it_is_the_head() -> None:
    tied = {path: shape for path, shape in SEPARATE.items() if path != "lm_head/kernel"}
    assert multiplied(SEPARATE) == multiplied(tied) == 8 * 8 + 8 * 100


@pytest.mark.parametrize(("reference", "flops"), [(True, 8), (False, 6)])
def test_reference_costs_a_forward_pass(reference: bool, flops: int) -> None:
    assert flops_per_token(10, reference=reference) == 10 * flops


def policy() -> SimpleNamespace:
    """A module with one matrix of 1e9 weights and no more: only shapes are asked for."""
    matrix = SimpleNamespace(shape=(100_000, 10_000))
    return SimpleNamespace(graphtree_params_shape={"lm_head": {"kernel": matrix}})


def test_half_of_the_peak_of_a_v4_64() -> None:
    config = trainer_config(
        b.make_job({"accelerator": {"type": "v4-64"}, "dpo": {"referenceLogProbs": "live"}}), 1
    )
    # 32 chips x 275e12 FLOP/s x 2 s x 0.5 are 1.1e6 tokens at 8 FLOPs for each of 1e9 weights.
    assert meter(policy(), config)({"tokens": 1.1e6, "seconds": 2.0})["mfu"] == pytest.approx(0.5)


def test_a_cpu_has_none() -> None:
    config = trainer_config(b.make_job({"runtime": {"platform": "cpu"}}), 1)
    assert meter(policy(), config)({"tokens": 1.0, "seconds": 1.0}) == {}
