"""``python -m dpojob_trainer``: the trainer image's commands."""

import argparse
import logging
import os
import sys
from pathlib import Path

from dpojob_api.constants import CONFIG_PATH, METRICS_PORT
from dpojob_api.result import TrainerResult
from dpojob_trainer import stopping
from dpojob_trainer.exit_codes import ExitCode, exit_code


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m dpojob_trainer", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    drive = commands.add_parser("drive", help="run one attempt from the Ray head (the RayJob's entrypoint)")
    drive.add_argument(
        "--config", type=Path, default=Path(CONFIG_PATH), help="the trainer's configuration, JSON"
    )
    drive.add_argument(
        "--metrics-port", type=int, default=METRICS_PORT, help="port of the Prometheus endpoint"
    )
    check = commands.add_parser("check", help="examine the data on the CPU, before workers are asked for")
    check.add_argument(
        "--config", type=Path, default=Path(CONFIG_PATH), help="the trainer's configuration, JSON"
    )
    check.add_argument("--result", type=Path, help="also write the last line there, within 4 KiB")
    plan = commands.add_parser("plan", help="find out whether the job fits its slice, before it is asked for")
    plan.add_argument(
        "--config", type=Path, default=Path(CONFIG_PATH), help="the trainer's configuration, JSON"
    )
    plan.add_argument("--result", type=Path, help="also write the last line there, within 4 KiB")
    plan.add_argument("--seconds", type=float, default=600.0, help="end after so long")
    commands.add_parser("stop", help="let the run in this pod save and end (Kubernetes' preStop)")
    local = commands.add_parser("local", help="run one attempt in this process, on CPU, without Ray")
    local.add_argument("--config", type=Path, required=True, help="the trainer's configuration, JSON")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run a command; the last line printed is the result, the exit code says whether it is a success."""
    args = arguments(argv)
    if args.command == "stop":
        return 0 if stopping.stop() and stopping.listens() else 1
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("absl").setLevel(logging.WARNING)
    result = run(args)
    sys.stderr.flush()
    print(result.to_line(), flush=True)
    write_result(getattr(args, "result", None), result)
    code = ExitCode.UNRECORDED if result.recorded is False else exit_code(result.reason)
    if args.command == "drive":
        # Ray's threads print hosts' logs and may be inside a call that its shutdown crashes; the result was the last word.
        os._exit(code)
    return code


def write_result(file: Path | None, result: TrainerResult) -> None:
    """Write a result to where Kubernetes reads a container's last words."""
    if file is not None:
        file.write_text(result.to_short_line() + "\n")


def run(args: argparse.Namespace) -> TrainerResult:
    """Run the command that the arguments name."""
    if args.command == "local":
        from dpojob_trainer.local import run_local

        return run_local(args.config)
    from dpojob_trainer.driver import check, drive, plan

    if args.command == "check":
        return check(args.config)
    if args.command == "plan":
        return plan(args.config, args.seconds, lambda result: write_result(args.result, result))
    with stopping.announced(stopping.DRIVER):
        return drive(args.config, args.metrics_port)


if __name__ == "__main__":
    sys.exit(main())
