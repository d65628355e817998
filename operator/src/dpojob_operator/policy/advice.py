"""What a specification may say and seldom should: pure."""

from dpojob_api.reasons import OperatorReason
from dpojob_api.spec import DPOJobSpec, DType


def discouraged(spec: DPOJobSpec) -> tuple[OperatorReason, str] | None:
    """Return the reason and what to expect, None if there is nothing to warn of.

    Of SmolLM2-135M's weights 13 % changed in 20 steps at 1e-5 in bfloat16, all of them in float32.
    """
    params, rate = spec.precision.params, spec.training.learning_rate
    if params is DType.FLOAT32:
        return None
    message = (
        f"precision.params is {params.value}: at training.learningRate {rate:g} most updates are smaller than half a unit in "
        "the last place of the weights and are lost. Leave it float32 if the memory suffices; precision.compute may be bfloat16."
    )
    return OperatorReason.LOW_PRECISION_PARAMETERS, message
