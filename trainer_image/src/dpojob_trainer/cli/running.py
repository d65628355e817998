"""``dpojob run``: manifest and folders first, then the run with a live bar or JSON lines, then the one line that counts."""

import json
import logging
import sys
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.text import Text

from dpojob_api.reasons import TrainerReason
from dpojob_api.trainer_config import TrainerConfig
from dpojob_api.uris import parse_uri
from dpojob_trainer import telling
from dpojob_trainer.cli import claims, manifest
from dpojob_trainer.cli.checking import MANIFEST_INVALID
from dpojob_trainer.exit_codes import ExitCode, exit_code
from dpojob_trainer.progress import Emit

INTERRUPTED = "Interrupted"
NOT_INSTALLED = "NotInstalled"


@dataclass(frozen=True)
class Options:
    """The command line but the file; see ``dpojob run --help``."""

    store: Path
    pvc: list[str]
    hosts: int
    metrics_port: int | None
    verbose: bool


@dataclass(frozen=True)
class End:
    """How a run ended: a documented reason and what to say about it."""

    code: ExitCode
    reason: str
    message: str
    step: int | None = None


def run_file(file: Path, options: Options) -> ExitCode:
    """Run a manifest's job to its end and tell how it went; nothing is raised."""
    out, live = sys.stdout, sys.stdout.isatty()
    try:
        config = manifest.load(file)
        folders = claims.folders(config, options.store, options.pvc)
        require_equal_shares(config, options.hosts)
    except manifest.ManifestError as error:
        end = End(ExitCode.USAGE, MANIFEST_INVALID, " ".join(error.problems))
    else:
        end = watched(config, folders, options, out, live)
    conclude(end, out, live)
    return end.code


def require_equal_shares(config: TrainerConfig, hosts: int) -> None:
    """Make sure that the chips can be divided among the processes.

    Raises:
        ManifestError: they cannot.
    """
    chips = config.plan.chips
    if chips % hosts:
        raise manifest.ManifestError(
            [
                f"--hosts {hosts}: {config.plan.accelerator_type} has {chips} chips, which {hosts} does not divide."
            ]
        )


def watched(
    config: TrainerConfig, folders: dict[str, Path], options: Options, out: TextIO, live: bool
) -> End:
    """Run with a bar on a terminal and with JSON lines elsewhere; return how it ended."""
    with ExitStack() as stack:
        tell: Emit
        if live:
            tell = stack.enter_context(telling.Bar(Console(file=out))).tell
        else:
            # What a library prints may not come between the lines.
            stack.enter_context(redirect_stdout(sys.stderr))
            tell = partial(telling.print_line, file=out)
        log_to_stderr(verbose=options.verbose)
        try:
            return attempt(config, folders, options, tell)
        except KeyboardInterrupt:
            message = "stopped by Ctrl-C; the same command goes on from the newest checkpoint."
            return End(ExitCode.INTERRUPTED, INTERRUPTED, message)


def attempt(config: TrainerConfig, folders: dict[str, Path], options: Options, tell: Emit) -> End:
    """Run once; the driver is imported only now, because a wrong manifest is told at once."""
    if find_spec("easydel") is None:
        message = "dpojob run needs Ray and EasyDeL: pip install '.[trainer]' in the project's folder."
        return End(ExitCode.USAGE, NOT_INSTALLED, message)
    from dpojob_trainer import machine

    chosen = machine.Machine(folders, options.hosts, options.verbose, options.metrics_port)
    result = machine.run(config, chosen, tell)
    message = result.message.replace(config.output.uri, place(config.output.uri, folders))
    return End(exit_code(result.reason), result.reason.value, message, result.step)


def place(uri: str, folders: dict[str, Path]) -> str:
    """Return the folder behind a ``pvc://`` URI, another URI as it is."""
    parsed = parse_uri(uri)
    return str(folders[parsed.root] / parsed.path) if parsed.scheme == "pvc" else uri


def log_to_stderr(*, verbose: bool) -> None:
    """Show warnings, or with `verbose` everything; tracebacks only with `verbose`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(lambda record: verbose or record.exc_info is None)
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, handlers=[handler], format="%(message)s"
    )


def conclude(end: End, out: TextIO, live: bool) -> None:
    """Print the last line: a JSON object on stdout unless a person looks on, and what went wrong on stderr."""
    if not live:
        fields = {"reason": end.reason, "message": end.message, "step": end.step, "exitCode": int(end.code)}
        print(json.dumps({"event": "result"} | fields), file=out, flush=True)
    if end.reason != TrainerReason.SUCCEEDED.value:
        words = Text.assemble(("error: ", "bold red"), f"{end.reason}: {end.message}")
        Console(stderr=True).print(words, soft_wrap=True)
    elif live:
        Console(file=out).print(Text(f"{end.reason}: {end.message}", style="bold green"), soft_wrap=True)
