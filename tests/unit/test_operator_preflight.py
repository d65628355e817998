"""What must be there before an attempt. Pure logic; no cluster."""

import pytest
from tests.unit import operator_builders as b

from dpojob_operator.observed import QuotaView
from dpojob_operator.policy import preflight
from dpojob_operator.settings import Settings

HF = {"credentials": {"huggingFace": {"name": "hf", "key": "token"}}}
ENV = {"runtime": {"env": [{"name": "A", "secretKeyRef": {"name": "s", "key": "k"}}]}}
PULL = {"runtime": {"imagePullSecrets": ["pull"]}}
ACCOUNT = {"runtime": {"serviceAccountName": "trainer"}}
CLAIM = {"output": {"uri": "pvc://out/run"}}

INPUT = {"model": {"uri": "pvc://in/model"}}
MANY = frozenset({"ReadWriteMany"})

CASES = [
    ({}, {}, None, ""),
    (HF, {}, "SecretNotFound", "spec.credentials.huggingFace"),
    (HF, {"secrets": {"hf": None}}, "SecretNotFound", "'hf'"),
    (HF, {"secrets": {"hf": frozenset({"other"})}}, "SecretKeyNotFound", "keys: other"),
    (HF, {"secrets": {"hf": frozenset()}}, "SecretKeyNotFound", "keys: none"),
    (HF, {"secrets": {"hf": frozenset({"token"})}}, None, ""),
    (ENV, {"secrets": {"s": None}}, "SecretNotFound", "spec.runtime.env[0].secretKeyRef"),
    (ENV, {"secrets": {"s": frozenset({"k"})}}, None, ""),
    (PULL, {"secrets": {"pull": None}}, "SecretNotFound", "imagePullSecrets"),
    (ACCOUNT, {"service_accounts": {"trainer": False}}, "ServiceAccountNotFound", "'trainer'"),
    (ACCOUNT, {"service_accounts": {"trainer": True}}, None, ""),
    (CLAIM, {"claims": {"out": None}}, "ClaimNotFound", "pvc://out"),
    (CLAIM, {"claims": {"out": MANY}}, None, ""),
    (CLAIM, {"claims": {"out": frozenset({"ReadWriteOnce"})}}, None, ""),
    (CLAIM, {"claims": {"out": frozenset()}}, None, ""),
    (
        CLAIM,
        {"claims": {"out": frozenset({"ReadOnlyMany"})}},
        "ClaimUnusable",
        "can only be read (ReadOnlyMany)",
    ),
    (CLAIM, {"claims": {"out": frozenset({"ReadWriteOncePod"})}}, "ClaimUnusable", "is for one pod"),
    (INPUT, {"claims": {"in": frozenset({"ReadOnlyMany"})}}, None, ""),
    ({}, {"output_of": "ns/first"}, "OutputShared", "DPOJob ns/first, which is older"),
    ({}, {"quotas": (QuotaView("q", {"pods": "3"}),)}, None, ""),
    (
        {},
        {"quotas": (QuotaView("q", {"pods": "2"}),)},
        "QuotaTooSmall",
        "allows 2 of pods, and an attempt needs 3",
    ),
    (
        {},
        {"quotas": (QuotaView("q", {"requests.google.com/tpu": "4"}),)},
        "QuotaTooSmall",
        "'q' allows 4 of requests.google.com/tpu, and an attempt needs 8: raise it in namespace 'ns'",
    ),
    ({}, {"rayjob_fields": None}, "KubeRayNotInstalled", "install KubeRay"),
    ({}, {"rayjob_fields": frozenset({"jobId"})}, "KubeRayTooOld", "upgrade KubeRay"),
]


@pytest.mark.parametrize(("spec", "found", "reason", "words"), CASES)
def test_problem(spec, found, reason, words):
    problem = preflight.find_problem(b.make_job(spec), b.all_there(**found), b.SETTINGS)
    assert (problem.reason if problem else None) == reason
    assert words in (problem.message if problem else "")


def test_no_image_and_no_default():
    problem = preflight.find_problem(b.make_job(), b.all_there(), Settings())
    assert problem is not None
    assert problem.reason == "NoTrainerImage"


def test_every_named_secret_is_looked_up():
    spec = b.deep_merge(b.deep_merge(HF, ENV), {"credentials": {"wandb": {"name": "w", "key": "k"}}})
    assert preflight.secret_names(b.make_job(b.deep_merge(spec, PULL))) == {"hf", "s", "w", "pull"}
