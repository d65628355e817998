"""``status.ledger``: folds what is observed of a job's attempts into chip-seconds by activity. Pure.

The ledger lives in the status and is a sum of closed intervals plus one open one (`activity` since `since`). A reconcile
closes the open interval when the activity changes, or when the status is written anyway; a status that is otherwise the
same is not written for it.

An interval belongs to the activity that was known at its beginning. That includes the time in which no operator ran: it
goes to the newest activity known before, up to the first moment that Kubernetes or KubeRay has kept a time of (the
RayJob was created, the first host got its node, a host or the run ended) and from there to what that moment stands for.
Since every interval begins where the one before has ended, the sum is the wall time of the attempts times the chips.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from dpojob_api.ledger import ACTIVITY_OF_PHASE, BEFORE_SLICE, Activity, ChipSeconds, LedgerStatus
from dpojob_api.status import AttemptStatus, DPOJobStatus
from dpojob_api.v1alpha1 import DPOJob, chips_of
from dpojob_operator.observed import Observed
from dpojob_operator.plan import FINAL, Plan, Stage

SECONDS_PER_HOUR = 3600
# What the trainer has told stays true while its metrics cannot be read.
TOLD = frozenset(ACTIVITY_OF_PHASE.values()) - {Activity.IDLE} | {Activity.LOST}
OVER = FINAL | {Stage.ENDING, Stage.RETRYING, Stage.LOST}


@dataclass(frozen=True)
class Switch:
    """From a time on the chips are there for something else; None if there are none and none are awaited."""

    time: datetime
    activity: Activity | None


def next_ledger(
    job: DPOJob, plan: Plan, observed: Observed, new: DPOJobStatus, now: datetime
) -> LedgerStatus | None:
    """Return the ledger after a reconcile; the old one if nothing has changed.

    Args:
        new: the status that is to be written, with the old ledger.
    """
    old = new.ledger
    switches = list(find_switches(job, plan, observed, new, now))
    activity = switches[-1].activity
    if old is None and activity is None and len(switches) == 1:
        return None
    if old is not None and old.activity == activity and new == job.status:
        return old
    return fold(old, switches, chips_of(job.spec))


def fold(old: LedgerStatus | None, switches: Iterable[Switch], chips: int) -> LedgerStatus:
    """Return a ledger with the time up to the last of some switches, which come in the order of what they stand for.

    A time before its predecessor's, as after a clock was set back, takes its predecessor's place: no second is counted
    twice.
    """
    switches = list(switches)
    spent = dict.fromkeys(Activity, 0)
    since, activity = switches[0].time, None
    if old is not None:
        since, activity = old.since, old.activity
        spent = {kind: old.chip_seconds.of(kind) for kind in Activity}
    for switch in switches:
        time = max(since, switch.time)
        if activity is not None:
            spent[activity] += round((time - since).total_seconds()) * chips
        since, activity = time, switch.activity
    return summed_up(ChipSeconds(**{kind.value: number for kind, number in spent.items()}), activity, since)


def summed_up(spent: ChipSeconds, activity: Activity | None, since: datetime) -> LedgerStatus:
    """Return a ledger with what follows from its chip-seconds."""
    total = spent.total
    return LedgerStatus(
        chip_seconds=spent,
        activity=activity,
        since=since,
        total=total,
        chip_hours=round(spent.used / SECONDS_PER_HOUR, 2),
        goodput=round(spent.training / total, 3) if total else None,
    )


def used(ledger: LedgerStatus | None, chips: int, now: datetime) -> int:
    """Return the chip-seconds for which a slice was held, those of the open interval included."""
    if ledger is None:
        return 0
    held = ledger.activity is not None and ledger.activity not in BEFORE_SLICE
    return ledger.chip_seconds.used + (open_chip_seconds(ledger, chips, now) if held else 0)


def open_chip_seconds(ledger: LedgerStatus, chips: int, now: datetime) -> int:
    """Return the chip-seconds of the open interval."""
    if ledger.activity is None:
        return 0
    return max(0, round((now - ledger.since).total_seconds())) * chips


def find_switches(
    job: DPOJob, plan: Plan, observed: Observed, new: DPOJobStatus, now: datetime
) -> Iterator[Switch]:
    """Yield what has changed since the last reconcile, as far as anybody has kept the time, then what is true now."""
    attempt = new.attempts[-1] if new.attempts else None
    if attempt is not None:
        old = next((a for a in job.status.attempts if a.number == attempt.number), None)
        if old is None or job.status.ledger is None:
            yield Switch(attempt.start_time, before_slice(observed))
        if attempt.slice_time is not None and (
            old is None or old.slice_time is None or job.status.ledger is None
        ):
            yield Switch(attempt.slice_time, Activity.STARTING)
        over = end_of_work(observed) if plan.stage in OVER else None
        if over is not None and (old is None or old.outcome == "Active"):
            yield Switch(min(over, now), Activity.IDLE)
    yield Switch(now, find_activity(job, plan, observed, new))


def end_of_work(observed: Observed) -> datetime | None:
    """Return when a run ended or lost its first host, None if nobody has kept it."""
    times = [pod.ended.finished_at for pod in observed.pods if pod.ended is not None]
    if observed.ray_job is not None and observed.ray_job.ended:
        times.append(observed.ray_job.ended_at)
    return min((time for time in times if time is not None), default=None)


def find_activity(job: DPOJob, plan: Plan, observed: Observed, new: DPOJobStatus) -> Activity | None:
    """Return what the chips are there for after a plan has been carried out."""
    attempt = new.attempts[-1] if new.attempts else None
    if plan.stage in FINAL:
        return None
    if attempt is None or attempt.outcome != "Active":
        return Activity.IDLE if observed.holds_slice else None
    if plan.stage is Stage.ENDING:
        return Activity.IDLE
    before = new.ledger.activity if new.ledger is not None else None
    if plan.stage is Stage.STOPPING:
        return while_stopping(attempt, before, observed)
    return while_active(attempt, before, observed, redo_until(new.attempts))


def while_stopping(attempt: AttemptStatus, before: Activity | None, observed: Observed) -> Activity:
    """Return what the chips of a run that was told to stop are there for: saving its step, if it had begun."""
    if attempt.slice_time is None:
        return before if before in BEFORE_SLICE else before_slice(observed)
    alive = any(pod.phase == "Running" and pod.ended is None for pod in observed.hosts)
    saves = before in TOLD - {Activity.STARTING}
    return Activity.CHECKPOINTING if saves and alive else Activity.IDLE


def while_active(attempt: AttemptStatus, before: Activity | None, observed: Observed, redo: int) -> Activity:
    """Return what the chips of an attempt are there for.

    Args:
        before: what they were there for until now.
        redo: the step that an earlier attempt had reached; what is trained before it is lost work.
    """
    scrape = observed.scrape
    if scrape is not None and scrape.progress.phase in ACTIVITY_OF_PHASE:
        told = ACTIVITY_OF_PHASE[scrape.progress.phase]
        return Activity.LOST if told is Activity.TRAINING and scrape.progress.step < redo else told
    placed = any(pod.node for pod in observed.hosts)
    if attempt.slice_time is None or (not placed and (before in BEFORE_SLICE or is_suspended(observed))):
        return before_slice(observed)
    return before if before is not None and before in TOLD else Activity.STARTING


def before_slice(observed: Observed) -> Activity:
    """Return what an attempt without a slice waits for."""
    return Activity.QUEUED if is_suspended(observed) else Activity.PROVISIONING


def is_suspended(observed: Observed) -> bool:
    """Return whether KubeRay must not start the attempt yet."""
    return observed.ray_job is not None and observed.ray_job.suspended


def redo_until(attempts: list[AttemptStatus]) -> int:
    """Return the last step that was seen of any attempt but the newest."""
    return max((attempt.to_step or 0 for attempt in attempts[:-1]), default=0)
