"""``dpojob``: what a user runs on a laptop. It starts fast: only ``run`` imports Ray, and its hosts JAX and EasyDeL;
``plan`` imports them once the manifest has been accepted.
"""

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

PLAN_EXIT_CODES = (
    "Exit codes: 0 it fits; 2 the manifest, the model, the slice or the command line is wrong; 3 the compiler fails; 4 it "
    "does not fit; 1 anything else."
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


@app.command(epilog=PLAN_EXIT_CODES)
def plan(
    file: Annotated[Path, typer.Argument(help="DPOJob manifest, YAML or JSON.", exists=True, dir_okay=False)],
    model: Annotated[
        Path | None,
        typer.Option(
            help="Read config.json from this folder instead of model.uri.", exists=True, file_okay=False
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Tokenise this file or folder for the lengths of the pairs.", exists=True),
    ] = None,
    lengths: Annotated[
        Path | None,
        typer.Option(
            help="JSON file with tokens per pair: lists prompt, chosen, rejected.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    price_per_chip_hour: Annotated[
        float | None, typer.Option(help="Say what the job costs at this price.", min=0)
    ] = None,
    minutes: Annotated[float, typer.Option(help="Try no further change after so long.", min=0)] = 30,
    tune: Annotated[
        bool,
        typer.Option(
            "--tune",
            help="Search for a faster job: mesh, compiler options, recomputation, micro-batches, lengths.",
        ),
    ] = False,
    patch: Annotated[
        Path | None,
        typer.Option(
            help="With --tune: write the fastest job's changes here, as a merge patch.", dir_okay=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Say whether a job fits its slice, and how long it takes, before a chip is paid for.

    Compiles the trainer's own step for exactly this slice, on the CPU; needs the trainer's packages and libtpu, no
    weights. What the compiler said is kept in DPOJOB_PLAN_CACHE (~/.cache/dpojob/plan).
    """
    quiet()
    from dpojob_trainer.cli import plan_view
    from dpojob_trainer.cli.planning import Options, plan_file

    err = Console(stderr=True)
    if patch is not None and not tune:
        raise typer.BadParameter("needs --tune", param_hint="--patch")
    chosen = Options(model, data, lengths, price_per_chip_hour, minutes, tune, patch)
    planned = plan_file(file, chosen, lambda words: err.print(words, style="dim", soft_wrap=True))
    if as_json:
        answer = planned.answer.model_dump(mode="json", by_alias=True) if planned.answer else None
        outcome = {"exitCode": int(planned.code), "reason": planned.reason, "problem": planned.problem}
        print(json.dumps(outcome | {"answer": answer}, indent=2, ensure_ascii=False))
    else:
        plan_view.show(planned, Console(), err)
    raise typer.Exit(planned.code)


def quiet() -> None:
    """Set what libraries read once, when they are imported."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def main() -> None:
    """Run the command line (console script ``dpojob``)."""
    app()
