"""From the API server's JSON and the trainer's metrics to values. Pure logic; no cluster."""

import pytest
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from tests.unit import operator_builders as b

from dpojob_api import metrics
from dpojob_operator import errors, kube, parse, trainer_metrics
from dpojob_operator.observe import is_ours, spec_fields

LABELS = {"dpojob.io/job": "j", "dpojob.io/attempt": "1"}


def pod(role="host", labels=None, spec=None, **status):
    meta = {"name": "p", "labels": LABELS | {"dpojob.io/role": role} | (labels or {})}
    return parse.pod({"metadata": meta, "spec": spec or {}, "status": status})


def container(name="ray-worker", **state):
    return {"name": name, "state": state}


@pytest.mark.parametrize("body", [{}, {"metadata": {}}, {"status": None, "spec": None, "metadata": {}}])
def test_nothing_fails_on_an_empty_object(body):
    assert parse.pod(body).name == ""
    assert parse.ray_job(body).job_status == ""
    assert parse.ray_cluster(body).attempt is None
    assert parse.config_map(body).text is None


@pytest.mark.parametrize(
    ("text", "year"), [("2026-11-23T12:00:00Z", 2026), ("x", None), (None, None), (5, None)]
)
def test_time(text, year):
    found = parse.parse_time(text)
    assert (found.year if found else None) == year


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"waiting": {"reason": "ContainerCreating"}}, None),
        ({"waiting": {"reason": "ErrImagePull", "message": "no"}}, "ErrImagePull: no"),
        (
            {"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "x" not found'}},
            'secret "x"',
        ),
        ({"running": {}}, None),
    ],
)
def test_waiting_words(state, words):
    found = pod(containerStatuses=[container(**state)]).waiting
    assert found is None if words is None else words in (found or "")


def test_init_container_that_cannot_start_is_a_complaint():
    statuses = [container("wait-for-head", waiting={"reason": "ErrImagePull"})]
    waiting = [container(waiting={"reason": "PodInitializing"})]
    assert pod(initContainerStatuses=statuses, containerStatuses=waiting).waiting == "ErrImagePull"


def test_unschedulable_words():
    conditions = [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
    ]
    assert pod(conditions=conditions).unschedulable == "Unschedulable: 0/1 nodes"


def test_ended_container():
    ended = pod(
        containerStatuses=[container(terminated={"exitCode": 137, "reason": "OOMKilled"})], phase="Failed"
    ).ended
    assert ended is not None
    assert (ended.container, ended.exit_code, ended.reason) == ("ray-worker", 137, "OOMKilled")


def test_init_container_that_ended_well_is_no_end():
    assert pod(initContainerStatuses=[container(terminated={"exitCode": 0})], phase="Running").alive


@pytest.mark.parametrize(
    ("labels", "role", "index"),
    [({"ray.io/replica-host-index": "3"}, "host", 3), ({}, "host", 0), ({}, "head", None)],
)
def test_host_index(labels, role, index):
    assert pod(role, labels).host_index == index


def test_refused_pods_of_a_cluster():
    conditions = [{"type": "ReplicaFailure", "status": "True", "message": "forbidden"}]
    body = {"metadata": {"name": "c", "labels": LABELS}, "status": {"conditions": conditions}}
    assert parse.ray_cluster(body).failure == "forbidden"


@pytest.mark.parametrize(
    ("labels", "ours"),
    [
        (LABELS | {"ray.io/originated-from-cr-name": "j-a1"}, True),
        (LABELS | {"ray.io/originated-from-cr-name": "j-a2"}, False),
        (LABELS, False),
        ({"dpojob.io/job": "j", "ray.io/originated-from-cr-name": "j-a1"}, False),
    ],
)
def test_a_label_alone_makes_no_cluster_ours(labels, ours):
    assert is_ours(b.make_job(), {"metadata": {"labels": labels}}) is ours


def test_fields_of_the_crd():
    schema = {"openAPIV3Schema": {"properties": {"spec": {"properties": {"jobId": {}}}}}}
    old, new = {"name": "v1alpha1", "served": True}, {"name": "v1", "served": True, "schema": schema}
    assert spec_fields({"spec": {"versions": [old, new]}}) == {"jobId"}
    assert spec_fields({"spec": {"versions": [old]}}) == frozenset()


