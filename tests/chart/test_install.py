"""The chart on the local cluster: accepted, running under Pod Security ``restricted``, allowed what it needs and no more.

The release watches one namespace of its own, so it stands beside an operator that is already installed. It brings the
CRD and the user roles only where no other release has.
"""

import json
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

ROOT = Path(__file__).resolve().parents[2]
CHART = str(ROOT / "charts/dpojob-operator")
IMAGE = ("localhost/dpojob-operator", "dev")
DEADLINE_SECONDS = 180
JOBS = {"group": "dpojob.io", "version": "v1alpha1", "plural": "dpojobs"}

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def api(kubeconfig: Path) -> client.ApiClient:
    api = config.new_client_from_config(str(kubeconfig))
    try:
        client.VersionApi(api).get_code(_request_timeout=10)
    except HTTPError as error:
        pytest.fail(
            f"the cluster of {kubeconfig} does not answer ({error}); run make cluster-up", pytrace=False
        )
    return api


@pytest.fixture(scope="module")
def namespace(api: client.ApiClient) -> Iterator[str]:
    yield from new_namespace(api)


@pytest.fixture(scope="module")
def release(cluster_helm: Any, api: client.ApiClient, namespace: str) -> Iterator[str]:
    """Install the chart for one namespace and return what Helm printed."""
    yield install(cluster_helm, api, "under-test", namespace)
    cluster_helm.succeed("uninstall", "under-test", "--namespace", namespace, "--wait")


@pytest.fixture(scope="module")
def users(api: client.ApiClient, namespace: str, release: str) -> None:
    """Bind an editor and a viewer to the built-in roles in the namespace."""
    for role, user in (("edit", "editor"), ("view", "viewer")):
        binding = {
            "metadata": {"name": role},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
        }
        client.RbacAuthorizationV1Api(api).create_namespaced_role_binding(namespace, binding)


@pytest.fixture(scope="module")
def pod(api: client.ApiClient, release: str, namespace: str) -> Any:
    """Return the operator's pod once it is ready."""
    core = client.CoreV1Api(api)
    images = [image for node in core.list_node().items for image in node.status.images or []]
    if ":".join(IMAGE) not in {name for image in images for name in image.names or []}:
        pytest.fail(f"{':'.join(IMAGE)} is not on the node; run make images", pytrace=False)
    try:
        return wait(lambda: _ready_pod(core, namespace), "the operator's pod to be ready")
    except pytest.fail.Exception as error:
        pytest.fail(f"{error}; its log ends:\n{_log_tail(core, namespace)}", pytrace=False)


def new_namespace(api: client.ApiClient) -> Iterator[str]:
    core = client.CoreV1Api(api)
    name = f"chart-tests-{uuid.uuid4().hex[:8]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    core.create_namespace({"metadata": {"name": name, "labels": labels}})
    yield name
    core.delete_namespace(name)


def install(helm: Any, api: client.ApiClient, release: str, namespace: str) -> str:
    rbac = client.RbacAuthorizationV1Api(api)
    values = {
        "namespaces": f"{{{namespace}}}",
        "image.repository": IMAGE[0],
        "image.tag": IMAGE[1],
        "image.pullPolicy": "Never",
        "trainer.image": "localhost/dpojob-trainer:dev",
        "crds.keep": "false",
        "crds.install": _missing(lambda: _crd(api), (release, namespace)),
        "rbac.userRoles": _missing(
            lambda: rbac.read_cluster_role("dpojob-edit").metadata.to_dict(), (release, namespace)
        ),
    }
    settings = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
    done: str = helm.succeed("upgrade", "--install", release, CHART, "--namespace", namespace, *settings)
    return done


