"""Health and readiness over HTTP; the API server is a list of jobs."""

import asyncio
import socket

import pytest
from aiohttp.test_utils import TestClient, TestServer

from dpojob_operator import kube, probes
from dpojob_operator.errors import TransientError
from dpojob_operator.queue import WorkQueue


class Jobs:
    """An API server that serves DPOJobs by namespace, or does not answer."""

    def __init__(self, *keys):
        self.keys = set(keys)
        self.asked = []
        self.answers = True

    async def list(self, resource, namespace, selector=""):
        assert resource is kube.DPOJOBS
        self.asked.append(namespace)
        if not self.answers:
            raise TransientError("no answer")
        found = [key for key in self.keys if namespace in (None, key[0])]
        return [{"metadata": {"namespace": ns, "name": name}} for ns, name in found]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(probes, "SYNC_SECONDS", 0.001)


async def work(key):
    return None


async def until(reached):
    loop = asyncio.get_running_loop()
    deadline = loop.time() + 10
    while not reached():
        assert loop.time() < deadline, "it did not get there in time"
        await asyncio.sleep(0.001)


async def asked(app, path):
    async with TestClient(TestServer(app)) as http:
        answer = await http.get(path)
        return answer.status, await answer.text()


async def test_ready_once_the_watch_has_shown_every_job():
    jobs = Jobs(("ns", "a"), ("ns", "b"))
    sync = probes.Sync(jobs)
    app = probes.build_app(WorkQueue(work), sync)
    task = asyncio.create_task(sync.run())
    sync.show(("ns", "a"))
    await until(lambda: len(jobs.asked) > 3)
    status, text = await asked(app, "/readyz")
    assert (status, "DPOJob" in text) == (503, True)
    sync.show(("ns", "b"))
    await until(lambda: sync.done)
    await task
    jobs.keys.add(("ns", "c"))
    assert await asked(probes.build_app(WorkQueue(work), sync), "/readyz") == (200, "ok\n")


async def test_job_that_is_deleted_meanwhile_is_not_waited_for():
    jobs = Jobs(("ns", "a"))
    sync = probes.Sync(jobs)
    task = asyncio.create_task(sync.run())
    await until(lambda: len(jobs.asked) > 2)
    assert not sync.done
    jobs.keys.clear()
    await until(lambda: sync.done)
    await task


async def test_not_ready_while_the_api_server_does_not_answer():
    jobs = Jobs()
    jobs.answers = False
    sync = probes.Sync(jobs, ("one", "two"))
    task = asyncio.create_task(sync.run())
    await until(lambda: len(jobs.asked) > 2)
    assert not sync.done
    jobs.answers = True
    await until(lambda: sync.done)
    await task
    assert set(jobs.asked) == {"one", "two"}


async def test_healthy_while_jobs_that_wait_are_worked_on():
    queue = WorkQueue(work)
    time = queue.progressed_at + probes.STUCK_SECONDS + 1
    app = probes.build_app(queue, probes.Sync(Jobs()), lambda: time)
    assert await asked(app, "/healthz") == (200, "ok\n")
    queue.add(("ns", "a"))
    status, text = await asked(probes.build_app(queue, probes.Sync(Jobs()), lambda: time), "/healthz")
    assert (status, text) == (503, "1 jobs wait and none was finished for 600 s\n")


async def test_port_in_use_is_told_with_the_fix():
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        with pytest.raises(probes.PortError, match="DPOJOB_PROBE_PORT"):
            async with probes.served(
                probes.build_app(WorkQueue(work), probes.Sync(Jobs())), taken.getsockname()[1]
            ):
                pytest.fail("it was served")


async def test_port_0_serves_nothing():
    async with probes.served(probes.build_app(WorkQueue(work), probes.Sync(Jobs())), 0):
        pass