def exposition(pairs=None, **values):
    registry = CollectorRegistry()
    kinds = Gauge(metrics.DATA_PAIRS, "x", ["kind"], registry=registry)
    for kind, count in (pairs or {}).items():
        kinds.labels(kind).set(count)
    for name, value in values.items():
        Gauge(getattr(metrics, name), "x", registry=registry).set(value)
    phase = Gauge(metrics.PHASE, "x", ["phase"], registry=registry)
    phase.labels("loading").set(0)
    phase.labels("training").set(1)
    return generate_latest(registry).decode()


def test_scrape_of_a_run():
    text = exposition(
        STEP=12, TOTAL_STEPS=40, LOSS=0.693147, REWARD_MARGIN=-0.000123456, ETA_SECONDS=750, MFU=0.5
    )
    scrape = trainer_metrics.parse_scrape(text)
    assert scrape is not None
    progress = scrape.progress
    assert (progress.phase, progress.steps, progress.loss, progress.eta) == (
        "training",
        "12/40",
        0.6931,
        "12m30s",
    )
    assert (progress.reward_margin, progress.mfu) == (-0.0001235, 0.5)
    assert progress.reward_accuracy is None
    assert scrape.finished is False


def test_scrape_of_a_finished_run():
    scrape = trainer_metrics.parse_scrape(
        exposition(STEP=40, TOTAL_STEPS=40, FINISHED=1, EVAL_REWARD_MARGIN=0.25)
    )
    assert scrape is not None
    assert (scrape.finished, scrape.final.step, scrape.final.eval_reward_margin) == (True, 40, 0.25)


def test_scrape_of_the_pairs():
    pairs = {kind: number for number, kind in enumerate(metrics.DATA_KINDS)}
    assert trainer_metrics.parse_scrape(exposition(pairs, STEP=0)).pairs == pairs
    assert trainer_metrics.parse_scrape(exposition(STEP=0)).pairs is None
    assert trainer_metrics.parse_scrape(exposition({"read": 1}, STEP=0)).pairs is None


def test_numbers_that_json_cannot_carry_are_left_out():
    scrape = trainer_metrics.parse_scrape(exposition(STEP=1, LOSS=float("nan"), ETA_SECONDS=float("inf")))
    assert scrape is not None
    assert (scrape.progress.loss, scrape.progress.eta) == (None, None)


def test_somebody_elses_metrics_are_no_scrape():
    assert trainer_metrics.parse_scrape("# HELP up x\n# TYPE up gauge\nup 1\n") is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (45.4, "45s"), (60, "1m00s"), (750, "12m30s"), (11100, "3h05m"), (-1, None), (None, None)],
)
def test_eta(seconds, text):
    assert trainer_metrics.format_eta(seconds) == text


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.InvalidError),
        (403, errors.ForbiddenError),
        (404, errors.NotFoundError),
        (409, errors.ConflictError),
        (422, errors.InvalidError),
        (429, errors.TransientError),
        (500, errors.TransientError),
        (503, errors.TransientError),
    ],
)
def test_error_by_status(status, kind):
    with pytest.raises(kind, match=r"its words \(HTTP"):
        kube.answer("GET", "/x", status, b'{"message": "its words"}')


def test_answer_that_is_no_json_is_still_an_error():
    with pytest.raises(errors.TransientError, match="GET /x failed"):
        kube.answer("GET", "/x", 502, b"<html>")


@pytest.mark.parametrize(
    ("resource", "args", "path"),
    [
        (kube.PODS, ("ns",), "/api/v1/namespaces/ns/pods"),
        (kube.RAYJOBS, ("ns", "j-a1"), "/apis/ray.io/v1/namespaces/ns/rayjobs/j-a1"),
        (kube.DPOJOBS, ("ns", "j", "status"), "/apis/dpojob.io/v1alpha1/namespaces/ns/dpojobs/j/status"),
        (
            kube.CRDS,
            (None, "rayjobs.ray.io"),
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/rayjobs.ray.io",
        ),
    ],
)
def test_paths(resource, args, path):
    assert resource.path(*args) == path
