"""Which kind of failure a reason is: what ``spec.retryPolicy`` and the operator's classification share."""

from dpojob_api.reasons import Documented, OperatorReason, TrainerReason


class FailureClass(Documented):
    """Kinds of ends without a result; each has its own budget of retries."""

    PREEMPTED = "Preempted", "The slice was taken away: spot reclaim, eviction, drain, SIGTERM."
    INFRASTRUCTURE = (
        "Infrastructure",
        "A host, the head, the network or a service failed; the job is not the cause.",
    )
    CAPACITY = "Capacity", "The slice could not be had in time."
    APPLICATION = (
        "Application",
        "The run itself failed. It is retried only if a newer checkpoint exists than the one it started from: "
        "otherwise the same would happen again.",
    )
    CONFIGURATION = (
        "Configuration",
        "Spec, data, model, credentials or image do not fit; only a change helps.",
    )
    FENCED = "Fenced", "A newer attempt owns the output."

    @property
    def field(self) -> str:
        """Name of the class in ``spec.retryPolicy``."""
        return self.value.lower()


Reason = OperatorReason | TrainerReason

CLASSES: dict[FailureClass, tuple[Reason, ...]] = {
    FailureClass.PREEMPTED: (TrainerReason.PREEMPTED,),
    FailureClass.INFRASTRUCTURE: (
        OperatorReason.HOST_LOST,
        OperatorReason.HEAD_LOST,
        OperatorReason.ATTEMPT_LOST,
        OperatorReason.PROGRESS_STALLED,
        TrainerReason.HOST_LOST,
        TrainerReason.SLICE_NOT_READY,
        TrainerReason.RATE_LIMITED,
        TrainerReason.DOWNLOAD_FAILED,
        TrainerReason.TRACKING_FAILED,
    ),
    FailureClass.CAPACITY: (OperatorReason.STARTUP_DEADLINE_EXCEEDED,),
    FailureClass.APPLICATION: (
        OperatorReason.TRAINER_CRASHED,
        OperatorReason.RESULT_MISSING,
        TrainerReason.OUTPUT_UNWRITABLE,
        TrainerReason.STOPPED_EARLY,
        TrainerReason.CHECKPOINT_FAILED,
        TrainerReason.EXPORT_FAILED,
        TrainerReason.INTERNAL,
    ),
    FailureClass.CONFIGURATION: (
        OperatorReason.RAYJOB_REJECTED,
        TrainerReason.CONFIG_INVALID,
        TrainerReason.MODEL_NOT_FOUND,
        TrainerReason.MODEL_UNSUPPORTED,
        TrainerReason.DATASET_NOT_FOUND,
        TrainerReason.DATASET_INVALID,
        TrainerReason.DATA_INVALID,
        TrainerReason.COLUMN_NOT_FOUND,
        TrainerReason.DATASET_EMPTY,
        TrainerReason.DATASET_TOO_SMALL,
        TrainerReason.NO_CHAT_TEMPLATE,
        TrainerReason.CREDENTIALS_MISSING,
        TrainerReason.OUTPUT_IN_USE,
        TrainerReason.HBM_EXHAUSTED,
        # A resumed run computes the same to the last bit.
        TrainerReason.NON_FINITE_LOSS,
        TrainerReason.REFERENCE_MISMATCH,
        TrainerReason.RESTORE_FAILED,
    ),
    FailureClass.FENCED: (TrainerReason.FENCED,),
}

CLASS_OF: dict[str, FailureClass] = {reason: kind for kind, reasons in CLASSES.items() for reason in reasons}


def class_of(reason: str) -> FailureClass:
    """Return a reason's class; what nobody has classified counts as the run's own failure."""
    return CLASS_OF.get(reason, FailureClass.APPLICATION)
