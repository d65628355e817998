"""What an event of a watch changes. The API server is not asked here; a real one is in tests/integration."""

import time

import httpx
from tests.unit import operator_builders as b
from tests.unit.test_operator_outputs import body

from dpojob_operator import kube
from dpojob_operator.connection import Connection
from dpojob_operator.informer import Informer


def shown(name, second, version):
    seen = body(name, second)
    return {**seen, "metadata": seen["metadata"] | {"resourceVersion": str(version)}}


async def test_jobs_that_come_and_go_are_woken_and_their_folders_known():
    woken = []
    api = kube.ApiServer(Connection(None))
    async with httpx.AsyncClient() as http:
        informer = Informer(api, http, woken=woken.append)
        informer.show(kube.DPOJOBS, None, shown("old", 0, 1))
        informer.show(kube.DPOJOBS, "ADDED", shown("new", 1, 2))
        younger = b.make_job(name="new", uid="uid-new")
        assert [writer.key[1] for writer in informer.outputs.before(younger)] == ["old"]
        informer.show(kube.DPOJOBS, "DELETED", shown("old", 0, 3))
    assert informer.outputs.before(younger) == []
    assert woken == [("ns", "old"), ("ns", "new"), ("ns", "old")]
    assert informer.count() == 1


async def test_store_is_current_while_the_watch_of_the_namespace_speaks():
    api = kube.ApiServer(Connection(None))
    async with httpx.AsyncClient() as http:
        informer = Informer(api, http, namespaces=("ns", "other"))
        assert not informer.is_current("ns")
        informer.reflector(kube.DPOJOBS, "ns").heard_at = time.monotonic()
        assert (informer.is_current("ns"), informer.is_current("other")) == (True, False)
