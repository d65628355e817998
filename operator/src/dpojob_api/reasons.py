"""Every condition type and reason, each documented; ``docs/reference/conditions.md`` is generated from here."""

from enum import StrEnum
from typing import Final


class Documented(StrEnum):
    """A word together with the sentence that explains it."""

    doc: str

    def __new__(cls, value: str, doc: str) -> "Documented":
        member = str.__new__(cls, value)
        member._value_ = value
        member.doc = doc
        return member


class ConditionType(Documented):
    """Types of ``status.conditions``."""

    COMPLETE = (
        "Complete",
        "True once the run has finished, been checked and its model has been written. Final.",
    )
    FAILED = "Failed", "True once the job has ended without a result. Final."
    RUNNING = "Running", "True while the trainer runs on all hosts of the slice."
    DATA_VALID = (
        "DataValid",
        "True once the pairs have been examined and accepted, with their counts; False if they were refused. Absent before.",
    )
    FITS_HBM = (
        "FitsHBM",
        "True if the job fits the memory of its chips by its plan (spec.plan), False if it does not, Unknown if the plan came to "
        "nothing; the message has the numbers. Absent before.",
    )
    PLAN_DRIFT = (
        "PlanDrift",
        "True if the run is not what was planned: another step, or steps of another duration; the job goes on. Only present "
        "while True.",
    )
    RECONCILING = (
        "Reconciling",
        "True while the operator is bringing an attempt up or down; only present while True.",
    )
    QUEUED = (
        "Queued",
        "True while Kueue holds the RayJob back; the message has Kueue's words. Only present while True.",
    )
    SUSPENDED = (
        "Suspended",
        "True while spec.suspend or a guard holds the job and no slice is held; only present while True.",
    )
    STALLED = (
        "Stalled",
        "True while something outside the job must be put right first; the job goes on by itself then. Also True beside Failed: "
        "of a job that has failed, kstatus (Flux) looks at nothing else. Only present while True.",
    )
    DISCOURAGED = (
        "Discouraged",
        "True if the specification has a value that is allowed and seldom right; the job goes on. Only present while True.",
    )


