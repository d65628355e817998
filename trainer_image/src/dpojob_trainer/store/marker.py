"""The marker file that says whose an output folder is."""

import json

from dpojob_api.constants import OUTPUT_CHECKPOINTS, OUTPUT_METRICS, OUTPUT_MODEL, OUTPUT_SUMMARY
from dpojob_api.reasons import TrainerReason
from dpojob_trainer.errors import TrainerError

MARKER = ".dpojob.json"
RESULTS = (OUTPUT_CHECKPOINTS, OUTPUT_MODEL, OUTPUT_METRICS, OUTPUT_SUMMARY)
FIX = "Give every DPOJob an output.uri of its own, or delete that folder if its results are not needed."


def marker_text(job_uid: str, job_name: str) -> str:
    """Return the marker's content."""
    return json.dumps({"job": job_name, "uid": job_uid}, indent=2) + "\n"


def check_marker(uri: str, text: str, job_uid: str, job_name: str) -> None:
    """Make sure that a marker is this job's.

    Raises:
        TrainerError: OutputInUse, naming the other job.
    """
    try:
        found = json.loads(text)
        uid, name = found["uid"], found["job"]
    except (ValueError, KeyError, TypeError) as error:
        raise TrainerError(
            TrainerReason.OUTPUT_IN_USE, f"{uri} has a file {MARKER} that is not a DPOJob's. {FIX}"
        ) from error
    if uid == job_uid:
        return
    whose = f"DPOJob {name} (uid {uid})"
    earlier = ", an earlier job of this name" if name == job_name else ""
    raise TrainerError(TrainerReason.OUTPUT_IN_USE, f"{uri} holds the results of {whose}{earlier}. {FIX}")


def check_unmarked(uri: str, names: list[str]) -> None:
    """Refuse a folder that has results and no marker: a run would resume from them or overwrite them.

    Raises:
        TrainerError: OutputInUse, naming the results.
    """
    if found := [name for name in RESULTS if name in names]:
        raise TrainerError(
            TrainerReason.OUTPUT_IN_USE,
            f"{uri} already has {', '.join(found)} and no {MARKER} that says whose. {FIX}",
        )
