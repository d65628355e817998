"""Whether the step that is trained is the one that was planned (``status.plan.fingerprint``)."""

import hashlib
import logging
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)


def fingerprint(lowered: Any) -> str:
    """Return a digest of a lowered program: equal programs for equal devices have equal ones."""
    return hashlib.sha256(lowered.as_text().encode()).hexdigest()


class Comparison:
    """Looks for the planned step among the lowered ones: it is that of the longest batches.

    Args:
        wanted: the planned step's fingerprint, None without one.
        tell: is called once with whether it is there.
    """

    def __init__(self, wanted: str | None, tell: Callable[[bool], None]) -> None:
        self._wanted, self._tell, self._found = wanted, tell, False

    def see(self, lowered: Any) -> None:
        """Look at one of the lowered steps."""
        if self._wanted is not None and not self._found:
            self._found = fingerprint(lowered) == self._wanted

    def conclude(self) -> None:
        """Say whether the planned step was among those seen."""
        if self._wanted is None:
            return
        if not self._found:
            log.warning(
                "the step is not the one that was planned (%s); memory and time may differ", self._wanted
            )
        self._tell(self._found)