class OperatorReason(Documented):
    """Reasons that the operator finds."""

    ATTEMPT_CREATED = "AttemptCreated", "The RayJob of the attempt exists and KubeRay has not started it yet."
    WAITING_FOR_PODS = (
        "WaitingForPods",
        "Pods of the attempt are not ready; the message repeats the scheduler's or the kubelet's words.",
    )
    QUEUED = "Queued", "Kueue has not admitted the RayJob yet; the message has its words."
    CHECKING_DATA = (
        "CheckingData",
        "A Job examines the data before a slice is asked for (dataset.gate.preflight).",
    )
    DATA_CHECK_FAILED = (
        "DataCheckFailed",
        "The Job that examines the data ended without a verdict; the message has its end. It is tried again.",
    )
    PLANNING = (
        "Planning",
        "A Job finds out whether the slice's memory is enough before the slice is asked for (spec.plan).",
    )
    PLAN_FITS = "PlanFits", "By the plan the job fits; the message has the bytes and the time of a step."
    DOES_NOT_FIT_HBM = (
        "DoesNotFitHBM",
        "By the plan the job needs more memory than a chip has; the message has the smallest change tried that fits. Create a "
        "new DPOJob with it, or set spec.plan.enforce to Warn to start all the same.",
    )
    PLAN_UNKNOWN = (
        "PlanUnknown",
        "The plan came to nothing; the message says why. With spec.plan.enforce Require it is tried again; set it to Warn to "
        "start without.",
    )
    STEP_DIFFERS = (
        "StepDiffers",
        "The step that the trainer lowered is not the one that was planned, so the plan's numbers may not hold.",
    )
    STEP_TIME_DRIFT = (
        "StepTimeDrift",
        "The mean duration of the steps is more than a quarter away from status.plan.stepSeconds.",
    )
    EVICTED_BY_KUEUE = (
        "EvictedByKueue",
        "Kueue took the slice back, e.g. for a job of higher priority. The hosts may save their step, and the next attempt "
        "queues.",
    )
    BACKING_OFF = (
        "BackingOff",
        "An attempt has ended and another one follows; the message says why, and when.",
    )
    RELEASING_SLICE = "ReleasingSlice", "Pods of an earlier attempt still hold the slice."
    SUSPENDING = (
        "Suspending",
        "spec.suspend is true: the hosts have been told to stop and may save their step before the slice is released.",
    )
    SUSPENDED = "Suspended", "spec.suspend is true and no slice is held. Set it to false to go on."
    DEADLINE_EXCEEDED = "DeadlineExceeded", "The job took longer than spec.activeDeadlineSeconds."
    BUDGET_EXCEEDED = (
        "BudgetExceeded",
        "The job was stopped before it used more than spec.budget.chipHours; its checkpoints are kept.",
    )
    PROGRESS_STALLED = (
        "ProgressStalled",
        "Neither step nor phase changed for spec.progress.stallSeconds, or the metrics could not be read for that long.",
    )
    REWARD_ACCURACY_LOW = (
        "RewardAccuracyLow",
        "The policy does not prefer the chosen completions (spec.guards.rewardAccuracy). Look at the data and the learning "
        "rate.",
    )
    CHOSEN_LOG_PROB_COLLAPSED = (
        "ChosenLogProbCollapsed",
        "The chosen completions have become unlikely (spec.guards.chosenLogProb). Lower training.learningRate or raise "
        "dpo.beta.",
    )
    LENGTH_DRIFT = (
        "LengthDrift",
        "The policy prefers completions for their length (spec.guards.lengthDrift). Balance the lengths of the pairs, raise "
        "dpo.beta or lower training.learningRate.",
    )
    GRAD_NORM_SPIKE = (
        "GradientNormSpike",
        "The gradient norm stays far above what it was (spec.guards.gradNorm). Lower training.learningRate or "
        "training.clipGradNorm.",
    )
    TRAINING = "Training", "The trainer runs; progress is in status.progress."
    DATA_ACCEPTED = (
        "DataAccepted",
        "The trainer examined the pairs and goes on; the message has their counts.",
    )
    FINISHED = "Finished", "The trainer ended well and its final step, loss and output were checked."
    NOT_RUNNING = "NotRunning", "No trainer is running."
    NOT_FINISHED = "NotFinished", "The job has not ended."
    SECRET_NOT_FOUND = (
        "SecretNotFound",
        "A Secret named in the spec does not exist. Create it in the job's namespace.",
    )
    SECRET_KEY_NOT_FOUND = (
        "SecretKeyNotFound",
        "A Secret has no such key. Add the key or create a new DPOJob that names the right one.",
    )
    SERVICE_ACCOUNT_NOT_FOUND = (
        "ServiceAccountNotFound",
        "runtime.serviceAccountName does not exist. Create it in the job's namespace.",
    )
    CLAIM_NOT_FOUND = (
        "ClaimNotFound",
        "A PersistentVolumeClaim named by a pvc:// URI does not exist. Create it in the job's namespace.",
    )
    CLAIM_UNUSABLE = (
        "ClaimUnusable",
        "A PersistentVolumeClaim is for one pod, or that of output.uri can only be read. Create it with ReadWriteMany.",
    )
    OUTPUT_SHARED = (
        "OutputShared",
        "An older DPOJob writes to the same output.uri. Delete it or create a new DPOJob with a folder of its own.",
    )
    QUOTA_TOO_SMALL = (
        "QuotaTooSmall",
        "A ResourceQuota of the namespace is smaller than one attempt. Raise it or create a new DPOJob that needs less.",
    )
    KUBERAY_NOT_INSTALLED = (
        "KubeRayNotInstalled",
        "The API server knows no RayJob. Install KubeRay 1.6 or later.",
    )
    KUBERAY_TOO_OLD = (
        "KubeRayTooOld",
        "The RayJob CRD lacks a field that is used. Upgrade KubeRay and its CRDs to 1.6 or later.",
    )
    NO_TRAINER_IMAGE = (
        "NoTrainerImage",
        "Neither runtime.image nor the operator's default trainer image is set.",
    )
    LOW_PRECISION_PARAMETERS = (
        "LowPrecisionParameters",
        "precision.params is not float32, and at the learning rates of DPO most updates round to nothing.",
    )
    INVALID_SPEC = (
        "InvalidSpec",
        "The object does not fit this operator's version of the contract; the CRD and the operator differ in version.",
    )
    NAME_CONFLICT = (
        "NameConflict",
        "An object with the attempt's name exists and belongs to something else. Delete it or rename the job.",
    )
    RAYJOB_REJECTED = (
        "RayJobRejected",
        "The API server or KubeRay refused the RayJob; the message repeats its words.",
    )
    ATTEMPT_LOST = "AttemptLost", "The attempt's RayJob was deleted by somebody else."
    STARTUP_DEADLINE_EXCEEDED = (
        "StartupDeadlineExceeded",
        "The pods did not come up within runtime.startupDeadlineSeconds; the message says what they waited for.",
    )
    HOST_LOST = "HostLost", "A host pod or its container ended during the run."
    HEAD_LOST = "HeadLost", "The head pod ended, and with it the driver."
    TRAINER_CRASHED = (
        "TrainerCrashed",
        "The driver ended without saying why; the message has the last telling line of its log.",
    )
    RESULT_MISSING = "ResultMissing", "The RayJob succeeded, but the trainer never reported a checked result."
    TOO_MANY_ATTEMPTS = "TooManyAttempts", "The job has used all attempt numbers. Create a new DPOJob."