def wait(probe: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        if value := probe():
            return value
        time.sleep(0.5)
    pytest.fail(f"waited {DEADLINE_SECONDS} s for {what}")


@pytest.mark.parametrize("watched", ["all", "one"])
def test_api_server_takes_every_object(
    render: Callable[..., Any], kubectl: str, kubeconfig: Path, namespace: str, watched: str
) -> None:
    values = {"namespaces": [] if watched == "all" else [namespace], "metrics": {"annotations": True}}
    text = yaml.safe_dump_all(render(values, namespace=namespace).objects)
    command = [kubectl, "--kubeconfig", str(kubeconfig), "create", "--dry-run=server", "--validate=strict"]
    done = subprocess.run(
        [*command, "-f", "-"], input=text, capture_output=True, text=True, timeout=60, check=False
    )
    errors = [line for line in done.stderr.splitlines() if "AlreadyExists" not in line]
    assert errors == []


def test_notes_name_the_next_steps(release: str, namespace: str) -> None:
    assert f"kubectl -n {namespace} rollout status deployment/under-test-dpojob-operator" in release
    assert f"reconciles DPOJobs in {namespace}" in release


def test_release_can_be_upgraded_in_place(
    cluster_helm: Any, api: client.ApiClient, release: str, namespace: str
) -> None:
    install(cluster_helm, api, "under-test", namespace)
    history = json.loads(
        cluster_helm.succeed("history", "under-test", "--namespace", namespace, "-o", "json")
    )
    assert [entry["status"] for entry in history] == ["superseded", "deployed"]


def test_pod_is_admitted_by_pod_security_restricted(
    api: client.ApiClient, release: str, namespace: str
) -> None:
    core = client.CoreV1Api(api)
    wait(lambda: core.list_namespaced_pod(namespace).items, "the operator's pod to be created")
    events = core.list_namespaced_event(namespace, field_selector="reason=FailedCreate").items
    assert [event.message for event in events] == []


class TestPrivileges:
    ALLOWED = (
        ("list", "dpojob.io", "dpojobs"),
        ("watch", "dpojob.io", "dpojobs"),
        ("delete", "dpojob.io", "dpojobs"),
        ("patch", "dpojob.io", "dpojobs/status"),
        ("create", "ray.io", "rayjobs"),
        ("patch", "ray.io", "rayjobs"),
        ("delete", "ray.io", "rayjobs"),
        ("watch", "ray.io", "rayclusters"),
        ("get", "", "secrets"),
        ("create", "", "configmaps"),
        ("create", "", "events"),
        ("watch", "", "pods"),
    )
    FORBIDDEN = (
        ("patch", "dpojob.io", "dpojobs"),
        ("list", "", "secrets"),
        ("watch", "", "secrets"),
        ("create", "", "pods"),
        ("delete", "", "pods"),
        ("create", "", "pods/exec"),
        ("list", "", "configmaps"),
        ("create", "ray.io", "rayclusters"),
        ("create", "rbac.authorization.k8s.io", "rolebindings"),
        ("create", "", "serviceaccounts/token"),
    )

    @pytest.mark.parametrize(("verb", "group", "resource"), ALLOWED, ids=map(" ".join, ALLOWED))
    def test_operator_may(
        self, api: client.ApiClient, release: str, namespace: str, verb: str, group: str, resource: str
    ) -> None:
        assert may(api, operator(namespace), namespace, verb, group, resource)

    @pytest.mark.parametrize(("verb", "group", "resource"), FORBIDDEN, ids=map(" ".join, FORBIDDEN))
    def test_operator_may_not(
        self, api: client.ApiClient, release: str, namespace: str, verb: str, group: str, resource: str
    ) -> None:
        assert not may(api, operator(namespace), namespace, verb, group, resource)

    @pytest.mark.parametrize(("verb", "group", "resource"), ALLOWED, ids=map(" ".join, ALLOWED))
    def test_operator_of_one_namespace_may_not_elsewhere(
        self, api: client.ApiClient, release: str, namespace: str, verb: str, group: str, resource: str
    ) -> None:
        assert not may(api, operator(namespace), "default", verb, group, resource)

    def test_operator_reads_kuberays_crd_and_no_other(
        self, api: client.ApiClient, release: str, namespace: str
    ) -> None:
        kind = ("apiextensions.k8s.io", "customresourcedefinitions")
        assert may(api, operator(namespace), "", "get", *kind, name="rayjobs.ray.io")
        assert not may(api, operator(namespace), "", "get", *kind, name="dpojobs.dpojob.io")
        assert not may(api, operator(namespace), "", "list", *kind)


class TestUsers:
    def test_editor_manages_jobs(self, api: client.ApiClient, users: None, namespace: str) -> None:
        wait(
            lambda: may(api, "editor", namespace, "create", "dpojob.io", "dpojobs"),
            "the controller to aggregate dpojob-edit",
        )
        assert may(api, "editor", namespace, "delete", "dpojob.io", "dpojobs")
        assert not may(api, "editor", namespace, "patch", "dpojob.io", "dpojobs/status")
        assert not may(api, "editor", "default", "create", "dpojob.io", "dpojobs")

    def test_viewer_only_looks(self, api: client.ApiClient, users: None, namespace: str) -> None:
        wait(
            lambda: may(api, "viewer", namespace, "watch", "dpojob.io", "dpojobs"),
            "the controller to aggregate dpojob-view",
        )
        assert not may(api, "viewer", namespace, "create", "dpojob.io", "dpojobs")


class TestRunning:
    """With the real operator image."""

    def test_health_and_metrics_are_served(self, api: client.ApiClient, pod: Any, namespace: str) -> None:
        core = client.CoreV1Api(api)
        name = pod.metadata.name
        for path in ("healthz", "readyz"):
            assert core.connect_get_namespaced_pod_proxy_with_path(f"{name}:8081", namespace, path) == "ok\n"
        metrics = core.connect_get_namespaced_service_proxy_with_path(
            "under-test-dpojob-operator-metrics:8080", namespace, "metrics"
        )
        assert "python_info" in metrics
        assert 'dpojob_operator_api_calls_total{code="200",resource="dpojobs",verb="list"}' in metrics

    def test_job_is_reconciled_with_these_privileges(
        self, api: client.ApiClient, pod: Any, namespace: str
    ) -> None:
        jobs = client.CustomObjectsApi(api)
        jobs.create_namespaced_custom_object(**JOBS, namespace=namespace, body=JOB_WITHOUT_CLAIM)
        condition = wait(lambda: _stalled(jobs, namespace), "the job to be reported as stalled")
        assert condition["reason"] == "ClaimNotFound"
        log = client.CoreV1Api(api).read_namespaced_pod_log(pod.metadata.name, namespace)
        assert "orbidden" not in log
        assert "Traceback" not in log


def test_uninstall_leaves_nothing(cluster_helm: Any, api: client.ApiClient) -> None:
    for namespace in new_namespace(api):
        install(cluster_helm, api, "short-lived", namespace)
        cluster_helm.succeed("uninstall", "short-lived", "--namespace", namespace, "--wait")
        label = {"label_selector": "app.kubernetes.io/instance=short-lived"}
        rbac = client.RbacAuthorizationV1Api(api)
        left = [
            *client.AppsV1Api(api).list_namespaced_deployment(namespace, **label).items,
            *client.CoreV1Api(api).list_namespaced_service(namespace, **label).items,
            *client.CoreV1Api(api).list_namespaced_service_account(namespace, **label).items,
            *rbac.list_namespaced_role(namespace, **label).items,
            *rbac.list_cluster_role(**label).items,
            *rbac.list_cluster_role_binding(**label).items,
        ]
        assert [item.metadata.name for item in left] == []


JOB_WITHOUT_CLAIM = {
    "apiVersion": "dpojob.io/v1alpha1",
    "kind": "DPOJob",
    "metadata": {"name": "without-claim"},
    "spec": {
        "model": {"uri": "pvc://no-such-claim/model"},
        "dataset": {"uri": "pvc://no-such-claim/data.jsonl"},
        "accelerator": {"type": "v4-64"},
        "output": {"uri": "pvc://no-such-claim-either/out"},
    },
}


def operator(namespace: str) -> str:
    return f"system:serviceaccount:{namespace}:under-test-dpojob-operator"


def may(
    api: client.ApiClient, user: str, namespace: str, verb: str, group: str, resource: str, name: str = ""
) -> bool:
    """Ask the API server's authorizer."""
    kind, _, subresource = resource.partition("/")
    attributes = {
        "namespace": namespace,
        "verb": verb,
        "group": group,
        "resource": kind,
        "subresource": subresource,
        "name": name,
    }
    review = client.AuthorizationV1Api(api).create_subject_access_review(
        {"spec": {"user": user, "resourceAttributes": attributes}}
    )
    return bool(review.status.allowed)


def _missing(read: Callable[[], dict[str, Any]], owner: tuple[str, str]) -> str:
    """Say whether an object is missing, or there by this very release."""
    try:
        annotations = read().get("annotations") or {}
    except ApiException as error:
        if error.status == 404:
            return "true"
        raise
    found = (
        annotations.get("meta.helm.sh/release-name"),
        annotations.get("meta.helm.sh/release-namespace"),
    )
    return "true" if found == owner else "false"


def _crd(api: client.ApiClient) -> dict[str, Any]:
    definitions = client.ApiextensionsV1Api(api)
    metadata: dict[str, Any] = definitions.read_custom_resource_definition(
        "dpojobs.dpojob.io"
    ).metadata.to_dict()
    return metadata


def _ready_pod(core: client.CoreV1Api, namespace: str) -> Any:
    for pod in core.list_namespaced_pod(namespace).items:
        states = {c.type: c.status for c in pod.status.conditions or []}
        if states.get("Ready") == "True":
            return pod
    return None


def _log_tail(core: client.CoreV1Api, namespace: str) -> str:
    return "\n".join(
        core.read_namespaced_pod_log(pod.metadata.name, namespace, tail_lines=20)
        for pod in core.list_namespaced_pod(namespace).items
    )


def _stalled(jobs: client.CustomObjectsApi, namespace: str) -> dict[str, Any] | None:
    job = jobs.get_namespaced_custom_object(**JOBS, namespace=namespace, name="without-claim")
    conditions = job.get("status", {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == "Stalled" and c["status"] == "True"), None)
