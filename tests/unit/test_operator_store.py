"""The store behind the watches, and its comparison with lists; the API server is a list of names and versions."""

import asyncio

from dpojob_operator import kube
from dpojob_operator.kube import Versions
from dpojob_operator.store import WATCHED, Store
from dpojob_operator.sync import Sync

POD = {
    "metadata": {
        "name": "j-a1-0",
        "namespace": "ns",
        "uid": "p",
        "resourceVersion": "5",
        "labels": {"dpojob.io/job": "j", "dpojob.io/attempt": "1", "dpojob.io/role": "host"},
        "managedFields": [{"manager": "kubelet"}],
    },
    "status": {"phase": "Failed"},
}


def version(body, number):
    return body | {"metadata": body["metadata"] | {"resourceVersion": str(number)}}


def test_older_state_never_replaces_a_newer_one():
    store = Store()
    assert store.put(kube.PODS, version(POD, 5))
    assert not store.put(kube.PODS, version(POD | {"status": {"phase": "Running"}}, 4))
    assert store.get(kube.PODS, ("ns", "j-a1-0"))["status"]["phase"] == "Failed"
    assert not store.remove(kube.PODS, ("ns", "j-a1-0"), 4)
    assert store.remove(kube.PODS, ("ns", "j-a1-0"), 6)
    store.refresh(kube.PODS, version(POD, 5))
    assert store.children(kube.PODS, ("ns", "j")) == []


def test_only_what_is_read_or_annotated_is_news():
    store = Store()
    store.put(kube.PODS, version(POD, 5))
    meta = POD["metadata"] | {"resourceVersion": "6", "managedFields": []}
    assert not store.put(kube.PODS, POD | {"metadata": meta})
    assert store.put(
        kube.PODS, POD | {"metadata": meta | {"resourceVersion": "7", "annotations": {"a": "b"}}}
    )


def test_names_of_jobs_with_children_are_remembered_while_something_is_left():
    store = Store()
    store.put(kube.PODS, version(POD, 5))
    store.forget_made()
    assert store.has_made(("ns", "j"))
    store.remove(kube.PODS, ("ns", "j-a1-0"), 6)
    assert store.has_made(("ns", "j"))
    store.forget_made()
    assert not store.has_made(("ns", "j"))


class Lists:
    """An API server that lists pods, and nothing of the other kinds."""

    def __init__(self):
        self.pods = Versions(10, {("ns", "j-a1-0"): 5})

    async def list_versions(self, resource, namespace, selector):
        return self.pods if resource is kube.PODS else Versions(10, {})


def listed(sync, resources=WATCHED):
    """Let the watches of some kinds begin."""
    for resource in resources:
        objects = {("ns", "j-a1-0"): 5} if resource is kube.PODS else {}
        sync.note_listed(resource, None, Versions(10, objects))


async def test_in_step_once_every_watch_has_listed_its_objects():
    sync = Sync(Lists(), Store())
    listed(sync, [kube.DPOJOBS])
    assert (sync.in_step, sync.shown) == (False, True)
    listed(sync)
    await asyncio.wait_for(sync.settled(10), 10)
    assert sync.in_step


def test_what_a_new_list_lacks_is_dropped():
    store, woken = Store(), []
    sync = Sync(Lists(), store, woken=woken.append)
    store.put(kube.PODS, version(POD, 5))
    sync.note_listed(kube.PODS, None, Versions(12, {}))
    assert (woken, store.children(kube.PODS, ("ns", "j"))) == ([("ns", "j")], [])


async def test_a_watch_that_stays_behind_is_noticed():
    lists, store = Lists(), Store()
    sync = Sync(lists, store)
    store.put(kube.PODS, version(POD, 5))
    listed(sync)
    lists.pods = Versions(12, {("ns", "j-a1-0"): 11})
    await sync.compare()
    assert sync.in_step, "it may be on its way"
    await sync.compare()
    assert not sync.in_step


async def test_what_has_gone_unseen_is_dropped_and_its_job_woken():
    lists, store, woken = Lists(), Store(), []
    sync = Sync(lists, store, woken=woken.append)
    store.put(kube.PODS, version(POD, 5))
    lists.pods = Versions(12, {})
    await sync.compare()
    assert woken == [("ns", "j")]
    assert store.children(kube.PODS, ("ns", "j")) == []
