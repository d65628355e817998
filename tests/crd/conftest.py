"""Admission by a real API server: the local cluster's, with this checkout's CRD applied to it.

Objects are created with server-side dry run, so nothing is left behind; the few tests that need a stored object have a
namespace of their own. A CRD that these tests brought along is deleted at the end, unless somebody uses it by then.
"""

import json
import time
import uuid
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

ROOT = Path(__file__).resolve().parents[2]
CRD_FILE = ROOT / "crds/dpojob.io_dpojobs.yaml"
CRD_NAME = "dpojobs.dpojob.io"
RESOURCE = {"group": "dpojob.io", "version": "v1alpha1", "plural": "dpojobs"}
NAMESPACE_PREFIX = "crd-tests-"
DEADLINE_SECONDS = 60

Manifest = dict[str, Any]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder as one that needs the cluster."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.cluster)


class Admission:
    """Asks the API server whether it would take an object."""

    def __init__(self, api: client.ApiClient) -> None:
        self.api = api
        self.objects = client.CustomObjectsApi(api)

    def create(self, body: Manifest, namespace: str = "default", **options: Any) -> Manifest:
        """Create for real and return what is stored."""
        stored: Manifest = self.objects.create_namespaced_custom_object(
            **RESOURCE, namespace=namespace, body=body, field_validation="Strict", **options
        )
        return stored

    def admit(self, body: Manifest) -> Manifest:
        """Return the object as the API server would store it."""
        return self.create(body, dry_run="All")

    def refuse(self, body: Manifest) -> "Refusal":
        """Return why the API server refuses the object."""
        with pytest.raises(ApiException) as caught:
            self.admit(body)
        return Refusal(caught.value)

    def edit(self, stored: Manifest, patch: Manifest, **options: Any) -> Manifest:
        """Merge-patch a stored object and return the result."""
        meta = stored["metadata"]
        changed: Manifest = self.objects.patch_namespaced_custom_object(
            **RESOURCE,
            namespace=meta["namespace"],
            name=meta["name"],
            body=patch,
            _content_type="application/merge-patch+json",
            **options,
        )
        return changed

    def get(self, path: str, accept: str = "application/json") -> Manifest:
        """Read any path of the API server."""
        call = self.api.param_serialize(
            "GET", path, header_params={"Accept": accept}, auth_settings=["BearerToken"]
        )
        answer: Manifest = json.loads(self.api.call_api(*call).read())
        return answer


class Refusal:
    """The API server's answer to a bad object."""

    def __init__(self, error: ApiException) -> None:
        self.status: int = error.status
        answer = json.loads(error.body)
        self.message: str = answer["message"]
        self.causes: list[tuple[str, str]] = [
            (cause.get("field", ""), cause.get("message", ""))
            for cause in answer.get("details", {}).get("causes", [])
        ]

    def names(self, field: str, fragment: str) -> bool:
        """Say whether one cause is about the field and holds the fragment."""
        return any(path == field and fragment in message for path, message in self.causes)


@pytest.fixture(scope="session")
def api_client(kubeconfig: Path) -> client.ApiClient:
    api = config.new_client_from_config(str(kubeconfig))
    try:
        client.VersionApi(api).get_code(_request_timeout=10)
    except HTTPError as error:
        pytest.fail(
            f"the cluster of {kubeconfig} does not answer ({error}); run make cluster-up", pytrace=False
        )
    return api


@pytest.fixture(scope="session")
def established_crd(api_client: client.ApiClient) -> Iterator[Manifest]:
    """Apply the CRD of this checkout and wait until the API server serves it."""
    definitions = client.ApiextensionsV1Api(api_client)
    was_there = _exists(definitions)
    definitions.patch_custom_resource_definition(
        CRD_NAME,
        yaml.safe_load(CRD_FILE.read_text()),
        field_manager="dpojob-crd-tests",
        force=True,
        _content_type="application/apply-patch+yaml",
    )
    yield _wait_established(definitions)
    if not was_there and not _jobs_of_others(api_client):
        definitions.delete_custom_resource_definition(CRD_NAME)
        _wait(lambda: not _exists(definitions), "the CRD to be deleted")


@pytest.fixture(scope="session")
def admission(api_client: client.ApiClient, established_crd: Manifest) -> Admission:
    return Admission(api_client)


@pytest.fixture(scope="session")
def namespace(api_client: client.ApiClient) -> Iterator[str]:
    """A namespace of this run, gone afterwards."""
    core = client.CoreV1Api(api_client)
    name = f"{NAMESPACE_PREFIX}{uuid.uuid4().hex[:8]}"
    core.create_namespace({"metadata": {"name": name}})
    yield name
    core.delete_namespace(name)


@pytest.fixture
def job() -> Callable[..., Manifest]:
    """Builder: a complete small DPOJob with changes by dotted path; the value ``None`` removes a field."""

    def build(changes: dict[str, Any] | None = None) -> Manifest:
        body = deepcopy(SMALLEST)
        for path, value in (changes or {}).items():
            _put(body, path.split("."), value)
        return body

    return build


# Its claims do not exist, so that an operator running on the same cluster starts nothing for a stored copy.
SMALLEST: Manifest = {
    "apiVersion": "dpojob.io/v1alpha1",
    "kind": "DPOJob",
    "metadata": {"name": "smallest"},
    "spec": {
        "model": {"uri": "pvc://no-such-claim/model"},
        "dataset": {"uri": "pvc://no-such-claim/data.jsonl"},
        "accelerator": {"type": "v4-64"},
        "output": {"uri": "pvc://no-such-claim-either/out"},
    },
}


def _put(node: Manifest, path: list[str], value: Any) -> None:
    *parents, last = path
    for key in parents:
        node = node.setdefault(key, {})
    if value is None:
        del node[last]
    else:
        node[last] = value


def _exists(definitions: client.ApiextensionsV1Api) -> bool:
    try:
        definitions.read_custom_resource_definition(CRD_NAME)
    except ApiException as error:
        if error.status == 404:
            return False
        raise
    return True


def _jobs_of_others(api: client.ApiClient) -> list[str]:
    items = client.CustomObjectsApi(api).list_cluster_custom_object(**RESOURCE)["items"]
    return [
        i["metadata"]["name"] for i in items if not i["metadata"]["namespace"].startswith(NAMESPACE_PREFIX)
    ]


def _wait_established(definitions: client.ApiextensionsV1Api) -> Manifest:
    def read() -> Manifest | None:
        crd = definitions.api_client.sanitize_for_serialization(
            definitions.read_custom_resource_definition(CRD_NAME)
        )
        states = {c["type"]: c["status"] for c in crd["status"].get("conditions") or []}
        return crd if states.get("Established") == "True" else None

    crd: Manifest = _wait(read, "the CRD to be established")
    # Established is set a moment before the endpoint answers, and an update needs a moment to be served.
    time.sleep(2)
    return crd


def _wait(probe: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        if value := probe():
            return value
        time.sleep(0.2)
    pytest.fail(f"waited {DEADLINE_SECONDS} s for {what}")
