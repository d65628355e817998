"""Several slices: plan, pods, losses and chips of a job on two v4-16 slices. Pure logic; admission is in tests/crd and a
run on two slices in tests/e2e.
"""

import pytest
from tests.unit import operator_builders as b

from dpojob_api.v1alpha1 import plan_of
from dpojob_operator import decide, ledger, parse, running, status, words
from dpojob_operator.desired import rayjob
from dpojob_operator.policy import budget, loss

SLICES = {"accelerator": {"slices": 2}, "mesh": {"dp": 2}, "training": {"globalBatchSize": 16}}


def groups(spec):
    return rayjob.build_rayjob(b.make_job(spec), 1, "image")["spec"]["rayClusterSpec"]["workerGroupSpecs"]


def variables(group):
    container = group["template"]["spec"]["containers"][0]
    return {v["name"]: v.get("value", v.get("valueFrom")) for v in container["env"]}


def test_plan_counts_the_chips_and_hosts_of_all_slices():
    plan = plan_of(b.make_job(SLICES).spec)
    assert (plan.slices, plan.chips, plan.hosts, plan.hosts_per_slice, plan.chips_per_host) == (
        2,
        16,
        4,
        2,
        4,
    )
    assert (plan.mesh.dp, plan.mesh.fsdp, plan.topology) == (2, 8, "2x2x2")


def test_each_slice_is_a_worker_group_that_knows_its_number():
    made = groups(SLICES)
    assert [g["groupName"] for g in made] == ["tpu-0", "tpu-1"]
    assert [(g["replicas"], g["numOfHosts"]) for g in made] == [(1, 2), (1, 2)]
    assert [g["template"]["metadata"]["labels"]["dpojob.io/slice"] for g in made] == ["0", "1"]
    found = [variables(g) for g in made]
    assert [v["MEGASCALE_SLICE_ID"] for v in found] == ["0", "1"]
    for own in found:
        assert own["MEGASCALE_NUM_SLICES"] == "2"
        assert own["TPU_TOPOLOGY"] == "2x2x2"
        assert own["TPU_NAME"]["fieldRef"]["fieldPath"].endswith("['ray.io/worker-group-replica-name']")
        assert own["TPU_WORKER_ID"]["fieldRef"]["fieldPath"].endswith("['ray.io/replica-host-index']")


def test_groups_differ_in_nothing_but_their_number():
    first, second = groups(SLICES)
    assert repr(first).replace("tpu-0", "tpu-1").replace("'0'", "'1'") == repr(second).replace("'0'", "'1'")


def test_hosts_of_a_single_host_slice_are_slices_of_their_own_name():
    made = groups(SLICES | {"accelerator": {"type": "v4-8", "slices": 2}})
    assert [g["numOfHosts"] for g in made] == [1, 1]
    for group in made:
        own = variables(group)
        assert own["TPU_WORKER_ID"] == "0"
        assert own["TPU_NAME"] == {"fieldRef": {"fieldPath": "metadata.name"}}


def test_one_slice_says_nothing_of_slices():
    (group,) = groups({})
    assert group["groupName"] == "tpu"
    assert "dpojob.io/slice" not in group["template"]["metadata"]["labels"]
    assert not [name for name in variables(group) if name.startswith("MEGASCALE")]


def pod(number, index, **fields):
    return b.make_pod(index=index, slice_index=number, **{"name": f"host-{number}-{index}", **fields})


def all_pods(*without):
    hosts = [
        pod(number, index) for number in range(2) for index in range(2) if (number, index) not in without
    ]
    return (b.make_pod("head", None), *hosts)


def test_pod_tells_its_slice():
    labels = {"dpojob.io/role": "host", "dpojob.io/slice": "1", "ray.io/replica-host-index": "0"}
    view = parse.pod({"metadata": {"name": "p", "labels": labels}})
    assert (view.place, words.pod_title(view)) == ((1, 0), "host 0 of slice 1")


@pytest.mark.parametrize(("pods", "runs"), [(all_pods(), True), (all_pods((1, 1)), False)])
def test_job_runs_once_every_host_of_every_slice_does(pods, runs):
    job = b.make_job(SLICES, b.running())
    assert running.is_running(job, b.observe(job, pods=pods), b.make_ray_job()) is runs


def test_lost_host_is_named_with_its_slice():
    job = b.make_job(SLICES, b.running())
    found = running.find_loss(job, b.observe(job, pods=all_pods((1, 0))), b.make_ray_job())
    assert found is not None
    assert found.message == "The pod of host 0 of slice 1 is gone."
    ended = (*all_pods((0, 1)), pod(0, 1, phase="Failed", ended=b.oom()))
    found = loss.find_loss(b.observe(job, pods=ended), 2, b.NOW, slices=2)
    assert found is not None
    assert found.message.startswith("Host 1 of slice 0 (pod host-0-1, node node-0) ended")


def test_whole_lost_slice_ends_the_attempt():
    job = b.make_job(SLICES, b.running())
    observed = b.observe(job, pods=all_pods((1, 0), (1, 1)))
    assert running.find_loss(job, observed, b.make_ray_job()) is not None


def test_chips_of_all_slices_are_billed():
    opened = b.make_ledger(activity=ledger.Activity.TRAINING, ago=10)
    job = b.make_job(SLICES, b.running().model_copy(update={"ledger": opened}))
    assert budget.chip_seconds(job, b.NOW) == 160
    observed = b.observe(job, pods=all_pods())
    plan = decide.decide(job, observed, b.SETTINGS, b.NOW)
    new = status.next_status(job, plan, observed, b.NOW)
    assert new.ledger is not None
    assert new.ledger.total == new.ledger.chip_seconds.training == 160
