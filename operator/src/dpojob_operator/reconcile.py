"""The imperative shell: read a job, observe, decide, act, write the status once, tell what has changed."""

import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from pydantic import ValidationError

from dpojob_api.reasons import OperatorReason
from dpojob_api.status import Condition, DPOJobStatus
from dpojob_api.v1alpha1 import DPOJob, plan_of
from dpojob_operator import decide, freshness, history, kube, logs, pacing, planning, status, transitions
from dpojob_operator.desired import check, configmap, rayjob
from dpojob_operator.desired.planning import build_plan
from dpojob_operator.drafts import Drafts
from dpojob_operator.errors import ConflictError, ForbiddenError, InvalidError, KubeError, NotFoundError
from dpojob_operator.kube import Json, Key
from dpojob_operator.observe import Observer
from dpojob_operator.observed import Observed
from dpojob_operator.plan import (
    FINAL,
    STALLED_SECONDS,
    Action,
    Apply,
    Check,
    Create,
    Delete,
    Estimate,
    Kind,
    Plan,
    Stage,
    Stop,
)
from dpojob_operator.policy import guards, ttl
from dpojob_operator.settings import Settings
from dpojob_operator.views import Glance, StaleError, View

log = logging.getLogger(__name__)

CLEANUP_SECONDS = 5.0
INVALID_SECONDS = 300.0
RESOURCES: dict[Kind, kube.Resource] = {
    Kind.CONFIG_MAP: kube.CONFIGMAPS,
    Kind.RAY_JOB: kube.RAYJOBS,
    Kind.RAY_CLUSTER: kube.RAYCLUSTERS,
    Kind.CHECK: kube.JOBS,
    Kind.PLAN: kube.JOBS,
}


def utc_now() -> datetime:
    """Return the time in whole seconds, as Kubernetes keeps it."""
    return datetime.now(UTC).replace(microsecond=0)