class TrainerReason(Documented):
    """Reasons that the trainer ends with; the operator copies them into the Failed condition."""

    SUCCEEDED = "Succeeded", "All steps done, the loss finite, the model written."
    CONFIG_INVALID = (
        "ConfigInvalid",
        "The configuration does not fit the trainer image; operator and image differ in version.",
    )
    MODEL_NOT_FOUND = (
        "ModelNotFound",
        "The model URI or revision does not exist or is not in Hugging Face layout. Correct model.uri or model.revision.",
    )
    MODEL_UNSUPPORTED = "ModelUnsupported", "EasyDeL has no such architecture, or a tensor does not fit it."
    DATASET_NOT_FOUND = "DatasetNotFound", "The data set URI, revision or split does not exist."
    DATASET_INVALID = "DatasetInvalid", "The data set cannot be read, or rows are not preference pairs."
    DATA_INVALID = (
        "DataInvalid",
        "The data set does not keep a bound of dataset.gate; the message names the field, the number and the fix.",
    )
    COLUMN_NOT_FOUND = (
        "ColumnNotFound",
        "A column of dataset.columns does not exist; the message lists those that do.",
    )
    DATASET_EMPTY = "DatasetEmpty", "No usable pair is left."
    DATASET_TOO_SMALL = "DatasetTooSmall", "There are fewer pairs than one global batch."
    NO_CHAT_TEMPLATE = "NoChatTemplate", "The data is conversational and the tokenizer has no chat template."
    CREDENTIALS_MISSING = (
        "CredentialsMissing",
        "The repository or bucket is not public, and the token or service account is missing or has no access. Name a "
        "Secret in credentials, or grant the service account access.",
    )
    RATE_LIMITED = "RateLimited", "The Hub refused with 429 after all retries."
    DOWNLOAD_FAILED = "DownloadFailed", "A download broke off after all retries."
    OUTPUT_UNWRITABLE = (
        "OutputUnwritable",
        "output.uri cannot be written. Grant write access, mount the claim read-write or make room; the message says which.",
    )
    FENCED = (
        "Fenced",
        "A newer attempt of the job has taken over output.uri, so this one may not write any more. Nothing is to be done: "
        "the newer one goes on from the last checkpoint.",
    )
    OUTPUT_IN_USE = "OutputInUse", "output.uri holds another job's results."
    SLICE_NOT_READY = "SliceNotReady", "Ray did not see all hosts of the slice in time."
    HOST_LOST = "HostLost", "A host's process died or left; with one host gone the slice cannot go on."
    HBM_EXHAUSTED = (
        "HBMExhausted",
        "The model does not fit into the memory of a device or of a host; the message lists what to change, the cheapest "
        "first.",
    )
    NON_FINITE_LOSS = (
        "NonFiniteLoss",
        "The loss or the gradient norm became NaN or infinite. Lower training.learningRate.",
    )
    REFERENCE_MISMATCH = (
        "ReferenceMismatch",
        "The loss of step 1 is not the one of a policy that equals its reference, so the two differ in weights or in "
        "computation; the message has both numbers.",
    )
    STOPPED_EARLY = "StoppedEarly", "Training returned before its last step."
    PREEMPTED = (
        "Preempted",
        "A host was told to stop (SIGTERM: spot reclaim, suspend, drain); the state was saved and the next attempt goes on there.",
    )
    RESTORE_FAILED = "RestoreFailed", "Checkpoints exist and none of them could be restored."
    CHECKPOINT_FAILED = "CheckpointFailed", "A checkpoint could not be written."
    EXPORT_FAILED = "ExportFailed", "The tuned model could not be written."
    TRACKING_FAILED = "TrackingFailed", "Weights & Biases could not be reached or refused the key."
    INTERNAL = (
        "Internal",
        "The trainer ended with an error of another kind. Report it with the message and the log.",
    )


# What a trainer ends with when the pairs themselves are refused.
DATA_REASONS: Final = frozenset(
    {
        TrainerReason.DATASET_INVALID,
        TrainerReason.DATA_INVALID,
        TrainerReason.COLUMN_NOT_FOUND,
        TrainerReason.DATASET_EMPTY,
        TrainerReason.DATASET_TOO_SMALL,
        TrainerReason.NO_CHAT_TEMPLATE,
    }
)
