"""What a reconcile is to do and to tell: the values that ``decide`` returns."""

from dataclasses import dataclass
from enum import Enum, auto

from dpojob_operator.policy.failure import Failure

POLL_SECONDS = 5.0
"""While a run is observed; the trainer leaves its last numbers up for 20 s."""
STALLED_SECONDS = 15.0
CLEANING_SECONDS = 3.0


class Stage(Enum):
    """Where a job's newest attempt stands."""

    STALLED = auto()
    CLEANING = auto()
    BACKING_OFF = auto()
    SUSPENDED = auto()
    QUEUED = auto()
    CHECKING = auto()
    PLANNING = auto()
    CREATED = auto()
    STARTING = auto()
    RUNNING = auto()
    ENDING = auto()
    STOPPING = auto()
    STOPPED = auto()
    LOST = auto()
    RETRYING = auto()
    FAILED = auto()
    SUCCEEDED = auto()


FINAL = frozenset({Stage.FAILED, Stage.SUCCEEDED})


class Kind(Enum):
    """Kinds of objects that a plan touches."""

    CONFIG_MAP = auto()
    RAY_JOB = auto()
    RAY_CLUSTER = auto()
    CHECK = auto()
    PLAN = auto()


@dataclass(frozen=True)
class Apply:
    """Bring the attempt's ConfigMap to its desired state."""

    attempt: int
    absent: bool = False
    """Whether there is none, so that it can be created, which costs the API server less."""


@dataclass(frozen=True)
class Create:
    """Create the attempt's RayJob."""

    attempt: int
    image: str
    queued: bool = False


@dataclass(frozen=True)
class Check:
    """Create the Job that examines the data."""

    attempt: int
    image: str


@dataclass(frozen=True)
class Estimate:
    """Create the Job that plans the attempt."""

    attempt: int
    image: str


@dataclass(frozen=True)
class Stop:
    """Have KubeRay take the pods of a RayJob down, which lets the trainer save first."""

    name: str
    uid: str


@dataclass(frozen=True)
class Delete:
    """Delete a child; with a uid only the object that was observed."""

    kind: Kind
    name: str
    uid: str | None = None


Action = Apply | Create | Check | Estimate | Stop | Delete


@dataclass(frozen=True)
class Plan:
    """What to do, what to tell and when to look again."""

    stage: Stage
    attempt: int
    reason: str
    message: str
    actions: tuple[Action, ...] = ()
    requeue_after: float | None = POLL_SECONDS
    failure: Failure | None = None
    """Why the attempt has ended or is ending; reason and message tell it unless the job goes on."""
