"""Pod templates of the Ray head and of the TPU hosts.

Both satisfy the Pod Security Standard *restricted*. Probes are explicit because KubeRay adds its own where a template
has none, and those end a host that is merely busy; with it KubeRay rebuilds all hosts of the slice.
"""

from typing import Any

from dpojob_api import constants
from dpojob_api.v1alpha1 import DPOJob, hosts_of, shape_of
from dpojob_operator.desired import env, metadata, placement, storage

UID = 1000
# For a checkpoint of the running step; a spot reclaim cuts it short.
GRACE_SECONDS = 120
STOP = ["python", "-m", "dpojob_trainer", "stop"]
HEAD_PORT = 6379
DASHBOARD_PORT = 8265
AGENT_PORT = 52365

SECURITY_CONTEXT: dict[str, Any] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}

# KubeRay sets FQ_RAY_IP in init containers. Its own init container runs `ray health-check`, seconds of CPU each time;
# connecting costs nothing, and the jitter keeps hosts from starting Ray all at once.
WAIT_FOR_HEAD = (
    # The first process of a container ignores signals it has no trap for, and a trap waits for the foreground.
    "trap 'exit 143' TERM; "
    "until timeout 5 bash -c 'exec 3<>/dev/tcp/$FQ_RAY_IP/6379' 2>/dev/null; do sleep 2 & wait $!; done; "
    "sleep $((RANDOM % {jitter})) & wait $!"
)
JITTER_SECONDS_PER_HOST = 2


def build_head(job: DPOJob, attempt: int, image: str) -> dict[str, Any]:
    """Return the head's pod template; the trainer's driver runs in it."""
    head = job.spec.runtime.head
    container = ray_container(job, "ray-head", image, DASHBOARD_PORT) | {
        "env": env.head_env(job, image),
        "resources": placement.resources(head.resources),
        "ports": [
            port("gcs-server", HEAD_PORT),
            port("dashboard", DASHBOARD_PORT),
            port("client", 10001),
            port("trainer", constants.METRICS_PORT),
        ],
    }
    spec = pod_spec(job, attempt) | {"containers": [container]}
    if head.node_selector:
        spec["nodeSelector"] = dict(head.node_selector)
    if head.tolerations:
        spec["tolerations"] = [toleration.to_wire() for toleration in head.tolerations]
    return template(job, attempt, constants.ROLE_HEAD, spec)


def build_host(job: DPOJob, attempt: int, image: str, number: int = 0) -> dict[str, Any]:
    """Return the pod template of a slice's hosts; the Ray container is the first, as KubeRay wants it.

    Args:
        number: which slice it is, from 0.
    """
    shape = shape_of(job.spec)
    container = ray_container(job, "ray-worker", image, AGENT_PORT) | {
        "env": env.host_env(job, image, number),
        "resources": placement.resources(job.spec.runtime.host.resources, shape.chips_per_host),
        # libtpu's slice builder and multi-slice transport.
        "ports": [port("tpu", 8471), port("mxla", 8081)],
    }
    spec = pod_spec(job, attempt) | {
        "nodeSelector": placement.host_node_selector(job),
        "tolerations": placement.host_tolerations(job),
        "initContainers": [wait_for_head(job, image, hosts_of(job.spec))],
        "containers": [container],
    }
    body = template(job, attempt, constants.ROLE_HOST, spec)
    if job.spec.accelerator.slices > 1:
        body["metadata"]["labels"][constants.LABEL_SLICE] = str(number)
    return body


def template(job: DPOJob, attempt: int, role: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Return a pod template with the labels by which the operator finds its pods."""
    labels = metadata.labels(job, attempt) | {constants.LABEL_ROLE: role}
    return {"metadata": {"labels": labels}, "spec": spec}


def pod_spec(job: DPOJob, attempt: int) -> dict[str, Any]:
    """Return what head and hosts have in common.

    With restartPolicy Never a lost container is a lost pod: KubeRay then rebuilds the slice as a unit, where a
    restarted container would leave the other hosts in a dead collective.
    """
    runtime = job.spec.runtime
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": UID,
            "runAsGroup": UID,
            "fsGroup": UID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumes": storage.volumes(job.spec, metadata.attempt_name(job.metadata.name, attempt)),
    }
    if runtime.service_account_name:
        spec["serviceAccountName"] = runtime.service_account_name
    if runtime.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in runtime.image_pull_secrets]
    return spec


def ray_container(job: DPOJob, name: str, image: str, ready_port: int) -> dict[str, Any]:
    """Return what the Ray containers have in common; KubeRay writes the command."""
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": job.spec.runtime.image_pull_policy,
        "securityContext": SECURITY_CONTEXT,
        "volumeMounts": storage.mounts(job.spec),
        "readinessProbe": {
            "tcpSocket": {"port": ready_port},
            "periodSeconds": 5,
            "timeoutSeconds": 10,
            "failureThreshold": 200,
        },
        # Ray would kill the run at once; the trainer saves first, in head and hosts alike.
        "lifecycle": {"preStop": {"exec": {"command": STOP}}},
        # A container whose process ends is noticed without a probe; this one only takes the place of KubeRay's.
        "livenessProbe": {
            "exec": {"command": ["true"]},
            "periodSeconds": 300,
            "timeoutSeconds": 120,
            "failureThreshold": 10,
        },
    }


def wait_for_head(job: DPOJob, image: str, hosts: int) -> dict[str, Any]:
    """Return the init container that holds a host back until the head listens."""
    script = WAIT_FOR_HEAD.format(jitter=max(1, JITTER_SECONDS_PER_HOST * hosts))
    return {
        "name": "wait-for-head",
        "image": image,
        "imagePullPolicy": job.spec.runtime.image_pull_policy,
        "command": ["bash", "-c", script],
        "securityContext": SECURITY_CONTEXT,
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
    }


def port(name: str, number: int) -> dict[str, Any]:
    """Return a container port."""
    return {"name": name, "containerPort": number}
