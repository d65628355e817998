"""Model FLOPs utilisation (MFU): how much of the slice's peak the numbers of a step account for.

Counted is what the algorithm needs, as in PaLM (arXiv 2204.02311, appendix B) without its term for attention: nothing
is credited for padding or for activations computed again.
"""

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

from dpojob_api.accelerator import ChipSpec, chips
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
    per_token = flops_per_token(multiplied(shapes(policy)), reference=config.dpo.live_reference)
    chip = chips()[config.generation]
    devices = config.plan.chips * chip.devices_per_chip

    def read(numbers: Numbers) -> Numbers:
        return {"mfu": share_of_peak(per_token * numbers["tokens"], numbers["seconds"], chip, devices)}

    return read


def share_of_peak(flops: float, seconds: float, chip: ChipSpec, devices: int) -> float:
    """Return the share of the devices' peak that useful arithmetic takes."""
    return flops / (seconds * devices * chip.peak_flops)


def flops_per_token(weights: float, *, reference: bool) -> float:
    """Return the FLOPs of a token: the policy forward and backward, and the reference forward if there is one."""
    return weights * (FORWARD + BACKWARD + (FORWARD if reference else 0))


def multiplied(parameters: Mapping[str, tuple[int, ...]]) -> int:
    """Return how many weights a token is multiplied with: all but the embedding, which counts if it is the head too.

    Args:
        parameters: the shape of each by its path, written in any way.
    """
    separate = any(HEAD in path for path in parameters)
    return sum(prod(shape) for path, shape in parameters.items() if not separate or EMBEDDING not in path)


def shapes(module: Any) -> dict[str, tuple[int, ...]]:
    """Return the shape of each parameter of an EasyDeL module by its path; a head that is the embedding has none."""
    from flax.traverse_util import flatten_dict

    leaves = flatten_dict(module.graphtree_params_shape).items()
    return {"/".join(map(str, path)): leaf.shape for path, leaf in leaves if leaf is not None}
