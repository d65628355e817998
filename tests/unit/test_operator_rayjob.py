"""The manifests of an attempt. Pure logic; admission of them by a real cluster is in tests/integration."""

import json

import pytest
from tests.unit import operator_builders as b

from dpojob_api.trainer_config import TrainerConfig
from dpojob_operator.desired import configmap, env, pods, rayjob, storage

IMAGE = "example.test/trainer:1"


def build(spec=None, attempt=1, **meta):
    return rayjob.build_rayjob(b.make_job(spec, **meta), attempt, IMAGE)


def cluster(spec=None):
    return build(spec)["spec"]["rayClusterSpec"]


def head(spec=None):
    return cluster(spec)["headGroupSpec"]["template"]["spec"]


def host(spec=None):
    return cluster(spec)["workerGroupSpecs"][0]["template"]["spec"]


def variables(pod):
    return {v["name"]: v.get("value", v.get("valueFrom")) for v in pod["containers"][0]["env"]}


def test_rayjob_apart_from_its_pods():
    made = build(labels={"kueue.x-k8s.io/queue-name": "tpu", "team": "x"})
    spec = made["spec"]
    ray_cluster = spec.pop("rayClusterSpec")
    assert made == {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {
            "name": "j-a1",
            "namespace": "ns",
            "labels": {"dpojob.io/job": "j", "dpojob.io/attempt": "1", "kueue.x-k8s.io/queue-name": "tpu"},
            "annotations": {"ray.io/disable-provisioned-head-restart": "true"},
            "ownerReferences": [
                {
                    "apiVersion": "dpojob.io/v1alpha1",
                    "kind": "DPOJob",
                    "name": "j",
                    "uid": b.UID,
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "spec": {
            "submissionMode": "HTTPMode",
            "jobId": "j-a1",
            "entrypoint": "python -m dpojob_trainer drive --config /etc/dpojob/trainer.json",
            "backoffLimit": 0,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 0,
            "preRunningDeadlineSeconds": 1800,
        },
    }
    ports = {"dashboard-agent-grpc-port": "52366", "runtime-env-agent-port": "52367"}
    head_params = ray_cluster["headGroupSpec"]["rayStartParams"]
    assert head_params == {"dashboard-host": "0.0.0.0", "num-cpus": "0", **ports}
    group = ray_cluster["workerGroupSpecs"][0]
    assert group["rayStartParams"] == ports
    assert {k: group[k] for k in ("replicas", "minReplicas", "maxReplicas", "numOfHosts")} == {
        "replicas": 1,
        "minReplicas": 1,
        "maxReplicas": 1,
        "numOfHosts": 2,
    }


@pytest.mark.parametrize(
    ("accelerator", "hosts", "chips", "topology", "label"),
    [
        ("v4-64", 8, "4", "2x4x4", "tpu-v4-podslice"),
        ("v4-16", 2, "4", "2x2x2", "tpu-v4-podslice"),
        ("v6e-16", 4, "4", "4x4", "tpu-v6e-slice"),
    ],
)
def test_slice(accelerator, hosts, chips, topology, label):
    spec = {"accelerator": {"type": accelerator}}
    group = cluster(spec)["workerGroupSpecs"][0]
    resources = host(spec)["containers"][0]["resources"]
    assert group["numOfHosts"] == hosts
    assert resources["requests"]["google.com/tpu"] == resources["limits"]["google.com/tpu"] == chips
    assert host(spec)["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": label,
        "cloud.google.com/gke-tpu-topology": topology,
    }


@pytest.mark.parametrize(
    ("capacity", "selector", "tolerations"),
    [
        ({"type": "OnDemand"}, {}, 1),
        ({"type": "Spot"}, {"cloud.google.com/gke-spot": "true"}, 2),
        ({"type": "Reservation", "reservation": "r1"}, {"cloud.google.com/reservation-name": "r1"}, 1),
        ({"type": "FlexStart"}, {"cloud.google.com/gke-flex-start": "true"}, 1),
    ],
)
def test_capacity(capacity, selector, tolerations):
    pod = host({"accelerator": {"type": "v6e-16", "capacity": capacity}})
    assert selector.items() <= pod["nodeSelector"].items()
    assert len(pod["nodeSelector"]) == 2 + len(selector)
    assert len(pod["tolerations"]) == tolerations
    assert pod["tolerations"][0] == {"key": "google.com/tpu", "operator": "Exists", "effect": "NoSchedule"}


def test_head_asks_for_no_tpu_and_stays_off_tpu_nodes():
    pod = head()
    assert "google.com/tpu" not in str(pod["containers"][0]["resources"])
    assert "nodeSelector" not in pod
    assert "tolerations" not in pod


def test_head_placement_is_the_users():
    pod = head({"runtime": {"head": {"nodeSelector": {"pool": "cpu"}, "tolerations": [{"key": "k"}]}}})
    assert (pod["nodeSelector"], pod["tolerations"]) == (
        {"pool": "cpu"},
        [{"key": "k", "operator": "Exists"}],
    )


def test_multi_host_identity_comes_from_kuberays_labels():
    found = variables(host())
    assert found["TPU_WORKER_ID"] == {
        "fieldRef": {"fieldPath": "metadata.labels['ray.io/replica-host-index']"}
    }
    assert found["TPU_NAME"] == {
        "fieldRef": {"fieldPath": "metadata.labels['ray.io/worker-group-replica-name']"}
    }
    assert (found["TPU_ACCELERATOR_TYPE"], found["TPU_TOPOLOGY"]) == ("v4-16", "2x2x2")


def test_single_host_identity_needs_no_labels():
    found = variables(host({"accelerator": {"type": "v4-8"}}))
    assert found["TPU_WORKER_ID"] == "0"
    assert found["TPU_NAME"] == {"fieldRef": {"fieldPath": "metadata.name"}}


@pytest.mark.parametrize(("platform", "expected"), [("tpu", "tpu,cpu"), ("cpu", "cpu")])
def test_jax_platforms(platform, expected):
    spec = {"runtime": {"platform": platform}}
    assert variables(host(spec))["JAX_PLATFORMS"] == expected
    assert variables(head(spec))["JAX_PLATFORMS"] == "cpu"


def test_tokens_stay_in_their_secrets():
    ref = {"name": "s", "key": "k"}
    spec = {"credentials": {"huggingFace": ref, "wandb": ref}}
    for pod in (head(spec), host(spec)):
        found = variables(pod)
        assert found["HF_TOKEN"] == found["WANDB_API_KEY"] == {"secretKeyRef": ref}


def test_the_image_is_named_for_the_models_lineage():
    assert variables(head())["DPOJOB_IMAGE"] == variables(host())["DPOJOB_IMAGE"] == IMAGE


def test_users_variables_come_last_and_win():
    own = [{"name": "A", "value": "1"}, {"name": "RAY_health_check_timeout_ms", "value": "7"}]
    found = variables(host({"runtime": {"env": own}}))
    assert (found["A"], found["RAY_health_check_timeout_ms"]) == ("1", "7")


def test_no_variable_twice():
    names = [
        v["name"]
        for v in env.host_env(b.make_job({"runtime": {"env": [{"name": "HOME", "value": "/x"}]}}), IMAGE)
    ]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("pod", [head(), host()], ids=["head", "host"])
def test_pod_security_restricted(pod):
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == 1000
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }


@pytest.mark.parametrize(("pod", "port"), [(head(), 8265), (host(), 52365)], ids=["head", "host"])
def test_probes_are_explicit_and_patient(pod, port):
    container = pod["containers"][0]
    assert container["readinessProbe"]["tcpSocket"] == {"port": port}
    assert container["readinessProbe"]["timeoutSeconds"] == 10
    assert container["livenessProbe"]["exec"] == {"command": ["true"]}
    assert container["lifecycle"]["preStop"]["exec"] == {
        "command": ["python", "-m", "dpojob_trainer", "stop"]
    }
    assert pod["restartPolicy"] == "Never"


def test_hosts_wait_for_the_head_with_their_own_image():
    init = host()["initContainers"][0]
    assert (init["image"], init["command"][0]) == (IMAGE, "bash")
    assert "/dev/tcp/$FQ_RAY_IP/6379" in init["command"][2]
    assert "initContainers" not in head()


def test_ports():
    assert [p["containerPort"] for p in head()["containers"][0]["ports"]] == [6379, 8265, 10001, 8090]
    assert [p["containerPort"] for p in host()["containers"][0]["ports"]] == [8471, 8081]


@pytest.mark.parametrize(
    ("uris", "expected"),
    [
        (("hf://o/m", "hf://o/d", "gs://bucket/x"), {}),
        (("pvc://in/m", "pvc://in/d", "pvc://out/x"), {"in": True, "out": False}),
        (("pvc://all/m", "hf://o/d", "pvc://all/x"), {"all": False}),
        (("hf://o/m", "pvc://data", "gs://bucket/x"), {"data": True}),
        (("hf://o/m", "pvc://in/d", "gs://bucket/x", "pvc://in/cache"), {"in": False}),
    ],
)
def test_claims_are_mounted_once_and_read_only_where_only_read(uris, expected):
    model, dataset, output, *shared = uris
    outputs = {"uri": output} | ({"cacheUri": shared[0]} if shared else {})
    spec = {"model": {"uri": model}, "dataset": {"uri": dataset}, "output": outputs}
    assert storage.claims(b.make_job(spec).spec) == expected
    for pod in (head(spec), host(spec)):
        mounted = {
            m["mountPath"]: m["readOnly"]
            for m in pod["containers"][0]["volumeMounts"]
            if "claim" in m["name"]
        }
        assert mounted == {f"/mnt/dpojob/{name}": read_only for name, read_only in expected.items()}
        assert {m["name"] for m in pod["containers"][0]["volumeMounts"]} == {
            v["name"] for v in pod["volumes"]
        }


@pytest.mark.parametrize(
    ("given", "requests", "limits"),
    [
        ({}, {"cpu": "1", "memory": "4Gi"}, None),
        ({"requests": {"cpu": "2"}}, {"cpu": "2", "memory": "4Gi"}, None),
        ({"limits": {"memory": "2Gi"}}, {"cpu": "1", "memory": "2Gi"}, {"memory": "2Gi"}),
        (
            {"requests": {"memory": "1Gi"}, "limits": {"memory": "2Gi"}},
            {"cpu": "1", "memory": "1Gi"},
            {"memory": "2Gi"},
        ),
    ],
)
def test_resources(given, requests, limits):
    found = head({"runtime": {"head": {"resources": given}}})["containers"][0]["resources"]
    assert found == ({"requests": requests, "limits": limits} if limits else {"requests": requests})


def test_service_account_and_pull_secrets():
    spec = {
        "runtime": {
            "serviceAccountName": "trainer",
            "imagePullSecrets": ["pull"],
            "imagePullPolicy": "Always",
        }
    }
    for pod in (head(spec), host(spec)):
        assert pod["serviceAccountName"] == "trainer"
        assert pod["imagePullSecrets"] == [{"name": "pull"}]
        assert pod["containers"][0]["imagePullPolicy"] == "Always"


def test_manifests_share_no_state():
    job = b.make_job()
    first = rayjob.build_rayjob(job, 1, IMAGE)
    text = json.dumps(first)
    first["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["env"].clear()
    assert json.dumps(rayjob.build_rayjob(job, 1, IMAGE)) == text


def test_config_is_what_the_trainer_reads():
    made = configmap.build_configmap(b.make_job(), 2)
    config = TrainerConfig.model_validate_json(made["data"]["trainer.json"])
    assert made["metadata"]["name"] == "j-a2"
    assert (config.job.name, config.job.uid, config.job.attempt) == ("j", b.UID, 2)
    assert config.plan.hosts == 2


def test_pods_find_their_config_by_the_attempts_name():
    template = pods.build_host(b.make_job(), 3, IMAGE)
    assert template["metadata"]["labels"] == {
        "dpojob.io/job": "j",
        "dpojob.io/attempt": "3",
        "dpojob.io/role": "host",
    }
    assert template["spec"]["volumes"][0] == {"name": "config", "configMap": {"name": "j-a3"}}
