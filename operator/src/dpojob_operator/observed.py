"""What is known about a job's children at one moment: frozen values, filled by ``observe``, read by pure functions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from dpojob_api.result import TrainerResult
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
    """Number of the host in its slice."""
    slice_index: int | None = None
    """Number of the slice, None where there is only one."""
    node: str | None = None
    ip: str | None = None
    phase: str = "Pending"
    created: datetime | None = None
    placed_at: datetime | None = None
    """When the scheduler gave it its node."""
    deleting: bool = False
    waiting: str | None = None
    """The kubelet's words on why a container cannot start."""
    unschedulable: str | None = None
    """The scheduler's words on why there is no node."""
    ended: Termination | None = None
    evicted: str | None = None
    """The kubelet's words on why it ended the whole pod."""
    disrupted: str | None = None
    """Kubernetes' reason for taking the pod away (condition DisruptionTarget)."""

    @property
    def holds_node(self) -> bool:
        """Whether nobody else can have what it has of its node."""
        return self.node is not None and self.phase not in ("Succeeded", "Failed")

    @property
    def place(self) -> tuple[int, int | None]:
        """Numbers of its slice and of the host in it."""
        return self.slice_index or 0, self.host_index

    @property
    def alive(self) -> bool:
        """Whether the Ray container runs and nobody has asked it to stop."""
        return self.phase == "Running" and self.ended is None and not self.deleting

    @property
    def starting(self) -> bool:
        """Whether no container has run yet and nobody has asked it to stop."""
        return self.phase == "Pending" and self.ended is None and not self.deleting


@dataclass(frozen=True)
class RayJobView:
    """The attempt's RayJob."""

    name: str
    owner_uid: str | None
    uid: str = ""
    created: datetime | None = None
    started: datetime | None = None
    """When KubeRay took it up; set anew when a suspended RayJob is resumed."""
    ended_at: datetime | None = None
    """When it ended, by KubeRay's clock."""
    deleting: bool = False
    suspended: bool = False
    stop_time: datetime | None = None
    """When the operator asked KubeRay to take the pods down, so that the trainer saves."""
    queue: str | None = None
    job_status: str = ""
    deployment_status: str = ""
    reason: str = ""
    message: str = ""

    @property
    def ended(self) -> bool:
        """Whether KubeRay has finished with it."""
        return self.deployment_status in ("Complete", "Failed", "ValidationFailed")


@dataclass(frozen=True)
class RayClusterView:
    """A RayCluster that an attempt of this job made."""

    name: str
    attempt: int | None
    deleting: bool = False
    created: datetime | None = None
    failure: str | None = None
    """KubeRay's words when the API server refuses its pods (ReplicaFailure)."""


@dataclass(frozen=True)
class WorkloadView:
    """Kueue's object for the attempt's RayJob."""

    name: str
    queue: str = ""
    position: int | None = None
    """Place among the Workloads of its namespace that wait in its queue, the next one being 1; None if not known."""
    active: bool = True
    reserved: bool = False
    """Whether it has quota."""
    pending: str = ""
    """Kueue's words on why it has none."""
    checks: str = ""
    """Kueue's words on admission checks that are not ready."""
    evicted: str = ""
    """Kueue's words on why it was evicted."""


@dataclass(frozen=True)
class CheckView:
    """A Job that comes before the slice, and its newest pod: the one that examines the data, or the one that plans."""

    name: str
    uid: str
    owner_uid: str | None
    created: datetime | None = None
    deleting: bool = False
    ended: datetime | None = None
    """When it was complete or had failed."""
    words: str = ""
    """Kubernetes' words on why it failed."""
    pod: PodView | None = None
    result: TrainerResult | None = None


@dataclass(frozen=True)
class ConfigMapView:
    """The attempt's ConfigMap."""

    owner_uid: str | None
    text: str | None


@dataclass(frozen=True)
class QuotaView:
    """A ResourceQuota that counts every pod of the namespace."""

    name: str
    hard: Mapping[str, str]


@dataclass(frozen=True)
class Prerequisites:
    """What the job refers to and does not make; a name that was not looked up is absent."""

    secrets: Mapping[str, frozenset[str] | None] = field(default_factory=dict)
    """Keys of each Secret, None if it does not exist."""
    service_accounts: Mapping[str, bool] = field(default_factory=dict)
    claims: Mapping[str, frozenset[str] | None] = field(default_factory=dict)
    """Access modes of each claim, None if it does not exist."""
    quotas: tuple[QuotaView, ...] = ()
    output_of: str | None = None
    """An older DPOJob, as namespace/name, that writes to the same folder."""
    rayjob_fields: frozenset[str] | None = None
    """Fields of RayJob.spec in the installed CRD, None if there is no such CRD."""
    kueue: bool = False
    """Whether Kueue is there; only looked up for a job with a queue."""


@dataclass(frozen=True)
class Scrape:
    """The trainer's metrics; `pairs` are counts by kind, None until the data has been examined."""

    progress: ProgressStatus
    final: FinalMetrics
    finished: bool
    pairs: Mapping[str, int] | None = None
    resumed_step: int | None = None
    """Step of the checkpoint that the attempt started from; None until it trains."""
    values: Mapping[str, float] = field(default_factory=dict)
    """Every metric that has one value, by name, if it is finite."""


@dataclass(frozen=True)
class Observed:
    """Everything that ``decide`` looks at beside the job itself."""

    attempt: int
    config_map: ConfigMapView | None = None
    ray_job: RayJobView | None = None
    old_ray_jobs: tuple[RayJobView, ...] = ()
    """RayJobs of earlier attempts of this job."""
    ray_clusters: tuple[RayClusterView, ...] = ()
    """RayClusters of all its attempts."""
    pods: tuple[PodView, ...] = ()
    """Pods of this attempt."""
    old_pods: tuple[str, ...] = ()
    """Names of pods of other attempts; they hold the slice until they are gone."""
    old_slice: bool = False
    """Whether one of those is a host that has a node."""
    prerequisites: Prerequisites | None = None
    scrape: Scrape | None = None
    workload: WorkloadView | None = None
    """Kueue's Workload while the RayJob is suspended."""
    check: CheckView | None = None
    """The Job that examines the data; only looked up while that is due."""
    planner: CheckView | None = None
    """The Job that plans the attempt; only looked up while that is due."""

    @property
    def head(self) -> PodView | None:
        """The head pod, if there is one."""
        return next((pod for pod in self.pods if pod.role == "head"), None)

    @property
    def hosts(self) -> tuple[PodView, ...]:
        """The host pods in the order of slice and host."""
        hosts = [pod for pod in self.pods if pod.role == "host"]

        def order(pod: PodView) -> tuple[int, int, str]:
            number, host = pod.place
            return number, host if host is not None else -1, pod.name

        return tuple(sorted(hosts, key=order))

    @property
    def holds_slice(self) -> bool:
        """Whether a host of any attempt is on a node."""
        return self.old_slice or any(pod.holds_node for pod in self.hosts)

    @property
    def slice_free(self) -> bool:
        """Whether nothing of any attempt is there or can come back."""
        return not (self.ray_clusters or self.pods or self.old_pods or self.live_ray_jobs)

    @property
    def live_ray_jobs(self) -> tuple[RayJobView, ...]:
        """RayJobs of earlier attempts that KubeRay may still act on."""
        return tuple(ray_job for ray_job in self.old_ray_jobs if not ray_job.ended)
