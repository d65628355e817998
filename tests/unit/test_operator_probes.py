"""Health and readiness over HTTP; the API server is empty."""

import socket

import pytest
from aiohttp.test_utils import TestClient, TestServer

from dpojob_operator import kube, probes
from dpojob_operator.kube import Versions
from dpojob_operator.queue import WorkQueue
from dpojob_operator.store import Store
from dpojob_operator.sync import Sync


class Nothing:
    """An API server without objects."""

    async def list_versions(self, resource, namespace, selector):
        return Versions(1, {})


def new_sync():
    return Sync(Nothing(), Store())


async def work(key):
    return None


async def asked(app, path):
    async with TestClient(TestServer(app)) as http:
        answer = await http.get(path)
        return answer.status, await answer.text()


async def test_ready_once_the_watches_have_shown_every_job():
    sync = new_sync()
    app = probes.build_app(WorkQueue(work), sync)
    status, text = await asked(app, "/readyz")
    assert (status, "DPOJob" in text) == (503, True)
    sync.note_listed(kube.DPOJOBS, None, Versions(1, {}))
    assert await asked(probes.build_app(WorkQueue(work), sync), "/readyz") == (200, "ok\n")


async def test_healthy_while_jobs_that_wait_are_worked_on():
    queue = WorkQueue(work)
    time = queue.progressed_at + probes.STUCK_SECONDS + 1
    app = probes.build_app(queue, new_sync(), lambda: time)
    assert await asked(app, "/healthz") == (200, "ok\n")
    queue.add(("ns", "a"))
    status, text = await asked(probes.build_app(queue, new_sync(), lambda: time), "/healthz")
    assert (status, text) == (503, "1 jobs wait and none was finished for 600 s\n")


async def test_port_in_use_is_told_with_the_fix():
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        with pytest.raises(probes.PortError, match="DPOJOB_PROBE_PORT"):
            async with probes.served(probes.build_app(WorkQueue(work), new_sync()), taken.getsockname()[1]):
                pytest.fail("it was served")


async def test_port_0_serves_nothing():
    async with probes.served(probes.build_app(WorkQueue(work), new_sync()), 0):
        pass
