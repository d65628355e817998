"""The driver on the Ray head: preflight, slice, hosts, supervision, the final checks and the one line that counts."""

import json
import logging
import math
import os
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dpojob_api.constants import METRICS_PORT, OUTPUT_MODEL, OUTPUT_SUMMARY
from dpojob_api.reasons import TrainerReason
from dpojob_api.result import TrainerResult
from dpojob_api.spec import ExportFormat
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer import host, launchers, preflight, store, telling
from dpojob_trainer.board import Board
from dpojob_trainer.channel import Receiver
from dpojob_trainer.errors import TrainerError
from dpojob_trainer.exit_codes import ExitCode
from dpojob_trainer.launchers import Gang, Launcher
from dpojob_trainer.progress import Data, Evaluation, HostReport
from dpojob_trainer.report import publish, versions

log = logging.getLogger(__name__)

# Long enough for an operator that is just being replaced.
RECORD_SECONDS = 120.0
# After one host says that its peer is gone, Ray still names the one that died.
NAMING_SECONDS = 20.0
# After all processes have ended, their last words may still be on the way.
LAST_WORDS_SECONDS = 15.0

Join = Callable[[TrainerConfig], Launcher]


def drive(path: Path, port: int = METRICS_PORT) -> TrainerResult:
    """Run one attempt and return how it ended; nothing is raised.

    A run succeeds only if every host reports the last step with a finite loss and the model is there.
    """

    def attempt() -> TrainerResult:
        config = read_config(path)
        board = Board(telling.every(config.training.report_steps, telling.print_line))
        board.serve(port)
        return conclude(config, train(config, board, join_cluster), board)

    return result_of(attempt)


def check(path: Path) -> TrainerResult:
    """Examine the data of an attempt and return what became of it; nothing is raised."""
    return result_of(lambda: preflight.check_data(read_config(path), host.scratch() / "check"))


def plan(path: Path, seconds: float, tell: Callable[[TrainerResult], None]) -> TrainerResult:
    """Plan an attempt and return whether it fits; nothing is raised, and after `seconds` the process ends.

    Args:
        path: the ConfigMap's file.
        seconds: for all of it. The first half is for further changes, if the job does not fit.
        tell: takes a result that stands if the time is over before there is a better one.
    """
    told: list[TrainerResult] = []

    def keep(result: TrainerResult) -> None:
        told.append(result)
        tell(result)

    def end() -> None:
        if not told:
            words = f"the plan has not ended within {seconds:.0f} s; raise spec.plan.timeoutSeconds"
            tell(TrainerResult(reason=TrainerReason.INTERNAL, message=words))
        os._exit(ExitCode.FAILED)

    def attempt() -> TrainerResult:
        from dpojob_trainer.plan.attempt import plan_attempt

        return plan_attempt(read_config(path), host.scratch() / "plan", seconds / 2, keep)

    # The compiler cannot be interrupted.
    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        return result_of(attempt)
    finally:
        timer.cancel()


def result_of(attempt: Callable[[], TrainerResult]) -> TrainerResult:
    """Return how an attempt ended; no exception leaves it."""
    try:
        return attempt()
    except TrainerError as error:
        return error.result()
    except Exception as error:
        log.error("the attempt failed", exc_info=True)
        words = str(error).strip().splitlines()
        detail = f"{type(error).__name__}: {words[0] if words else 'no message'}"
        return TrainerResult(reason=TrainerReason.INTERNAL, message=detail)


def read_config(path: Path) -> TrainerConfig:
    """Read the ConfigMap's file and name this start of the attempt.

    Raises:
        TrainerError: ConfigInvalid, with the field.
    """
    try:
        config = TrainerConfig.model_validate_json(path.read_text())
        job = config.job.model_copy(update={"start": secrets.token_hex(8)})
        return config.model_copy(update={"job": job})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = f"{where}: {first['msg']}; use an operator and a trainer image of the same version"
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}"
    raise TrainerError(TrainerReason.CONFIG_INVALID, message)


def join_cluster(config: TrainerConfig) -> Launcher:
    """Join the RayJob's Ray; return the launcher that the job asks for."""
    import ray

    # In a RayJob the address comes from RAY_ADDRESS.
    ray.init(address="auto", log_to_driver=True, logging_level=logging.WARNING)
    return launchers.launcher_of(config.launcher)


def train(config: TrainerConfig, board: Board, join: Join) -> list[HostReport]:
    """Check, start the hosts and supervise them to their end.

    Args:
        join: joins a Ray and returns the launcher for it.

    Raises:
        TrainerError: any documented reason.
    """
    import ray

    report = preflight.check(config, host.scratch() / "driver")
    board.update(Data(report.by_kind()))
    launcher = join(config)
    with Receiver(ray.util.get_node_ip_address(), secrets.token_bytes(32)) as receiver:
        return launch(launcher, config, receiver, board)


