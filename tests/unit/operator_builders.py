"""Builders of test values for the operator's unit tests: a job, its status and what is observed of it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from dpojob_api.ledger import Activity, ChipSeconds, LedgerStatus
from dpojob_api.status import AttemptStatus, Condition, DPOJobStatus, FinalMetrics, ProgressStatus
from dpojob_api.v1alpha1 import DPOJob
from dpojob_operator.desired import configmap, rayjob
from dpojob_operator.observed import (
    ConfigMapView,
    Observed,
    PodView,
    Prerequisites,
    RayClusterView,
    RayJobView,
    Scrape,
    Termination,
)
from dpojob_operator.settings import Settings

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
SETTINGS = Settings(trainer_image="example.test/trainer:1")
UID = "uid-1"


def deep_merge(base: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Return base with more laid over it."""
    merged = dict(base)
    for key, value in more.items():
        old = merged.get(key)
        merged[key] = deep_merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def make_job(spec: dict[str, Any] | None = None, status: DPOJobStatus | None = None, **meta: Any) -> DPOJob:
    """Return a job on a v4-16 slice (two hosts of four chips)."""
    base = {
        "model": {"uri": "hf://org/model"},
        "dataset": {"uri": "hf://org/data"},
        "accelerator": {"type": "v4-16"},
        "training": {"globalBatchSize": 8},
        "output": {"uri": "gs://bucket/run"},
        "plan": {"enforce": "Off"},
    }
    body = {
        "apiVersion": "dpojob.io/v1alpha1",
        "kind": "DPOJob",
        "metadata": {"name": "j", "namespace": "ns", "uid": UID, "generation": 3, **meta},
        "spec": deep_merge(base, spec or {}),
    }
    job = DPOJob.from_wire(body)
    return job.model_copy(update={"status": status}) if status else job


def make_attempt(number: int = 1, outcome: str = "Active", **fields: Any) -> AttemptStatus:
    """Return an attempt that was created a minute ago."""
    return AttemptStatus.model_validate(
        {
            "number": number,
            "ray_job": f"j-a{number}",
            "outcome": outcome,
            "start_time": NOW - timedelta(minutes=1),
            **fields,
        }
    )


def make_condition(
    kind: str, status: str = "True", reason: str = "X", message: str = "m", ago: int = 30
) -> Condition:
    """Return a condition whose status flipped so many seconds ago."""
    time = NOW - timedelta(seconds=ago)
    return Condition.model_validate(
        {
            "type": kind,
            "status": status,
            "reason": reason,
            "message": message,
            "last_transition_time": time,
            "observed_generation": 3,
        }
    )


def active(*conditions: Condition, **fields: Any) -> DPOJobStatus:
    """Return the status of a job with one active attempt."""
    return DPOJobStatus(attempt=1, attempts=[make_attempt(**fields)], conditions=list(conditions))


def running(**fields: Any) -> DPOJobStatus:
    """Return the status of a job whose trainer has run for half a minute."""
    return active(make_condition("Running"), **fields)


def make_ledger(used: int = 0, activity: Activity | None = None, ago: int = 0) -> LedgerStatus:
    """Return a ledger with chip-seconds of a held slice and an interval that was opened so many seconds ago."""
    since = NOW - timedelta(seconds=ago)
    return LedgerStatus(chip_seconds=ChipSeconds(starting=used), activity=activity, since=since, total=used)


def make_pod(role: str = "host", index: int | None = 0, **fields: Any) -> PodView:
    """Return a pod that runs and is five minutes old."""
    base = PodView(
        name=f"{role}-{index if role == 'host' else 0}",
        role=role,
        host_index=index if role == "host" else None,
        node="node-0",
        ip="10.0.0.1",
        phase="Running",
        created=NOW - timedelta(minutes=5),
    )
    return replace(base, **fields)


def make_pods(*changes: PodView) -> tuple[PodView, ...]:
    """Return a head and two hosts, some of them replaced."""
    pods = {pod.name: pod for pod in (make_pod("head", None), make_pod(index=0), make_pod(index=1))}
    pods |= {pod.name: pod for pod in changes}
    return tuple(pods.values())


def make_ray_job(deployment: str = "Running", job: str = "RUNNING", **fields: Any) -> RayJobView:
    """Return the first attempt's RayJob."""
    base = RayJobView(
        name="j-a1",
        owner_uid=UID,
        created=NOW - timedelta(minutes=5),
        started=NOW - timedelta(minutes=5),
        job_status=job,
        deployment_status=deployment,
    )
    return replace(base, **fields)


def all_there(**fields: Any) -> Prerequisites:
    """Return prerequisites of a job that refers to nothing but KubeRay."""
    return Prerequisites(**{"rayjob_fields": rayjob.REQUIRED_FIELDS, **fields})


def observe(job: DPOJob, **fields: Any) -> Observed:
    """Return an observed running attempt with the desired ConfigMap."""
    base = Observed(
        attempt=1,
        config_map=ConfigMapView(owner_uid=UID, text=configmap.config_text(job, 1)),
        ray_job=make_ray_job(),
        ray_clusters=(RayClusterView("j-a1-abcde", 1),),
        pods=make_pods(),
        scrape=make_scrape(),
    )
    return replace(base, **fields)


def nothing(**fields: Any) -> Observed:
    """Return what is observed before the first attempt."""
    return replace(Observed(attempt=1, prerequisites=all_there()), **fields)


def make_scrape(
    step: int = 12, finished: bool = False, resumed_step: int | None = None, **fields: Any
) -> Scrape:
    """Return a scrape of a run of 40 steps."""
    progress = ProgressStatus(
        phase=fields.pop("phase", "training"), step=step, total_steps=40, steps=f"{step}/40", **fields
    )
    final = FinalMetrics(step=step, eval_reward_margin=0.5)
    return Scrape(progress=progress, final=final, finished=finished, resumed_step=resumed_step)


def oom() -> Termination:
    """Return the end of a container that ran out of memory."""
    return Termination("ray-worker", 137, "OOMKilled", "", NOW)
