"""What is known about a job's children at one moment: frozen values, filled by ``observe``, read by pure functions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from dpojob_api.status import FinalMetrics, ProgressStatus


@dataclass(frozen=True)
class Termination:
    """How a container ended."""

    container: str
    exit_code: int | None
    reason: str
    message: str
    finished_at: datetime | None


@dataclass(frozen=True)
class PodView:
    """A head or host pod of the attempt."""

    name: str
    role: str
    host_index: int | None = None
    node: str | None = None
    ip: str | None = None
    phase: str = "Pending"
    created: datetime | None = None
    deleting: bool = False
    waiting: str | None = None
    """The kubelet's words on why a container cannot start."""
    unschedulable: str | None = None
    """The scheduler's words on why there is no node."""
    ended: Termination | None = None
    evicted: str | None = None
    """The kubelet's words on why it ended the whole pod."""

    @property
    def alive(self) -> bool:
        """Whether the Ray container runs and nobody has asked it to stop."""
        return self.phase == "Running" and self.ended is None and not self.deleting


@dataclass(frozen=True)
class RayJobView:
    """The attempt's RayJob."""

    name: str
    owner_uid: str | None
    created: datetime | None = None
    started: datetime | None = None
    """When KubeRay took it up; set anew when a suspended RayJob is resumed."""
    deleting: bool = False
    suspended: bool = False
    queue: str | None = None
    job_status: str = ""
    deployment_status: str = ""
    reason: str = ""
    message: str = ""


@dataclass(frozen=True)
class RayClusterView:
    """A RayCluster that an attempt of this job made."""

    name: str
    attempt: int | None
    deleting: bool = False
    failure: str | None = None
    """KubeRay's words when the API server refuses its pods (ReplicaFailure)."""


@dataclass(frozen=True)
class ConfigMapView:
    """The attempt's ConfigMap."""

    owner_uid: str | None
    text: str | None


@dataclass(frozen=True)
class Prerequisites:
    """What the job refers to and does not make; a name that was not looked up is absent."""

    secrets: Mapping[str, frozenset[str] | None] = field(default_factory=dict)
    """Keys of each Secret, None if it does not exist."""
    service_accounts: Mapping[str, bool] = field(default_factory=dict)
    claims: Mapping[str, bool] = field(default_factory=dict)
    rayjob_fields: frozenset[str] | None = None
    """Fields of RayJob.spec in the installed CRD, None if there is no such CRD."""


@dataclass(frozen=True)
class Scrape:
    """The trainer's metrics; `pairs` are counts by kind, None until the data has been examined."""

    progress: ProgressStatus
    final: FinalMetrics
    finished: bool
    pairs: Mapping[str, int] | None = None


@dataclass(frozen=True)
class Observed:
    """Everything that ``decide`` looks at beside the job itself."""

    attempt: int
    config_map: ConfigMapView | None = None
    ray_job: RayJobView | None = None
    ray_clusters: tuple[RayClusterView, ...] = ()
    pods: tuple[PodView, ...] = ()
    """Pods of this attempt."""
    old_pods: tuple[str, ...] = ()
    """Names of pods of other attempts; they hold the slice until they are gone."""
    prerequisites: Prerequisites | None = None
    scrape: Scrape | None = None

    @property
    def head(self) -> PodView | None:
        """The head pod, if there is one."""
        return next((pod for pod in self.pods if pod.role == "head"), None)

    @property
    def hosts(self) -> tuple[PodView, ...]:
        """The host pods in the order of their index."""
        hosts = [pod for pod in self.pods if pod.role == "host"]
        return tuple(
            sorted(hosts, key=lambda pod: (pod.host_index if pod.host_index is not None else -1, pod.name))
        )
