"""The one exception that ends a run on purpose, with a documented reason and a message that names the fix; words on all others."""

from dpojob_api.reasons import TrainerReason
from dpojob_api.result import TrainerResult


def in_one_line(error: BaseException, most: int | None = None) -> str:
    """Return an exception's type and its message without line breaks, of which at most so many characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:most]}"


class TrainerError(Exception):
    """Ends the run with a reason that the operator copies into the Failed condition.

    It crosses process boundaries (Ray pickles it), hence the plain constructor arguments.
    """

    def __init__(self, reason: TrainerReason, message: str, step: int | None = None) -> None:
        super().__init__(reason, message, step)
        self.reason = reason
        self.message = message
        self.step = step

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.message}"

    def result(self) -> TrainerResult:
        """Return what the driver prints as its last line."""
        return TrainerResult(reason=self.reason, message=self.message, step=self.step)
