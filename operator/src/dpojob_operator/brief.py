"""Lists that many jobs of a namespace ask for at once, read once for all of them and kept for seconds."""

import asyncio
from collections.abc import Callable

from dpojob_operator.kube import Json, Reader, Resource


class Brief:
    """The objects of one kind by namespace."""

    def __init__(self, api: Reader, resource: Resource, seconds: float, clock: Callable[[], float]) -> None:
        self._api = api
        self._resource = resource
        self._seconds = seconds
        self._clock = clock
        self._known: dict[str, tuple[float, asyncio.Future[list[Json]]]] = {}

    async def of(self, namespace: str) -> list[Json]:
        """Return the objects of a namespace.

        Raises:
            KubeError: they cannot be read.
        """
        until, answer = self._known.get(namespace, (float("-inf"), None))
        if answer is None or self._clock() >= until or failed(answer):
            answer = asyncio.ensure_future(self._api.list(self._resource, namespace))
            self._known[namespace] = self._clock() + self._seconds, answer
        return await asyncio.shield(answer)


def failed(answer: asyncio.Future[list[Json]]) -> bool:
    """Return whether a list has come to nothing."""
    return answer.done() and (answer.cancelled() or answer.exception() is not None)
