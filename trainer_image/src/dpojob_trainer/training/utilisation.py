"""Model FLOPs utilisation (MFU): how much of the slice's peak the numbers of a step account for.

Counted is what the algorithm needs, as in PaLM (arXiv 2204.02311, appendix B) without its term for attention: nothing
is credited for padding or for activations computed again.
"""

from collections.abc import Callable, Iterable, Mapping
from math import prod
from typing import Any

from dpojob_api.accelerator import chips
from dpojob_api.slice_spec import Platform
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer.progress import Numbers

# FLOPs per weight and token: a multiplication and an addition forward, twice as many backward.
FORWARD, BACKWARD = 2, 4
EMBEDDING, HEAD = "embed_tokens", "lm_head"


def meter(policy: Any, config: TrainerConfig) -> Callable[[Numbers], Numbers]:
    """Return what adds `mfu` to the numbers of a step: nothing on a CPU, whose peak nobody publishes.

    Args:
        policy: the module, its parameters arrays or only shapes.
        config: of the run.
    """
    if config.platform is Platform.CPU:
        return lambda numbers: {}
    per_token = flops_per_token(multiplied(shapes(policy)), reference=not config.dpo.reference_free)
    peak = chips()[config.generation].peak_flops_of_chip * config.plan.chips

    def read(numbers: Numbers) -> Numbers:
        return {"mfu": per_token * numbers["tokens"] / numbers["seconds"] / peak}

    return read


def flops_per_token(weights: int, *, reference: bool) -> int:
    """Return the FLOPs of a token: the policy forward and backward, and the reference forward if there is one."""
    return weights * (FORWARD + BACKWARD + (FORWARD if reference else 0))


def multiplied(parameters: Mapping[Iterable[str], tuple[int, ...]]) -> int:
    """Return how many weights a token is multiplied with: all but the embedding, which counts if it is the head too."""
    separate = any(HEAD in path for path in parameters)
    return sum(prod(shape) for path, shape in parameters.items() if not separate or EMBEDDING not in path)


def shapes(module: Any) -> dict[Iterable[str], tuple[int, ...]]:
    """Return the shape of each parameter of an EasyDeL module by its path; a head that is the embedding has none."""
    from flax.traverse_util import flatten_dict

    leaves = flatten_dict(module.graphtree_params_shape).items()
    return {tuple(map(str, path)): leaf.shape for path, leaf in leaves if leaf is not None}
