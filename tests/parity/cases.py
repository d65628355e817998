"""What is compared with TRL: loss, options and architecture of each run, and how far two runs are apart."""

from dataclasses import dataclass, field
from typing import Any

from tests.trainer import tiny_models

FAMILIES = {"llama": tiny_models.LLAMA, "qwen3": tiny_models.QWEN3}
METRICS = ("loss", "rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected", "grad_norm")
TOLERANCE = 1e-4
PAIRS = 64


@dataclass(frozen=True)
class Setting:
    """Pairs per step, the tokens kept, the learning rate."""

    batch: int
    prompt: int
    completion: int
    learning_rate: float


# Shorter than some prompts and completions of the data, so both are cut.
TINY = Setting(batch=8, prompt=20, completion=12, learning_rate=2e-4)
REAL = Setting(batch=2, prompt=56, completion=32, learning_rate=1e-5)


@dataclass(frozen=True)
class Case:
    """One run of both trainers.

    Attributes:
        name: unique, fit for the name of a job.
        family: key of `FAMILIES`, or `smollm2` for real weights and real pairs.
        dpo, training: what differs from the base, in the words of the spec.
        trl: what differs in TRL's DPOConfig.
        zero_reference: TRL gets reference log-probabilities of 0, as it has no reference-free option.
        chunked_head: our head runs over parts of the sequence, as it does where the logits are large.
    """

    name: str
    family: str
    dpo: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    trl: dict[str, Any] = field(default_factory=dict)
    zero_reference: bool = False
    chunked_head: bool = False
    setting: Setting = TINY


def loss_case(family: str, loss: str, smoothing: float = 0.0) -> Case:
    """Return the case of a loss."""
    name = f"{family}-{loss}" + (f"-smoothed-{smoothing}" if smoothing else "")
    name = name.replace("_", "-").replace(".", "-")
    trl = {"loss_type": [TRL_NAMES.get(loss, loss)], "label_smoothing": smoothing}
    if loss == "sigmoid" and smoothing:
        trl |= smoothed_sigmoid(smoothing)
    return Case(name, family, {"lossType": loss, "labelSmoothing": smoothing}, trl=trl)


def smoothed_sigmoid(smoothing: float) -> dict[str, Any]:
    """Return conservative DPO, which TRL 1 lost, as a weighted sum of two of its losses.

    With l for the loss of a label and m for that of its opposite, s = l and r = ((1-e) l - e m) / (1-2e) give
    (1-e) l + e m = 2 (1-e) s - (1-2e) r.
    """
    weights = [2 * (1 - smoothing), -(1 - 2 * smoothing)]
    return {"loss_type": ["sigmoid", "robust"], "loss_weights": weights}


TRL_NAMES = {"aot_pair": "aot_unpaired"}
UNSMOOTHED = ("sigmoid", "hinge", "ipo", "nca_pair", "bco_pair", "sppo_hard")
UNSMOOTHED += ("aot", "aot_pair", "apo_zero", "apo_down")
LOSSES = [
    loss_case(family, loss, smoothing)
    for family in FAMILIES
    for loss, smoothing in [*((name, 0.0) for name in UNSMOOTHED), ("exo_pair", 0.001), ("robust", 0.1)]
]
OPTIONS = [
    *(loss_case("llama", loss, 0.1) for loss in ("sigmoid", "aot", "aot_pair", "exo_pair")),
    Case("llama-reference-free", "llama", {"referenceFree": True}, zero_reference=True),
    Case(
        "llama-accumulation",
        "llama",
        training={"gradientAccumulationSteps": 2},
        trl={"per_device_train_batch_size": TINY.batch // 2, "gradient_accumulation_steps": 2},
    ),
    Case(
        "llama-linear-decay-clip",
        "llama",
        training={"scheduler": "linear", "weightDecay": 0.1, "clipGradNorm": 0.05},
        trl={"lr_scheduler_type": "linear", "weight_decay": 0.1, "max_grad_norm": 0.05},
    ),
    Case("qwen3-chunked-head", "qwen3", chunked_head=True),
]
CASES = [*LOSSES, *OPTIONS]
REAL_CASES = [Case("smollm2-sigmoid", "smollm2", setting=REAL)]
# One case of each kind, for a test of a minute.
QUICK = [case for case in CASES if case.name in ("llama-ipo", "qwen3-sigmoid", "llama-linear-decay-clip")]

Curve = list[dict[str, float]]


def deviations(ours: Curve, theirs: Curve) -> dict[str, float]:
    """Return the largest deviation of each metric over the steps: absolute, relative where TRL's exceeds 1.

    Raises:
        ValueError: the curves differ in length or are empty.
    """
    if len(ours) != len(theirs) or not ours:
        raise ValueError(f"{len(ours)} steps of ours and {len(theirs)} of TRL's cannot be compared")
    pairs = list(zip(ours, theirs, strict=True))
    return {name: max(abs(a[name] - b[name]) / max(1.0, abs(b[name])) for a, b in pairs) for name in METRICS}
