"""A job that has a Job of its own before its first attempt, lived up to its RayJob on the stand-in of a cluster."""

import contextlib

import httpx
from tests.unit import operator_builders as b
from tests.unit.stand_in import KEY, Killed, StandIn

from dpojob_api.status import DPOJobStatus
from dpojob_operator import kube
from dpojob_operator.observe import Observer
from dpojob_operator.reconcile import Reconciler


async def started(spec, name, complete, pod, kill_at=None):
    """Live a job up to its RayJob with the operator killed at one point of its calls, and return the cluster.

    Args:
        spec: what has the job wait for the Job.
        name: the Job's.
        complete: the condition with which it ends as soon as it is made.
        pod: gives its pod's body by the Job's uid.
        kill_at: the call, None for none.
    """
    world = StandIn({}, spec)
    world.kill_at = kill_at
    async with httpx.AsyncClient(transport=httpx.MockTransport(world.metrics)) as http:
        for _ in range(12):
            reconciler = Reconciler(world, Observer(world, http), b.SETTINGS, lambda: world.now)
            with contextlib.suppress(Killed):
                await reconciler.reconcile(KEY)
            made = world.objects.get((kube.JOBS, name))
            if made and "status" not in made:
                made["status"] = {"conditions": [complete]}
                world.put(kube.PODS, pod(made["metadata"]["uid"]))
            if "j-a1" in world.created and DPOJobStatus.model_validate(world.job["status"]).attempt == 1:
                break
    return world
