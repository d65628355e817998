"""``dpojob``: what a user runs on a laptop. It starts fast: no JAX, no EasyDeL, no Ray."""

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

app = typer.Typer(
    name="dpojob", help=HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)


@app.callback()
def commands() -> None:
    """Keep ``check`` a command of its own; with a single command typer would leave its name out."""


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
    # The clients read these once, when they are imported.
    for name, value in (
        ("USE_TORCH", "0"),
        ("TRANSFORMERS_VERBOSITY", "error"),
        ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
    ):
        os.environ.setdefault(name, value)
    from dpojob_trainer.cli import view
    from dpojob_trainer.cli.checking import check_file

    outcome = check_file(file, data, model)
    if as_json:
        print(json.dumps(outcome.to_wire(), indent=2, ensure_ascii=False))
    else:
        view.show(outcome, Console(), Console(stderr=True))
    raise typer.Exit(outcome.code)


def main() -> None:
    """Run the command line (console script ``dpojob``)."""
    app()