class Reconciler:
    """Brings one job at a time closer to its desired state."""

    def __init__(
        self,
        api: kube.Kube,
        observer: Observer,
        settings: Settings,
        clock: Callable[[], datetime] = utc_now,
        told: Callable[[Key, DPOJobStatus | None], None] = lambda key, status: None,
        glance: Glance | None = None,
    ) -> None:
        """Take what a reconcile needs.

        Args:
            told: is called with a job's status after every reconcile, with None once the job is gone.
            glance: is looked at first; without it every reconcile reads everything from the API server.
        """
        self._api = api
        self._fresh = View(api, observer)
        self._settings = settings
        self._clock = clock
        self._told = told
        self._glance = glance
        self._drafts = Drafts()
        self._scraped: set[Key] = set()

    async def reconcile(self, key: Key) -> float | None:
        """Reconcile a job and return after how many seconds to look again, None if only after an event.

        Raises:
            KubeError: the API server did not answer as expected; the same reconcile may succeed later.
        """
        if self._glance is not None and self._glance.in_step:
            try:
                return await self._look(key, self._glance.view)
            except (StaleError, ConflictError) as error:
                log.debug("%s/%s: looking at the API server: %s", *key, error)
        return await self._look(key, self._fresh)

    async def _look(self, key: Key, view: View) -> float | None:
        try:
            written = await view.api.get(kube.DPOJOBS, *key)
        except NotFoundError:
            self._forget(key)
            return None
        if written["metadata"].get("deletionTimestamp"):
            return None
        body = self._drafts.apply(key, written)
        try:
            job = DPOJob.from_wire(body)
            plan_of(job.spec)
        except (ValidationError, ValueError) as error:
            return await self._invalid(body, error)
        if history.is_terminal(job.status):
            self._told(key, job.status)
            return await self._clean_up(job, view)
        return await self._advance(job, written, view)

    def _forget(self, key: Key) -> None:
        self._told(key, None)
        self._drafts.forget(key)
        self._scraped.discard(key)

    async def _advance(self, job: DPOJob, body: Json, view: View) -> float | None:
        observed = await view.observer.observe(job)
        logs.name_attempt(observed.attempt)
        plan = decide.decide(job, observed, self._settings, self._clock())
        if not view.fresh and freshness.needs_look(job, plan):
            await self._confirm_first(job, plan)
        plan = await self._carry_out(job, plan)
        if plan.stage is Stage.CREATED:
            # The RayJob itself says that it is made; jobs that still wait for theirs go first.
            return 0.0
        new = status.next_status(job, plan, observed, self._clock())
        held = await self._write(job.status, new, body)
        self._told((job.metadata.namespace, job.metadata.name), new)
        if guards.has_judged(job.status, new):
            return 0.0
        return CLEANUP_SECONDS if plan.stage in FINAL else self._pace(job, plan, observed, held)

    async def _confirm_first(self, job: DPOJob, plan: Plan) -> None:
        """Let the first attempt of a name that never had one be made: nothing of it can be left over.

        Raises:
            StaleError: it is another plan, or the job is not what the store has.
        """
        key = (job.metadata.namespace, job.metadata.name)
        if self._glance is None or not freshness.is_first(plan) or self._glance.has_made(key):
            raise StaleError(plan.reason)
        if self._glance.is_current(key[0]):
            return
        now = await self._api.get(kube.DPOJOBS, *key)
        if now["metadata"].get("resourceVersion") != job.metadata.resource_version:
            raise StaleError("the job has changed")

    def _pace(self, job: DPOJob, plan: Plan, observed: Observed, held: bool) -> float | None:
        key = (job.metadata.namespace, job.metadata.name)
        if pacing.is_scraped(observed):
            self._scraped.add(key)
        else:
            self._scraped.discard(key)
        if self._glance is None or not self._glance.in_step:
            return plan.requeue_after
        return pacing.next_look(plan, observed, len(self._scraped), self._glance.count(), held)

    async def _carry_out(self, job: DPOJob, plan: Plan) -> Plan:
        try:
            for action in plan.actions:
                await self._act(job, action)
        except (InvalidError, ForbiddenError) as error:
            log.warning("%s/%s: refused: %s", job.metadata.namespace, job.metadata.name, error)
            if isinstance(action, Estimate):
                return planning.refused(job, plan.attempt, str(error))
            return Plan(
                Stage.STALLED,
                plan.attempt,
                OperatorReason.RAYJOB_REJECTED,
                f"The API server refused the attempt's objects: {error}",
                requeue_after=STALLED_SECONDS,
            )
        return plan

    async def _act(self, job: DPOJob, action: Action) -> None:
        namespace = job.metadata.namespace
        match action:
            case Apply(attempt, absent):
                # If it is there after all, the conflict leads to another look: it may be somebody else's.
                write = self._api.create if absent else self._api.apply
                await write(kube.CONFIGMAPS, configmap.build_configmap(job, attempt))
            case Create(attempt, image, queued):
                await self._create(kube.RAYJOBS, rayjob.build_rayjob(job, attempt, image, queued))
            case Check(attempt, image):
                await self._create(kube.JOBS, check.build_check(job, attempt, image))
            case Estimate(attempt, image):
                await self._create(kube.JOBS, build_plan(job, attempt, image))
            case Stop(name, uid):
                log.info("%s/%s: stopping RayJob %s", namespace, job.metadata.name, name)
                body = rayjob.build_stop(uid, self._clock())
                await self._unless_gone(self._api.patch(kube.RAYJOBS, namespace, name, body))
            case Delete(kind, name, uid):
                log.info("%s/%s: deleting %s %s", namespace, job.metadata.name, kind.name, name)
                await self._unless_gone(self._api.delete(RESOURCES[kind], namespace, name, uid))

    async def _unless_gone(self, request: Awaitable[object]) -> None:
        """Change an object that was observed; another one of its name has its own reconcile."""
        try:
            await request
        except (NotFoundError, ConflictError) as error:
            log.info("it has changed: %s", error)
        except InvalidError as error:
            # That is what a patch with the uid of an earlier object of that name gets.
            if "metadata.uid" not in str(error):
                raise
            log.info("it has changed: %s", error)

    async def _create(self, resource: kube.Resource, body: Json) -> None:
        meta, kind = body["metadata"], body["kind"]
        try:
            await self._api.create(resource, body)
            log.info("%s/%s: created %s", meta["namespace"], meta["name"], kind)
        except ConflictError:
            # It exists since it was looked for; the next reconcile sees whose it is.
            log.info("%s/%s: %s exists already", meta["namespace"], meta["name"], kind)

    async def _clean_up(self, job: DPOJob, view: View) -> float | None:
        """Release the slice of a job that has ended; KubeRay does it for a RayJob that has."""
        self._scraped.discard((job.metadata.namespace, job.metadata.name))
        ray_job, clusters = await view.observer.leftovers(job)
        ours = ray_job is not None and ray_job.owner_uid == job.metadata.uid
        if ray_job is not None and ours and not ray_job.deleting and not ray_job.ended:
            await self._act(job, Delete(Kind.RAY_JOB, ray_job.name, ray_job.uid))
            return CLEANUP_SECONDS
        for cluster in clusters:
            if not cluster.deleting:
                await self._act(job, Delete(Kind.RAY_CLUSTER, cluster.name))
        if clusters or (ray_job is not None and ray_job.deleting):
            return CLEANUP_SECONDS
        return await self._expire(job)

    async def _expire(self, job: DPOJob) -> float | None:
        """Delete a job whose time after its end is over."""
        left = ttl.seconds_left(job, self._clock())
        if left is None or left > 0:
            return left
        meta = job.metadata
        log.info("%s/%s: deleted after ttlSecondsAfterFinished", meta.namespace, meta.name)
        await self._unless_gone(self._api.delete(kube.DPOJOBS, meta.namespace, meta.name, meta.uid))
        return None

    async def _write(self, old: DPOJobStatus, new: DPOJobStatus, body: Json) -> bool:
        """Write what has changed since the status was last written, or keep it for later; return whether it is kept."""
        key, now = kube.key_of(body), self._clock()
        if new == old and not self._drafts.has(key):
            return False
        written = DPOJobStatus.model_validate(body.get("status") or {})
        if self._drafts.holds(key, written, new, now):
            self._drafts.hold(key, body["metadata"]["resourceVersion"], new)
            return True
        patch = status.merge_patch(written.to_wire(), new.to_wire())
        await self._patch(patch, written.conditions, new.conditions, body)
        if patch:
            self._drafts.wrote(key, now)
        return False

    async def _patch(self, patch: Json, old: list[Condition], new: list[Condition], body: Json) -> None:
        if not patch:
            return
        meta = body["metadata"]
        # The version makes the server refuse a patch computed from a state that is no longer true.
        full = {"metadata": {"resourceVersion": meta["resourceVersion"]}, "status": patch}
        await self._api.patch_status(kube.DPOJOBS, meta["namespace"], meta["name"], full)
        for condition in transitions.transitions(old, new):
            await self._tell(body, condition)

    async def _tell(self, body: Json, condition: Condition) -> None:
        meta = body["metadata"]
        log.info(
            "%s/%s: %s %s: %s",
            meta["namespace"],
            meta["name"],
            condition.type,
            condition.reason,
            condition.message,
        )
        try:
            await self._api.create(kube.EVENTS, transitions.build_event(body, condition, self._clock()))
        except KubeError as error:
            log.warning("event not written: %s", error)

    async def _invalid(self, body: Json, error: ValueError) -> float | None:
        meta = body["metadata"]
        old = readable_conditions(body)
        if history.is_terminal(DPOJobStatus(conditions=old)):
            return None
        new = status.invalid_status(old, meta.get("generation", 1), explain(error), self._clock())
        wire = {"summary": status.SUMMARY[Stage.STALLED], "conditions": [c.to_wire() for c in new]}
        before = {key: (body.get("status") or {}).get(key) for key in wire}
        patch = {key: value for key, value in wire.items() if before[key] != value}
        await self._patch(patch, old, new, body)
        self._told((meta["namespace"], meta["name"]), DPOJobStatus(summary=status.SUMMARY[Stage.STALLED]))
        return INVALID_SECONDS


def readable_conditions(body: Json) -> list[Condition]:
    """Return the conditions of an object that cannot be read as a whole."""
    conditions = []
    for raw in (body.get("status") or {}).get("conditions") or []:
        try:
            conditions.append(Condition.model_validate(raw))
        except ValidationError:
            continue
    return conditions


def explain(error: ValueError) -> str:
    """Return what does not fit, by field path, at most three of them."""
    fix = "Upgrade the operator and its CRD to the same version, or create a corrected DPOJob."
    if not isinstance(error, ValidationError):
        return f"{error}. {fix}"
    found = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:3]]
    return f"{'; '.join(found)}. {fix}"
