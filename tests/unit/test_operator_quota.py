"""What an attempt needs of a namespace's quota. Pure logic."""

from decimal import Decimal

import pytest
from tests.unit import operator_builders as b

from dpojob_operator import parse
from dpojob_operator.observed import QuotaView
from dpojob_operator.policy import quota


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("4", 4),
        ("1500m", Decimal("1.5")),
        (".5", Decimal("0.5")),
        ("2k", 2000),
        ("2Ki", 2048),
        ("3Gi", 3 * 2**30),
        ("3G", 3 * 10**9),
        ("1Ti", 2**40),
        ("1e3", 1000),
        ("12E", 12 * 10**18),
        ("a lot", None),
        ("", None),
        ("-1", None),
    ],
)
def test_quantity(text, number):
    assert quota.amount(text) == number


def test_head_and_hosts_are_added_up():
    resources = {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "2Gi"}}
    spec = {"runtime": {"head": {"resources": resources}, "host": {"resources": resources}}}
    assert quota.needs(b.make_job(spec)) == {
        "pods": 3,
        "requests.cpu": Decimal("1.5"),
        "requests.memory": 3 * 2**30,
        "limits.memory": 6 * 2**30,
        "requests.google.com/tpu": 8,
        "limits.google.com/tpu": 8,
    }


def test_all_slices_count():
    spec = {"accelerator": {"slices": 2}, "mesh": {"dp": 2}, "training": {"globalBatchSize": 16}}
    needed = quota.needs(b.make_job(spec))
    assert (needed["pods"], needed["requests.google.com/tpu"]) == (5, 16)


@pytest.mark.parametrize(
    ("hard", "words"),
    [
        ({"requests.memory": "12Gi"}, None),
        ({"memory": "11Gi"}, "allows 11Gi of memory, and an attempt needs 12Gi"),
        ({"cpu": "2500m"}, "allows 2500m of cpu, and an attempt needs 3"),
        ({"count/pods": "1"}, "needs 3"),
        ({"count/rayjobs.ray.io": "0"}, None),
        ({"requests.google.com/tpu": "many"}, None),
        ({}, None),
    ],
)
def test_shortage(hard, words):
    found = quota.find_shortage(b.make_job(), [QuotaView("q", hard)])
    assert (found is None) == (words is None)
    assert (words or "") in (found or "")


def test_quota_for_some_pods_only_is_left_out():
    def body(name, **spec):
        return {"metadata": {"name": name}, "spec": {"hard": {"pods": "1"}, **spec}}

    bodies = [
        body("b"),
        body("a", scopes=["BestEffort"]),
        body("c", scopeSelector={"matchExpressions": [{}]}),
    ]
    assert [view.name for view in parse.quotas(bodies)] == ["b"]
