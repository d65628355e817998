"""``dpojob``: what a user runs on a laptop. It starts fast: only ``run`` imports Ray, and its hosts JAX and EasyDeL."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

HELP = "Try a DPOJob on this machine before it goes to the cluster."
EXIT_CODES = (
    "Exit codes: 0 the data can be trained on; 2 the manifest or the command line is wrong; 3 the data is refused (a bound "
    "of dataset.gate, a bad row, a missing column, too few pairs); 4 model or data cannot be found, reached or read with "
    "these credentials; 1 anything else."
)

RUN_EXIT_CODES = (
    "Exit codes: 0 trained, checked and written; 2 the manifest or the command line is wrong; 3 the data is refused; 4 model "
    "or data cannot be found, reached or read with these credentials; 130 interrupted; 1 anything else. The reason is in the "
    "last line."
)

QUIET = {"USE_TORCH": "0", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

app = typer.Typer(
    name="dpojob", help=HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)


@app.command(epilog=EXIT_CODES)
def check(
    file: Annotated[Path, typer.Argument(help="DPOJob manifest, YAML or JSON.", exists=True, dir_okay=False)],
    data: Annotated[
        Path | None, typer.Option(help="Read this file or folder instead of dataset.uri.", exists=True)
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            help="Read the tokenizer from this folder instead of model.uri.", exists=True, file_okay=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Validate a manifest and examine its data on the CPU: what is dropped, cut, repeated, and how long it is.

    Rules across fields are the API server's: kubectl apply --dry-run=server -f FILE.
    """
    quiet()
    from dpojob_trainer.cli import view
    from dpojob_trainer.cli.checking import check_file

    outcome = check_file(file, data, model)
    if as_json:
        print(json.dumps(outcome.to_wire(), indent=2, ensure_ascii=False))
    else:
        view.show(outcome, Console(), Console(stderr=True))
    raise typer.Exit(outcome.code)


@app.command(epilog=RUN_EXIT_CODES)
def run(
    file: Annotated[Path, typer.Argument(help="DPOJob manifest, YAML or JSON.", exists=True, dir_okay=False)],
    store: Annotated[
        Path,
        typer.Option(
            help="Folder that has a folder per claim: pvc://claim/path is STORE/claim/path.", file_okay=False
        ),
    ] = Path(),
    pvc: Annotated[
        list[str] | None,
        typer.Option(help="Folder of one claim, instead of the one in --store.", metavar="CLAIM=FOLDER"),
    ] = None,
    hosts: Annotated[
        int,
        typer.Option(help="Processes that share the slice's chips, each a virtual CPU device.", min=1),
    ] = 1,
    metrics_port: Annotated[
        int | None, typer.Option(help="Serve Prometheus metrics on this port.", min=1, max=65535)
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Repeat what the hosts log.")] = False,
) -> None:
    """Run a job on this machine, on the CPU: the same specification, driver, trainer and outputs as on a slice.

    On a terminal it shows a live bar, otherwise it prints a line of JSON per event. Started again, it goes on from its
    newest checkpoint. Tokens come from HF_TOKEN and WANDB_API_KEY; spec.credentials and the rest of spec.runtime are for
    the cluster.
    """
    quiet()
    from dpojob_trainer.cli.running import Options, run_file

    raise typer.Exit(run_file(file, Options(store, pvc or [], hosts, metrics_port, verbose)))


def quiet() -> None:
    """Set what libraries read once, when they are imported."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def main() -> None:
    """Run the command line (console script ``dpojob``)."""
    app()
