"""Kueue's Workloads: the one of a RayJob that waits, and the order of the queues of its namespace.

There is no watch on a kind that may not exist. The order is read once for all jobs of a namespace and kept for a while,
so that a thousand waiting jobs do not read a thousand Workloads each.
"""

import logging
import math
import time
from dataclasses import dataclass, replace
from typing import Any

from dpojob_operator import kube, parse
from dpojob_operator.errors import ForbiddenError, NotFoundError
from dpojob_operator.observed import RayJobView, WorkloadView

log = logging.getLogger(__name__)

ORDER_SECONDS = 15.0
"""For how long the order of a namespace's queues is kept."""
NEW_SECONDS = 3.0
"""The same for a Workload that is not in it yet."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Order:
    """The Workloads that wait in a namespace, by queue, the next one first."""

    names: dict[str, tuple[str, ...]]
    time: float

    def place(self, view: WorkloadView) -> int | None:
        """Return the position of a Workload, the next one's being 1; None if it is not known."""
        names = self.names.get(view.queue, ())
        return names.index(view.name) + 1 if view.name in names else None


class Workloads:
    """Reads Workloads; a Kueue that is not there, or that nobody may ask, has none."""

    def __init__(self, api: kube.Kube) -> None:
        self._api = api
        self._orders: dict[str, Order] = {}

    async def are_served(self, namespace: str) -> bool:
        """Return whether there is a Kueue that may be asked about a namespace."""
        return await self._list(namespace, f"{parse.LABEL_JOB_UID}=none") is not None

    async def of(self, namespace: str, ray_job: RayJobView | None) -> WorkloadView | None:
        """Return the Workload of a RayJob that Kueue holds back, None for any other."""
        if ray_job is None or ray_job.queue is None or not ray_job.suspended:
            return None
        bodies = await self._list(namespace, f"{parse.LABEL_JOB_UID}={ray_job.uid}") or []
        live = [body for body in bodies if not parse.is_deleting(body)]
        if not live:
            return None
        view = parse.workload(live[0])
        if view.reserved or not view.active:
            return view
        return replace(view, position=await self._position(namespace, view))

    async def _position(self, namespace: str, view: WorkloadView) -> int | None:
        now, known = time.monotonic(), self._orders.get(namespace, Order({}, -math.inf))
        place = known.place(view)
        if now - known.time < (NEW_SECONDS if place is None else ORDER_SECONDS):
            return place
        # Others of the namespace take the old order meanwhile.
        self._orders[namespace] = Order(known.names, now)
        bodies = await self._list(namespace, "") or []
        order = self._orders[namespace] = Order(parse.queue_order(bodies), now)
        return order.place(view)

    async def _list(self, namespace: str, selector: str) -> list[Json] | None:
        for resource in kube.WORKLOADS:
            try:
                return await self._api.list(resource, namespace, selector)
            except NotFoundError:
                continue
            except ForbiddenError:
                log.warning("may not list Kueue's Workloads; what they say is not shown")
                return None
        return None
