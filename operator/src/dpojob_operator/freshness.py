"""Which plans may rest on the store, whose state may be seconds old, and which need a look at the API server. Pure.

Only what is taken back by the next look may rest on the store: to go on waiting, to go on running, and the words for it.
An attempt is made, stopped or ended, and an object is changed, on what the API server says at that moment; pods are then
read before the RayJob again (see ``observe``).
"""

from dpojob_api.v1alpha1 import DPOJob
from dpojob_operator.plan import Plan, Stage
from dpojob_operator.status import summary_of

GOING_ON = frozenset({Stage.QUEUED, Stage.CHECKING, Stage.PLANNING, Stage.STARTING, Stage.RUNNING})
# Entered only after a look at what still holds the slice.
RELEASED = frozenset({Stage.BACKING_OFF, Stage.SUSPENDED})


def needs_look(job: DPOJob, plan: Plan) -> bool:
    """Return whether a plan that was made of the store must be made again of what the API server says."""
    if plan.actions or plan.failure is not None:
        return True
    if plan.stage in RELEASED:
        return job.status.summary != summary_of(plan)
    return plan.stage not in GOING_ON


def is_first(plan: Plan) -> bool:
    """Return whether a plan makes the first attempt of a job."""
    return plan.stage is Stage.CREATED and plan.attempt == 1
