"""Who takes how much of a device's memory, and whether all of it fits. Pure; bytes of one device throughout."""

from dataclasses import dataclass

from dpojob_trainer.plan.measured import Measured

# The error of extrapolated totals that is allowed for (ADR 18); what is closer to the limit is called tight.
ERROR = 0.03


@dataclass(frozen=True)
class Sizes:
    """Exact bytes of a device's parts of the arrays that live as long as the run.

    Attributes:
        parameters: of the policy.
        optimizer: its state.
        reference: its parameters.
        logits: of the positions that the head takes at once, in float32: made and dropped within a step.
        elements: the policy's parameters, a number and not bytes.
        multiplied: those that matrix products use: all but an embedding that is not the head too.
        largest: of the policy's largest parameter.
    """

    parameters: float
    optimizer: float
    reference: float
    logits: float
    elements: float
    multiplied: float
    largest: float

    @property
    def resident(self) -> float:
        """What is there during the whole run."""
        return self.parameters + self.optimizer + self.reference


@dataclass(frozen=True)
class Stage:
    """The largest moment of a stage of the run.

    Attributes:
        name: of the stage.
        device: bytes on one device.
        host: bytes of RAM on the host that needs most, beside what the process takes anyway; None where it needs no more.
        compiled: whether the compiler says so; otherwise it follows from the sizes of the arrays and the trainer's code.
    """

    name: str
    device: float
    host: float | None
    compiled: bool


def breakdown(measured: Measured, sizes: Sizes) -> dict[str, float]:
    """Return the bytes of the step's largest moment by kind; they add up to the total.

    Gradients have the size and type of the parameters. Of the heap, the compiler tells only the sum: gradients and logits
    are taken off it, and what remains are activations, gathered parameters and collectives' buffers.
    """
    gradients = min(sizes.parameters, measured.temporaries)
    logits = min(sizes.logits, measured.temporaries - gradients)
    return {
        "parameters": sizes.parameters,
        "optimizer": sizes.optimizer,
        "reference": sizes.reference,
        "batch": max(0.0, measured.arguments - sizes.resident),
        "gradients": gradients,
        "logits": logits,
        "activations and buffers": measured.temporaries - gradients - logits,
        "outputs": max(0.0, measured.outputs - measured.aliased),
        "program": measured.code,
    }


@dataclass(frozen=True)
class Verdict:
    """Whether a job fits.

    Attributes:
        needed: bytes on one device in the largest stage.
        usable: bytes that one device has.
        at_least: the compiler gave up, so more may be needed.
        stage: the one that needs most.
        ends_in: the first one that does not fit, where the run would end; None if all do.
    """

    needed: float
    usable: float
    at_least: bool
    stage: str
    ends_in: str | None = None

    @property
    def fits(self) -> bool:
        """Whether every stage does."""
        return not self.at_least and self.needed <= self.usable

    @property
    def tight(self) -> bool:
        """Whether what is left, or lacks, is less than the error allowed for."""
        return abs(self.usable - self.needed) <= ERROR * self.needed


def judge(stages: list[Stage], usable: float, *, at_least: bool) -> Verdict:
    """Return the verdict on the stages of a run; the one that needs most decides."""
    largest = max(stages, key=lambda stage: stage.device)
    first = next((stage.name for stage in stages if stage.device > usable), None)
    return Verdict(largest.device, usable, at_least, largest.name, first)
