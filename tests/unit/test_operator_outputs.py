"""Who writes where. The API server is a stand-in that only returns DPOJobs: what it says decides."""

import pytest
from tests.unit import operator_builders as b

from dpojob_operator.errors import NotFoundError
from dpojob_operator.observe import Observer
from dpojob_operator.outputs import Outputs, folder_of

URI = "gs://bucket/run"


def body(name, second=0, uri=URI, namespace="ns", **more):
    meta = {"name": name, "namespace": namespace, "uid": f"uid-{name}"}
    meta["creationTimestamp"] = f"2026-11-23T12:00:{second:02}Z"
    return {"metadata": meta, "spec": {"output": {"uri": uri}}, **more}


def job(name, **status):
    return b.make_job(name=name, uid=f"uid-{name}").model_copy(update={"status": b.DPOJobStatus(**status)})


def names(outputs, name):
    return [writer.key[1] for writer in outputs.before(job(name))]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("a", "gs://x/run"), ("b", "gs://x/run/"), True),
        (("a", "gs://x/run"), ("b", "gs://x/run2"), False),
        (("a", "pvc://x/run"), ("a", "pvc://x/run//"), True),
        (("a", "pvc://x/run"), ("b", "pvc://x/run"), False),
    ],
)
def test_folder_has_one_name(one, other, same):
    assert (folder_of(*one) == folder_of(*other)) is same


def test_only_older_jobs_of_the_folder_come_before():
    outputs = Outputs()
    for found in (body("b", 5), body("a", 1), body("c", 9), body("d", 0, uri="gs://bucket/other")):
        outputs.see(found)
    assert (names(outputs, "b"), names(outputs, "a")) == (["a"], [])
    assert names(outputs, "c") == ["a", "b"]


def test_jobs_of_one_second_are_ordered_so_that_one_of_them_goes_on():
    outputs = Outputs()
    for found in (body("a"), body("b")):
        outputs.see(found)
    assert (names(outputs, "a"), names(outputs, "b")) == ([], ["a"])


@pytest.mark.parametrize(
    ("status", "writes"),
    [
        ({}, True),
        ({"conditions": [{"type": "Failed", "status": "True"}]}, False),
        ({"conditions": [{"type": "Failed", "status": "True"}], "attempts": [{"number": 1}]}, True),
        ({"conditions": [{"type": "Complete", "status": "True"}], "attempts": [{"number": 1}]}, True),
    ],
    ids=["new", "failed before it began", "failed", "complete"],
)
def test_job_that_failed_before_its_first_attempt_has_written_nothing(status, writes):
    outputs = Outputs()
    outputs.see(body("a", status=status))
    outputs.see(body("b", 1))
    assert names(outputs, "b") == (["a"] if writes else [])


def test_what_is_gone_or_unreadable_is_nobodys():
    outputs = Outputs()
    for found in (
        body("a"),
        body("b", 1),
        body("c", 2),
        {"metadata": {"name": "x"}},
        body("y", uri="ftp://x"),
    ):
        outputs.see(found)
    outputs.forget(("ns", "a"))
    outputs.forget(("ns", "unknown"))
    assert names(outputs, "c") == ["b"]
    outputs.see(body("b", 1, uri="gs://bucket/elsewhere"))
    assert names(outputs, "c") == []


def test_successor_of_the_same_name_is_another_job():
    outputs = Outputs()
    outputs.see(body("a"))
    outputs.see(body("b", 1))
    assert outputs.before(b.make_job(name="b", uid="uid-new")) == []


class OneKube:
    """Returns DPOJobs."""

    def __init__(self, *bodies):
        self.bodies = {(found["metadata"]["namespace"], found["metadata"]["name"]): found for found in bodies}

    async def get(self, resource, namespace, name):
        if (namespace, name) not in self.bodies:
            raise NotFoundError(name)
        return self.bodies[namespace, name]


class TestOlderWriter:
    def observer(self, *bodies):
        outputs = Outputs()
        outputs.see(body("a"))
        outputs.see(body("b", 1))
        return Observer(OneKube(*bodies), http=None, outputs=outputs)

    async def test_it_is_named_if_it_is_still_there(self):
        assert await self.observer(body("a"))._older_writer(job("b")) == "ns/a"

    async def test_deletion_that_the_watch_has_missed_is_found_out(self):
        assert await self.observer()._older_writer(job("b")) is None

    async def test_its_successor_is_younger(self):
        successor = body("a", 30)
        assert await self.observer(successor)._older_writer(job("b")) is None

    async def test_job_that_has_written_keeps_its_folder(self):
        assert await self.observer(body("a"))._older_writer(job("b", attempt=1)) is None
