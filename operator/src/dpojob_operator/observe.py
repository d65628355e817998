"""Reads a job's children, what it refers to and the trainer's metrics into one ``Observed``.

Pods are read before the RayJob: KubeRay writes a RayJob's end before it removes the pods, so pods that are missing
although the RayJob, read later, still runs are truly lost. The store keeps no such order, so a loss that it shows is looked
at again (see ``freshness``).
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import httpx

from dpojob_api import constants
from dpojob_api.v1alpha1 import DPOJob
from dpojob_operator import checking, history, kube, parse, planning, trainer_metrics
from dpojob_operator.desired import metadata, rayjob, storage
from dpojob_operator.desired.check import check_name
from dpojob_operator.desired.planning import plan_name
from dpojob_operator.errors import ForbiddenError, NotFoundError
from dpojob_operator.observed import (
    CheckView,
    Observed,
    PodView,
    Prerequisites,
    RayClusterView,
    RayJobView,
    Scrape,
)
from dpojob_operator.outputs import Outputs
from dpojob_operator.policy import preflight
from dpojob_operator.workloads import Workloads

log = logging.getLogger(__name__)

RAYJOB_CRD = "rayjobs.ray.io"
SCRAPE_TIMEOUT_SECONDS = 3.0
CRD_CACHE_SECONDS = 600.0

Json = dict[str, Any]


class Observer:
    """Observes jobs; keeps the RayJob CRD's field names, whose schema is a megabyte."""

    def __init__(self, api: kube.Reader, http: httpx.AsyncClient, outputs: Outputs | None = None) -> None:
        """Take what an observation needs.

        Args:
            outputs: tells who else writes where; without it nobody does.
        """
        self._api = api
        self._outputs = outputs or Outputs()
        self._http = http
        self._workloads = Workloads(api)
        self._fields: frozenset[str] | None = None
        self._fields_until = 0.0
        self._reading_fields = asyncio.Lock()

    async def observe(self, job: DPOJob) -> Observed:
        """Read everything that ``decide`` needs.

        Raises:
            KubeError: the API server does not answer or refuses a read.
        """
        attempt = history.attempt_number(job.status)
        namespace, name = job.metadata.namespace, metadata.attempt_name(job.metadata.name, attempt)
        pods = await self._pods(job)
        clusters = await self._clusters(job)
        ray_job_body, config_map_body = await asyncio.gather(
            found(self._api.get(kube.RAYJOBS, namespace, name)),
            found(self._api.get(kube.CONFIGMAPS, namespace, name)),
        )
        ray_job = parse.ray_job(ray_job_body) if ray_job_body else None
        ours = tuple(parse.pod(body) for body in pods if attempt_of(body) == attempt)
        others = [parse.pod(body) for body in pods if attempt_of(body) != attempt]
        return Observed(
            attempt=attempt,
            config_map=parse.config_map(config_map_body) if config_map_body else None,
            ray_job=ray_job,
            old_ray_jobs=await self._old_ray_jobs(job, attempt) if attempt > 1 else (),
            ray_clusters=clusters,
            pods=ours,
            old_pods=tuple(pod.name for pod in others),
            old_slice=any(pod.role == constants.ROLE_HOST and pod.holds_node for pod in others),
            prerequisites=await self._prerequisites(job) if ray_job is None else None,
            scrape=await self._scrape(ours, ray_job, recorded=job.status.final_metrics is not None),
            workload=await self._workloads.of(namespace, ray_job),
            check=await self._job_before(job, check_name, constants.LABEL_CHECK)
            if ray_job is None and checking.is_due(job)
            else None,
            planner=await self._job_before(job, plan_name, constants.LABEL_PLAN)
            if ray_job is None and planning.is_due(job)
            else None,
        )

    async def _job_before(self, job: DPOJob, named: Callable[[str], str], label: str) -> CheckView | None:
        namespace, name = job.metadata.namespace, job.metadata.name
        body = await found(self._api.get(kube.JOBS, namespace, named(name)))
        if body is None:
            return None
        pods = await self._api.list(kube.PODS, namespace, f"{label}={name}")
        return parse.check(body, pods)

    async def _old_ray_jobs(self, job: DPOJob, attempt: int) -> tuple[RayJobView, ...]:
        selector = f"{constants.LABEL_JOB}={job.metadata.name}"
        try:
            bodies = await self._api.list(kube.RAYJOBS, job.metadata.namespace, selector)
        except NotFoundError:
            return ()
        ours = [body for body in bodies if parse.controller_uid(body) == job.metadata.uid]
        return tuple(parse.ray_job(body) for body in ours if (attempt_of(body) or attempt) < attempt)

    async def leftovers(self, job: DPOJob) -> tuple[RayJobView | None, tuple[RayClusterView, ...]]:
        """Return what is left of an ended job's newest attempt."""
        if job.status.attempt is None:
            return None, ()
        name = metadata.attempt_name(job.metadata.name, job.status.attempt)
        body = await found(self._api.get(kube.RAYJOBS, job.metadata.namespace, name))
        view = parse.ray_job(body) if body else None
        return view, await self._clusters(job)

    async def _pods(self, job: DPOJob) -> list[Json]:
        selector = f"{constants.LABEL_JOB}={job.metadata.name}"
        return await self._api.list(kube.PODS, job.metadata.namespace, selector)

    async def _clusters(self, job: DPOJob) -> tuple[RayClusterView, ...]:
        selector = f"{constants.LABEL_JOB}={job.metadata.name}"
        try:
            bodies = await self._api.list(kube.RAYCLUSTERS, job.metadata.namespace, selector)
        except NotFoundError:
            return ()
        return tuple(parse.ray_cluster(body) for body in bodies if is_ours(job, body))

    async def _prerequisites(self, job: DPOJob) -> Prerequisites:
        namespace, account = job.metadata.namespace, job.spec.runtime.service_account_name
        secrets = await self._get_all(kube.SECRETS, namespace, preflight.secret_names(job))
        accounts = await self._get_all(kube.SERVICE_ACCOUNTS, namespace, [account] if account else [])
        claims = await self._get_all(kube.CLAIMS, namespace, storage.claims(job.spec))
        return Prerequisites(
            secrets={name: keys_of(body) for name, body in secrets.items()},
            service_accounts={name: body is not None for name, body in accounts.items()},
            claims={name: parse.access_modes(body) for name, body in claims.items()},
            quotas=parse.quotas(await self._quotas(namespace)),
            output_of=await self._older_writer(job),
            rayjob_fields=await self._rayjob_fields(),
            kueue=parse.LABEL_QUEUE in job.metadata.labels and await self._workloads.are_served(namespace),
        )

    async def _quotas(self, namespace: str) -> list[Json]:
        try:
            return await self._api.list(kube.QUOTAS, namespace)
        except ForbiddenError:
            log.warning("may not list ResourceQuotas; whether they are large enough is not checked")
            return []

    async def _older_writer(self, job: DPOJob) -> str | None:
        """Return the oldest DPOJob that writes where a job is to write; a job that has written has its folder."""
        for writer in self._outputs.before(job) if job.status.attempt is None else []:
            body = await found(self._api.get(kube.DPOJOBS, *writer.key))
            if body is None:
                self._outputs.forget(writer.key)
                continue
            self._outputs.see(body)
            if writer in self._outputs.before(job):
                return "/".join(writer.key)
        return None

    async def _get_all(
        self, resource: kube.Resource, namespace: str, names: Iterable[str]
    ) -> dict[str, Json | None]:
        return {name: await found(self._api.get(resource, namespace, name)) for name in sorted(names)}

    async def _rayjob_fields(self) -> frozenset[str] | None:
        async with self._reading_fields:
            if self._fields is None or time.monotonic() > self._fields_until:
                self._fields = await self._read_rayjob_fields()
                self._fields_until = time.monotonic() + CRD_CACHE_SECONDS
            return self._fields

    async def _read_rayjob_fields(self) -> frozenset[str] | None:
        try:
            body = await found(self._api.get(kube.CRDS, None, RAYJOB_CRD))
        except ForbiddenError:
            log.warning("may not read the CRD %s; its version is not checked", RAYJOB_CRD)
            return rayjob.REQUIRED_FIELDS
        return spec_fields(body) if body else None

    async def _scrape(
        self, pods: tuple[PodView, ...], ray_job: RayJobView | None, recorded: bool
    ) -> Scrape | None:
        head = next((pod for pod in pods if pod.role == constants.ROLE_HEAD), None)
        if head is None or not head.alive or head.ip is None or ray_job is None:
            return None
        if ray_job.deployment_status != "Running":
            return None
        host = f"[{head.ip}]" if ":" in head.ip else head.ip
        url = f"http://{host}:{constants.METRICS_PORT}{constants.METRICS_PATH}"
        headers = {constants.RECORDED_HEADER: "true"} if recorded else {}
        try:
            response = await self._http.get(url, headers=headers)
            return trainer_metrics.parse_scrape(response.text) if response.is_success else None
        except (httpx.HTTPError, ValueError) as error:
            log.debug("no metrics from %s: %s", head.name, error)
            return None


