"""What the compiler says about one program on one device."""

import re
from dataclasses import dataclass

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
AMOUNT = r"([\d.]+)([KMGT]?)B?"
# Both forms of libtpu's complaint: needed, then available.
COMPLAINTS = (
    re.compile(rf"Used {AMOUNT} of {AMOUNT} hbm"),
    re.compile(rf"\({AMOUNT}\) exceeds available HBM \({AMOUNT}\)"),
)


@dataclass(frozen=True)
class Measured:
    """Bytes of one device, and the work of one run.

    Attributes:
        arguments: state, reference and batch.
        outputs: what is returned, aliases of arguments included.
        aliased: outputs that take the place of arguments.
        temporaries: the compiler's heap: activations, gradients, gathered parameters, logits.
        code: the program itself.
        cycles: estimated for all instructions but custom kernels and collectives.
        blocking: bytes of collectives that the device waits for.
        hidden: bytes of collectives that run beside other instructions.
        products: floating-point operations of matrix products on all devices.
        kernels: those of custom kernels on all devices.
    """

    arguments: float
    outputs: float
    aliased: float
    temporaries: float
    code: float
    cycles: float = 0.0
    blocking: float = 0.0
    hidden: float = 0.0
    products: float = 0.0
    kernels: float = 0.0

    @property
    def total(self) -> float:
        """Bytes that must be free on the device for the program to run."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code

    @property
    def flops(self) -> float:
        """Floating-point operations on all devices."""
        return self.products + self.kernels


@dataclass(frozen=True)
class TooLarge:
    """The compiler refused a program: bytes that one device would need, None if it does not say."""

    needed: float | None
    words: str


def refusal(message: str) -> TooLarge | None:
    """Return what the compiler says it lacks; None if memory is not what it complains about."""
    if "RESOURCE_EXHAUSTED" not in message:
        return None
    words = " ".join(message.split())
    for pattern in COMPLAINTS:
        if found := pattern.search(words):
            return TooLarge(float(found.group(1)) * UNITS[found.group(2)], words)
    return TooLarge(None, words)
