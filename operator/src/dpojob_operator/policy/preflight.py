"""What must be there before a RayJob, and with it a slice, is asked for."""

from collections.abc import Iterator
from dataclasses import dataclass

from dpojob_api.reasons import OperatorReason
from dpojob_api.slice_spec import SecretKeyRef
from dpojob_api.uris import pvc_claim
from dpojob_api.v1alpha1 import DPOJob
from dpojob_operator.desired import rayjob, storage
from dpojob_operator.observed import Prerequisites
from dpojob_operator.policy import quota
from dpojob_operator.settings import Settings

ONE_POD = "ReadWriteOncePod"
WRITABLE = frozenset({"ReadWriteMany", "ReadWriteOnce", ONE_POD})


@dataclass(frozen=True)
class Problem:
    """Something outside the job that must be put right first."""

    reason: str
    message: str


def secret_refs(job: DPOJob) -> dict[str, SecretKeyRef]:
    """Return the Secret keys that a spec names, by field path."""
    spec = job.spec
    refs: dict[str, SecretKeyRef] = {}
    if spec.credentials.hugging_face:
        refs["spec.credentials.huggingFace"] = spec.credentials.hugging_face
    if spec.credentials.wandb:
        refs["spec.credentials.wandb"] = spec.credentials.wandb
    for i, variable in enumerate(spec.runtime.env or []):
        if variable.secret_key_ref:
            refs[f"spec.runtime.env[{i}].secretKeyRef"] = variable.secret_key_ref
    return refs


def secret_names(job: DPOJob) -> frozenset[str]:
    """Return every Secret that a spec names, pull secrets included."""
    named = {ref.name for ref in secret_refs(job).values()}
    return frozenset(named | set(job.spec.runtime.image_pull_secrets or []))


def trainer_image(job: DPOJob, settings: Settings) -> str | None:
    """Return the image that the attempt runs."""
    return job.spec.runtime.image or settings.trainer_image


def find_problem(job: DPOJob, found: Prerequisites, settings: Settings) -> Problem | None:
    """Return the first thing that is missing, None if an attempt can be made."""
    return next(problems(job, found, settings), None)


def problems(job: DPOJob, found: Prerequisites, settings: Settings) -> Iterator[Problem]:
    """Yield everything that is missing, the cluster's own shortcomings first."""
    yield from kuberay_problems(found)
    if trainer_image(job, settings) is None:
        yield Problem(
            OperatorReason.NO_TRAINER_IMAGE,
            "No trainer image: set spec.runtime.image, or install the operator with a default trainer image.",
        )
    yield from secret_problems(job, found)
    yield from object_problems(job, found)
    yield from output_problems(job, found)
    shortage = quota.find_shortage(job, found.quotas)
    if shortage is not None:
        yield Problem(
            OperatorReason.QUOTA_TOO_SMALL,
            f"{shortage}: raise it in namespace {job.metadata.namespace!r}, or create a new DPOJob that needs less.",
        )


def kuberay_problems(found: Prerequisites) -> Iterator[Problem]:
    """Yield what is wrong with KubeRay."""
    if found.rayjob_fields is None:
        yield Problem(
            OperatorReason.KUBERAY_NOT_INSTALLED,
            "The API server knows no RayJob (ray.io/v1): install KubeRay 1.6 or later.",
        )
        return
    missing = sorted(rayjob.REQUIRED_FIELDS - found.rayjob_fields)
    if missing:
        yield Problem(
            OperatorReason.KUBERAY_TOO_OLD,
            f"The RayJob CRD has no spec.{missing[0]}: upgrade KubeRay and its CRDs to 1.6 or later.",
        )


def secret_problems(job: DPOJob, found: Prerequisites) -> Iterator[Problem]:
    """Yield Secrets and keys that are not there; a Secret's values are never part of a message."""
    namespace = job.metadata.namespace
    for path, ref in secret_refs(job).items():
        keys = found.secrets.get(ref.name)
        if keys is None:
            yield Problem(
                OperatorReason.SECRET_NOT_FOUND,
                f"{path}: Secret {ref.name!r} does not exist in namespace {namespace!r}; create it with the key "
                f"{ref.key!r}.",
            )
        elif ref.key not in keys:
            have = ", ".join(sorted(keys)) or "none"
            yield Problem(
                OperatorReason.SECRET_KEY_NOT_FOUND,
                f"{path}: Secret {ref.name!r} has no key {ref.key!r} (keys: {have}); add it.",
            )
    for name in job.spec.runtime.image_pull_secrets or []:
        if found.secrets.get(name) is None:
            yield Problem(
                OperatorReason.SECRET_NOT_FOUND,
                f"spec.runtime.imagePullSecrets: Secret {name!r} does not exist in namespace {namespace!r}; create it.",
            )


def object_problems(job: DPOJob, found: Prerequisites) -> Iterator[Problem]:
    """Yield service accounts and claims that are not there."""
    namespace = job.metadata.namespace
    account = job.spec.runtime.service_account_name
    if account and not found.service_accounts.get(account):
        yield Problem(
            OperatorReason.SERVICE_ACCOUNT_NOT_FOUND,
            f"spec.runtime.serviceAccountName: ServiceAccount {account!r} does not exist in namespace {namespace!r}; "
            "create it.",
        )
    for claim in storage.claims(job.spec):
        modes = found.claims.get(claim)
        if modes is None:
            yield Problem(
                OperatorReason.CLAIM_NOT_FOUND,
                f"pvc://{claim}: PersistentVolumeClaim {claim!r} does not exist in namespace {namespace!r}; create it.",
            )
        elif modes == {ONE_POD}:
            yield Problem(
                OperatorReason.CLAIM_UNUSABLE,
                f"pvc://{claim}: PersistentVolumeClaim {claim!r} is for one pod ({ONE_POD}), and the head and all hosts "
                "mount it: create it with ReadWriteMany.",
            )


def output_problems(job: DPOJob, found: Prerequisites) -> Iterator[Problem]:
    """Yield why the output cannot be this job's to write, as far as that is known without access to it."""
    uri = job.spec.output.uri
    claim = pvc_claim(uri)
    modes = found.claims.get(claim) if claim is not None else None
    if modes and not modes & WRITABLE:
        yield Problem(
            OperatorReason.CLAIM_UNUSABLE,
            f"spec.output.uri: PersistentVolumeClaim {claim!r} can only be read ({', '.join(sorted(modes))}): create it "
            "with ReadWriteMany.",
        )
    if found.output_of is not None:
        yield Problem(
            OperatorReason.OUTPUT_SHARED,
            f"spec.output.uri: {uri} is also the folder of DPOJob {found.output_of}, which is older: delete that one, or "
            "create a new DPOJob with a folder of its own.",
        )