async def found(request: Awaitable[Json]) -> Json | None:
    """Return the object, None if it does not exist."""
    try:
        return await request
    except NotFoundError:
        return None


def keys_of(secret: Json | None) -> frozenset[str] | None:
    """Return a Secret's keys; its values go no further."""
    return None if secret is None else frozenset(secret.get("data") or {})


def attempt_of(body: Json) -> int | None:
    """Return the attempt that a pod belongs to."""
    return parse.parse_int(parse.labels_of(body).get(constants.LABEL_ATTEMPT))


def is_ours(job: DPOJob, cluster: Json) -> bool:
    """Return whether KubeRay made a RayCluster for an attempt of this job; a label alone is anybody's to set."""
    labels = parse.labels_of(cluster)
    attempt = parse.parse_int(labels.get(constants.LABEL_ATTEMPT))
    origin = labels.get(parse.LABEL_ORIGIN)
    return attempt is not None and origin == metadata.attempt_name(job.metadata.name, attempt)


def spec_fields(crd: Json) -> frozenset[str]:
    """Return the names of the fields of ``spec`` in the CRD's v1 schema; none if v1 is not served."""
    for version in crd.get("spec", {}).get("versions", []):
        if version.get("name") == "v1" and version.get("served"):
            schema = version.get("schema", {}).get("openAPIV3Schema", {})
            return frozenset(schema.get("properties", {}).get("spec", {}).get("properties", {}))
    return frozenset()