def launch(launcher: Launcher, config: TrainerConfig, receiver: Receiver, board: Board) -> list[HostReport]:
    """Run the gang; whatever happens, it is stopped."""
    gang = launcher.launch(config, receiver.address)
    try:
        return supervise(gang, config.plan.hosts, receiver, board)
    finally:
        gang.stop()


def supervise(gang: Gang, hosts: int, receiver: Receiver, board: Board) -> list[HostReport]:
    """Take in what the hosts tell until all have reported; return the reports by rank.

    Raises:
        TrainerError: the first host's failure, or HostLost.
    """
    reports: dict[int, HostReport] = {}
    quiet_since: float | None = None
    while len(reports) < hosts:
        message = receiver.get(1.0)
        if message is None:
            gang.check()
            if gang.ended():
                quiet_since = quiet_since or time.monotonic()
                require_words(quiet_since, reports, hosts)
            continue
        match message.payload:
            case HostReport() as report:
                reports[message.rank] = report
            case TrainerResult() as result:
                raise name_the_lost(gang, receiver, failure_of(result))
            case event:
                board.update(event)
    return [reports[rank] for rank in sorted(reports)]


def require_words(quiet_since: float, reports: dict[int, HostReport], hosts: int) -> None:
    """Raise if processes have ended and some never said how."""
    if time.monotonic() - quiet_since > LAST_WORDS_SECONDS:
        silent = ", ".join(str(rank) for rank in range(hosts) if rank not in reports)
        raise TrainerError(TrainerReason.HOST_LOST, f"the process of host {silent} ended without a word")


def failure_of(result: TrainerResult) -> TrainerError:
    """Return a host's failure as an exception."""
    return TrainerError(result.reason, result.message, result.step)


def name_the_lost(gang: Gang, receiver: Receiver, error: TrainerError) -> TrainerError:
    """Return a failure, and for a broken connection the death that Ray reports as its cause, if it does in time."""
    if error.reason is not TrainerReason.HOST_LOST:
        return error
    deadline = time.monotonic() + NAMING_SECONDS
    while time.monotonic() < deadline:
        try:
            gang.check()
        except TrainerError as named:
            return TrainerError(named.reason, named.message, error.step)
        receiver.get(1.0)
    return error


def conclude(
    config: TrainerConfig,
    reports: list[HostReport],
    board: Board,
    record_seconds: float = RECORD_SECONDS,
) -> TrainerResult:
    """Check the result, write the summary, show it and wait until the operator has recorded it.

    Args:
        record_seconds: how long to wait at most; 0 where there is no operator.

    Raises:
        TrainerError: StoppedEarly, NonFiniteLoss, ExportFailed, OutputUnwritable or Fenced.
    """
    first = reports[0]
    out = store.output_of(config)
    require_complete(config, reports, out)
    found = summary(config, reports)
    out.write_text(OUTPUT_SUMMARY, json.dumps(found, indent=2) + "\n")
    publish(config, found, out)
    for step, numbers in sorted(first.evaluations.items()):
        board.keep(Evaluation(step, numbers))
    board.finish(first.step, first.total)
    recorded = board.wait_for_record(record_seconds) if record_seconds else None
    if recorded is False:
        log.info("the operator did not record the finished run within %.0f s", record_seconds)
    return TrainerResult(
        reason=TrainerReason.SUCCEEDED,
        message=f"{first.step} steps; results are in {config.output.uri}",
        step=first.step,
        recorded=None if recorded else recorded,
    )


def require_complete(config: TrainerConfig, reports: list[HostReport], out: store.OutputStore) -> None:
    """Raise unless every host did every step, the loss is finite and the model is written."""
    for report in reports:
        if report.step != report.total:
            raise TrainerError(
                TrainerReason.STOPPED_EARLY,
                f"host {report.rank} ended after {report.step} of {report.total} steps",
                report.step,
            )
        if report.last is not None and not math.isfinite(report.last["loss"]):
            raise TrainerError(
                TrainerReason.NON_FINITE_LOSS, f"the last loss is {report.last['loss']}", report.step
            )
    if config.output.export_format is not ExportFormat.NONE and not out.exists(f"{OUTPUT_MODEL}/config.json"):
        raise TrainerError(
            TrainerReason.EXPORT_FAILED, f"{config.output.uri}/{OUTPUT_MODEL} is not there after the export"
        )


def summary(config: TrainerConfig, reports: list[HostReport]) -> dict[str, Any]:
    """Return what summary.json holds: final numbers, versions, seconds per phase, memory per host."""
    first = reports[0]
    return {
        "job": config.job.to_wire(),
        "step": first.step,
        "totalSteps": first.total,
        "resumedFrom": first.resumed_from,
        "train": first.last,
        "evaluations": {str(step): numbers for step, numbers in sorted(first.evaluations.items())},
        "data": first.data,
        "seconds": {name: round(value, 3) for name, value in first.seconds.items()},
        "peakRssMib": [round(report.peak_rss_bytes / 2**20) for report in reports],
        "hosts": [report.host for report in reports],
        "versions": versions(),
        "lineage": first.lineage,
        "samples": first.samples,
        "matchesPlan": first.matches_plan,
    }
