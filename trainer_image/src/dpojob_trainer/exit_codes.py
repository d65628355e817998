"""Exit codes of every command that checks or runs a job: what a script can go by, coarser than the reason."""

from enum import IntEnum

from dpojob_api.reasons import DATA_REASONS, TrainerReason

UNREACHED = frozenset(
    {
        TrainerReason.MODEL_NOT_FOUND,
        TrainerReason.DATASET_NOT_FOUND,
        TrainerReason.CREDENTIALS_MISSING,
        TrainerReason.RATE_LIMITED,
        TrainerReason.DOWNLOAD_FAILED,
    }
)


class ExitCode(IntEnum):
    """What a command ends with; ``INTERRUPTED`` is a shell's 128 + SIGINT.

    ``UNRECORDED`` is a driver's alone: the run is checked and written, but no operator was there to hear it. Of a job that
    fails Ray keeps the log's last lines, and with them the result; of one that succeeds it keeps nothing.
    """

    OK = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    UNREACHED = 4
    UNRECORDED = 5
    INTERRUPTED = 130


def exit_code(reason: TrainerReason) -> ExitCode:
    """Return the exit code of a run or a check that ended with a reason."""
    if reason is TrainerReason.SUCCEEDED:
        return ExitCode.OK
    if reason is TrainerReason.CONFIG_INVALID:
        return ExitCode.USAGE
    if reason in DATA_REASONS:
        return ExitCode.REFUSED
    return ExitCode.UNREACHED if reason in UNREACHED else ExitCode.FAILED
