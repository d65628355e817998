"""The operator's port to the API server: a few verbs over the official client's connection, without its models.

Calls run in threads, so the event loop never waits for the network. Every failure is one of ``errors``.
"""

import asyncio
import json
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlencode

import urllib3
from kubernetes import client, config

from dpojob_api import constants
from dpojob_operator import metrics
from dpojob_operator.errors import NotFoundError, TransientError, error_for

Json = dict[str, Any]

TIMEOUT = (5.0, 30.0)
"""Seconds to connect and to read."""
METHODS = {
    "get": "GET",
    "list": "GET",
    "apply": "PATCH",
    "create": "POST",
    "delete": "DELETE",
    "patch": "PATCH",
    "patch status": "PATCH",
}
SERVICE_ACCOUNT_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


@dataclass(frozen=True)
class Resource:
    """A kind that the API server serves."""

    api_version: str
    plural: str

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """Return the URL path of a collection, an object or a subresource."""
        root = "/api/" if "/" not in self.api_version else "/apis/"
        parts = [self.api_version]
        if namespace is not None:
            parts += ["namespaces", namespace]
        parts += [part for part in (self.plural, name, subresource) if part]
        return root + "/".join(quote(part, safe="/") for part in parts)


DPOJOBS = Resource(constants.API_VERSION, constants.PLURAL)
RAYJOBS = Resource("ray.io/v1", "rayjobs")
RAYCLUSTERS = Resource("ray.io/v1", "rayclusters")
WORKLOADS = (
    Resource("kueue.x-k8s.io/v1beta2", "workloads"),
    Resource("kueue.x-k8s.io/v1beta1", "workloads"),
)
"""Kueue's objects by its API versions, newest first."""
CONFIGMAPS = Resource("v1", "configmaps")
PODS = Resource("v1", "pods")
SECRETS = Resource("v1", "secrets")
SERVICE_ACCOUNTS = Resource("v1", "serviceaccounts")
CLAIMS = Resource("v1", "persistentvolumeclaims")
QUOTAS = Resource("v1", "resourcequotas")
JOBS = Resource("batch/v1", "jobs")
EVENTS = Resource("v1", "events")
CRDS = Resource("apiextensions.k8s.io/v1", "customresourcedefinitions")


class Kube(Protocol):
    """What the reconciler needs of the API server. Every method raises ``errors.KubeError``."""

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Json:
        """Return an object."""

    async def list(self, resource: Resource, namespace: str | None, selector: str = "") -> list[Json]:
        """Return the objects that a label selector matches."""

    async def apply(self, resource: Resource, body: Json) -> Json:
        """Apply an object on the server's side, taking over fields that others have set."""

    async def create(self, resource: Resource, body: Json) -> Json:
        """Create an object."""

    async def delete(self, resource: Resource, namespace: str, name: str, uid: str | None = None) -> None:
        """Delete an object with what it owns, with a uid only that one; no error if it is gone."""

    async def patch(self, resource: Resource, namespace: str, name: str, patch: Json) -> Json:
        """Merge a patch into an object."""

    async def patch_status(self, resource: Resource, namespace: str, name: str, patch: Json) -> Json:
        """Merge a patch into an object's status."""


def load_configuration() -> client.Configuration:
    """Return the connection of the pod's service account, or of the kubeconfig outside a cluster.

    Raises:
        kubernetes.config.ConfigException: there is neither.
    """
    configuration = client.Configuration()
    if SERVICE_ACCOUNT_TOKEN.exists():
        config.load_incluster_config(client_configuration=configuration)
    else:
        config.load_kube_config(client_configuration=configuration)
    configuration.connection_pool_maxsize = 16
    return configuration


class ApiServer:
    """The port over a real API server."""

    def __init__(self, configuration: client.Configuration) -> None:
        self._client = client.ApiClient(configuration)

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Json:
        """Return an object."""
        return await self._call("get", resource, resource.path(namespace, name))

    async def list(self, resource: Resource, namespace: str | None, selector: str = "") -> list[Json]:
        """Return the objects that a label selector matches."""
        query = {"labelSelector": selector} if selector else {}
        items: list[Json] = (await self._call("list", resource, resource.path(namespace), query)).get(
            "items", []
        )
        return items

    async def apply(self, resource: Resource, body: Json) -> Json:
        """Apply an object on the server's side, taking over fields that others have set."""
        meta = body["metadata"]
        query = {"fieldManager": constants.FIELD_MANAGER, "force": "true"}
        path = resource.path(meta["namespace"], meta["name"])
        return await self._call("apply", resource, path, query, body, "application/apply-patch+yaml")

    async def create(self, resource: Resource, body: Json) -> Json:
        """Create an object."""
        query = {"fieldManager": constants.FIELD_MANAGER}
        return await self._call("create", resource, resource.path(body["metadata"]["namespace"]), query, body)

    async def delete(self, resource: Resource, namespace: str, name: str, uid: str | None = None) -> None:
        """Delete an object with what it owns, with a uid only that one; no error if it is gone."""
        options: Json = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid:
            options["preconditions"] = {"uid": uid}
        try:
            await self._call("delete", resource, resource.path(namespace, name), {}, options)
        except NotFoundError:
            return

    async def patch(self, resource: Resource, namespace: str, name: str, patch: Json) -> Json:
        """Merge a patch into an object."""
        query = {"fieldManager": constants.FIELD_MANAGER}
        path = resource.path(namespace, name)
        return await self._call("patch", resource, path, query, patch, "application/merge-patch+json")

    async def patch_status(self, resource: Resource, namespace: str, name: str, patch: Json) -> Json:
        """Merge a patch into an object's status."""
        query = {"fieldManager": constants.FIELD_MANAGER}
        path = resource.path(namespace, name, "status")
        return await self._call("patch status", resource, path, query, patch, "application/merge-patch+json")

    async def _call(
        self,
        verb: str,
        resource: Resource,
        path: str,
        query: dict[str, str] | None = None,
        body: Json | None = None,
        content_type: str = "application/json",
    ) -> Json:
        send = partial(self._request, METHODS[verb], path, query, body, content_type)
        begun, status = time.monotonic(), None
        try:
            status, text = await asyncio.to_thread(send)
        finally:
            metrics.count_call(verb, resource.plural, status, time.monotonic() - begun)
        return answer(METHODS[verb], path, status, text)

    def _request(
        self, method: str, path: str, query: dict[str, str] | None, body: Json | None, content_type: str
    ) -> tuple[int, bytes]:
        headers = {"Accept": "application/json", "Content-Type": content_type}
        # The hook behind this refreshes the service account's token, which the kubelet rotates.
        self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        url = self._client.configuration.host + path + ("?" + urlencode(query) if query else "")
        try:
            response = self._client.call_api(method, url, headers, body, _request_timeout=TIMEOUT)
            return response.status, response.read()
        except (client.ApiException, urllib3.exceptions.HTTPError, OSError) as error:
            raise TransientError(f"{method} {path}: {type(error).__name__}: {error}") from error


def answer(method: str, path: str, status: int, text: bytes) -> Json:
    """Return the object in an answer.

    Raises:
        KubeError: the status is not a success.
    """
    try:
        body = json.loads(text) if text else {}
    except ValueError:
        body = {}
    if not isinstance(body, dict):
        body = {}
    if 200 <= status < 300:
        return body
    raise error_for(status, body.get("message") or f"{method} {path} failed")
