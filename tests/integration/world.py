"""A namespace of a real cluster as the operator's integration tests see it: objects, and waiting with a deadline."""

import json
import time
from collections.abc import Callable
from typing import Any, TypeVar

from kubernetes import client
from kubernetes.client.exceptions import ApiException

from dpojob_api import constants
from tests.unit.operator_builders import deep_merge

Object = dict[str, Any]
T = TypeVar("T")

POLL_SECONDS = 0.25
# No node has this label, so hosts are never scheduled; the head finds no image. Nothing is taken from anybody.
ACCELERATOR = "v5p-16"
IMAGE = "localhost/absent:none"

PATHS = {
    "dpojobs": "/apis/dpojob.io/v1alpha1",
    "rayjobs": "/apis/ray.io/v1",
    "rayclusters": "/apis/ray.io/v1",
    "configmaps": "/api/v1",
    "resourcequotas": "/api/v1",
    "secrets": "/api/v1",
    "persistentvolumeclaims": "/api/v1",
    "serviceaccounts": "/api/v1",
    "pods": "/api/v1",
    "jobs": "/apis/batch/v1",
    "localqueues": "/apis/kueue.x-k8s.io/v1beta2",
    "workloads": "/apis/kueue.x-k8s.io/v1beta2",
    "events": "/api/v1",
}


class World:
    """The objects of one namespace."""

    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        self.api = api
        self.namespace = namespace

    def request(self, method: str, path: str, body: Object | None = None, patch: bool = False) -> Object:
        """Call the API server.

        Raises:
            ApiException: it does not answer with a success.
        """
        kind = "application/merge-patch+json" if patch else "application/json"
        headers = {"Content-Type": kind, "Accept": "application/json"}
        call = self.api.param_serialize(
            method, path, header_params=headers, body=body, auth_settings=["BearerToken"]
        )
        response = self.api.call_api(*call)
        text = response.read()
        if not 200 <= response.status < 300:
            raise ApiException(status=response.status, reason=text.decode()[:500])
        answer: Object = json.loads(text)
        return answer

    def path(self, plural: str, name: str = "") -> str:
        """Return the URL path of a kind or an object."""
        root = f"{PATHS[plural]}/namespaces/{self.namespace}/{plural}"
        return f"{root}/{name}" if name else root

    def create(self, plural: str, body: Object) -> Object:
        """Create an object."""
        return self.request("POST", self.path(plural), body)

    def find(self, plural: str, name: str) -> Object | None:
        """Return an object, None if it does not exist."""
        try:
            return self.request("GET", self.path(plural, name))
        except ApiException as error:
            if error.status == 404:
                return None
            raise

    def of_job(self, plural: str, job: str) -> list[Object]:
        """Return the objects of a kind that belong to a job."""
        selector = f"?labelSelector={constants.LABEL_JOB}%3D{job}"
        items: list[Object] = self.request("GET", self.path(plural) + selector)["items"]
        return items

    def delete(self, plural: str, name: str) -> None:
        """Delete an object if it exists."""
        try:
            self.request("DELETE", self.path(plural, name))
        except ApiException as error:
            if error.status != 404:
                raise

    def patch(self, plural: str, name: str, body: Object) -> Object:
        """Merge-patch an object."""
        return self.request("PATCH", self.path(plural, name), body, patch=True)

    def start(self, name: str, spec: Object | None = None, **meta: Any) -> Object:
        """Create a DPOJob whose pods can never start."""
        base: Object = {
            "model": {"uri": "hf://org/model"},
            "dataset": {"uri": "hf://org/data"},
            "accelerator": {"type": ACCELERATOR},
            "output": {"uri": f"gs://bucket/{name}"},
            "plan": {"enforce": "Off"},
            "runtime": {
                "image": IMAGE,
                "imagePullPolicy": "Never",
                "platform": "cpu",
                "head": {"resources": {"requests": {"cpu": "10m", "memory": "16Mi"}}},
                "host": {"resources": {"requests": {"cpu": "10m", "memory": "16Mi"}}},
            },
        }
        body = {
            "apiVersion": constants.API_VERSION,
            "kind": constants.KIND,
            "metadata": {"name": name, "namespace": self.namespace, **meta},
            "spec": deep_merge(base, spec or {}),
        }
        return self.create("dpojobs", body)

    def status(self, job: str) -> Object:
        """Return a job's status."""
        return (self.find("dpojobs", job) or {}).get("status") or {}

    def condition(self, job: str, kind: str) -> Object | None:
        """Return a job's condition, None if it is absent."""
        found = (c for c in self.status(job).get("conditions", []) if c["type"] == kind)
        return next(found, None)

    def wait(self, what: str, probe: Callable[[], T | None], seconds: float = 30) -> T:
        """Poll until something is there and return it.

        Raises:
            AssertionError: it was not there in time.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            value = probe()
            if value:
                return value
            time.sleep(POLL_SECONDS)
        jobs = self.request("GET", self.path("dpojobs"))["items"]
        picture = json.dumps({job["metadata"]["name"]: job.get("status") for job in jobs}, indent=1)
        raise AssertionError(f"{what}: not within {seconds:.0f} s; jobs are {picture}")

    def wait_reason(self, job: str, kind: str, reason: str, seconds: float = 30) -> Object:
        """Wait until a condition is True for a reason and return it."""

        def probe() -> Object | None:
            found = self.condition(job, kind)
            return found if found and (found["status"], found["reason"]) == ("True", reason) else None

        return self.wait(f"{job} {kind}={reason}", probe, seconds)

    def wait_pods(self, job: str, number: int) -> list[Object]:
        """Wait until a job has so many pods and return them."""

        def probe() -> list[Object] | None:
            pods = self.of_job("pods", job)
            return pods if len(pods) == number else None

        return self.wait(f"{number} pods of {job}", probe, 60)

    def wait_gone(self, plural: str, job: str, seconds: float = 60) -> None:
        """Wait until nothing of a kind belongs to a job."""
        self.wait(f"no {plural} of {job}", lambda: not self.of_job(plural, job), seconds)
