"""Who is to blame for a lost pod: the class of a loss from exit code, kubelet and Kubernetes' own words. Pure logic."""

from datetime import timedelta

import pytest
from tests.unit import operator_builders as b

from dpojob_api.failure_class import FailureClass
from dpojob_operator import parse
from dpojob_operator.observed import Termination
from dpojob_operator.policy import loss

SINCE = b.NOW - timedelta(minutes=1)


def ended(code, reason="Error", seconds=0):
    return Termination("ray-worker", code, reason, "", b.NOW + timedelta(seconds=seconds))


@pytest.mark.parametrize(
    ("fields", "spot", "kind"),
    [
        ({"ended": b.oom()}, False, FailureClass.APPLICATION),
        ({"ended": ended(1)}, False, FailureClass.INFRASTRUCTURE),
        ({"ended": ended(137)}, False, FailureClass.INFRASTRUCTURE),
        ({"ended": ended(143)}, False, FailureClass.PREEMPTED),
        ({"ended": ended(143), "deleting": True}, False, FailureClass.INFRASTRUCTURE),
        ({"deleting": True}, False, FailureClass.INFRASTRUCTURE),
        ({"deleting": True}, True, FailureClass.PREEMPTED),
        ({"deleting": True, "disrupted": "EvictionByEvictionAPI"}, False, FailureClass.PREEMPTED),
        ({"phase": "Failed", "disrupted": "DeletionByPodGC"}, False, FailureClass.PREEMPTED),
        ({"phase": "Failed", "evicted": "Terminated: imminent node shutdown"}, False, FailureClass.PREEMPTED),
        (
            {"phase": "Failed", "evicted": "Evicted: disk pressure", "disrupted": "TerminationByKubelet"},
            False,
            FailureClass.INFRASTRUCTURE,
        ),
    ],
)
def test_class_of_a_lost_host(fields, spot, kind):
    pods = b.make_pods(b.make_pod("host", 1, **fields))
    found = loss.find_loss(b.observe(b.make_job(), pods=pods), 2, SINCE, spot)
    assert found is not None
    assert (found.reason, found.failure_class, found.host) == ("HostLost", kind, "pod host-1, node node-0")


@pytest.mark.parametrize(("spot", "kind"), [(False, "Infrastructure"), (True, "Preempted")])
def test_class_of_a_host_that_vanished(spot, kind):
    found = loss.find_loss(b.observe(b.make_job(), pods=b.make_pods()[:2]), 2, SINCE, spot)
    assert found is not None
    assert (found.failure_class, found.host) == (kind, None)


def test_head_on_an_ordinary_node_is_not_taken_with_the_spot_slice():
    pods = b.make_pods(b.make_pod("head", None, deleting=True))
    found = loss.find_loss(b.observe(b.make_job(), pods=pods), 2, SINCE, spot=True)
    assert found is not None
    assert (found.reason, found.failure_class) == ("HeadLost", FailureClass.INFRASTRUCTURE)


def test_host_that_ended_by_itself_is_blamed_not_those_that_kuberay_deletes_with_it():
    pods = b.make_pods(
        b.make_pod("host", 0, ended=ended(143, seconds=-5), deleting=True),
        b.make_pod("host", 1, ended=b.oom()),
    )
    found = loss.find_loss(b.observe(b.make_job(), pods=pods), 2, SINCE)
    assert found is not None
    assert found.host == "pod host-1, node node-0"


def test_host_that_ended_first_is_blamed():
    pods = b.make_pods(
        b.make_pod("host", 0, ended=ended(1, seconds=-1)), b.make_pod("host", 1, ended=ended(1, seconds=-9))
    )
    found = loss.find_loss(b.observe(b.make_job(), pods=pods), 2, SINCE)
    assert found is not None
    assert found.message.startswith("Host 1 ")


@pytest.mark.parametrize(
    ("conditions", "words"),
    [
        ([], None),
        ([{"type": "DisruptionTarget", "status": "False", "reason": "X"}], None),
        ([{"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}], "DeletionByTaintManager"),
        ([{"type": "DisruptionTarget", "status": "True"}], "DisruptionTarget"),
    ],
)  # fmt: skip
def test_disruption_is_read_from_the_pod(conditions, words):
    assert parse.pod({"metadata": {"name": "p"}, "status": {"conditions": conditions}}).disrupted == words


def test_stop_of_the_operator_is_read_from_the_rayjob():
    meta = {"name": "j-a1", "uid": "u", "annotations": {"dpojob.io/stop": "2026-11-23T12:00:00Z"}}
    view = parse.ray_job({"metadata": meta, "spec": {"suspend": True}})
    assert (view.uid, view.stop_time, view.suspended) == ("u", b.NOW, True)
    assert parse.ray_job({"metadata": {"name": "j-a1"}}).stop_time is None


@pytest.mark.parametrize(("since", "lost"), [(None, False), (SINCE, True)])
def test_head_that_has_not_started_is_lost_only_if_the_trainer_has_run(since, lost):
    pods = b.make_pods(b.make_pod("head", None, phase="Pending"))
    found = loss.find_loss(b.observe(b.make_job(), pods=pods), 2, since)
    assert (found is not None and found.reason == "HeadLost") is lost


def test_head_that_is_deleted_before_it_starts_is_lost():
    pods = b.make_pods(b.make_pod("head", None, phase="Pending", deleting=True))
    assert loss.find_loss(b.observe(b.make_job(), pods=pods), 2, None) is not None
