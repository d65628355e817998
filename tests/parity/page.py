"""docs/parity.md from what both commands have measured: results.json (`make parity`), accuracy.json (`make parity-accuracy`)."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.parity import cases, harness

OUT = harness.ROOT / "docs" / "parity.md"
RESULTS = Path(__file__).with_name("results.json")
ACCURACY = Path(__file__).with_name("accuracy.json")
MODELS = {"smollm2": "SmolLM2-135M"}


def keep(found: harness.Results, steps: int) -> None:
    """Write outcomes to results.json; those of other cases stay there if they are of the same versions and steps."""
    setting = {"steps": steps, "versions": harness.versions()}
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    cases_kept = kept["cases"] if kept and setting.items() <= kept.items() else {}
    listed = {name: asdict(outcome) for name, outcome in found.items()}
    RESULTS.write_text(json.dumps(setting | {"cases": cases_kept | listed}, indent=1) + "\n")


def write() -> None:
    """Write docs/parity.md.

    Raises:
        FileNotFoundError: `make parity` has not been run.
    """
    held = json.loads(ACCURACY.read_text()) if ACCURACY.exists() else None
    OUT.write_text(page(json.loads(RESULTS.read_text()), held))


def page(results: dict[str, Any], held: dict[str, Any] | None) -> str:
    """Return docs/parity.md."""
    names = {f"tiny_{key}": value for key, value in vars(cases.TINY).items()}
    names |= {f"real_{key}": value for key, value in vars(cases.REAL).items()}
    return TEXT.format(
        table=case_table(results["cases"]),
        accuracy=accuracy_section(held) if held else "",
        versions=", ".join(f"{name} {version}" for name, version in results["versions"].items()),
        steps=results["steps"],
        tolerance=cases.TOLERANCE,
        pairs=cases.PAIRS,
        count=len(results["cases"]),
        all=len(cases.CASES) + len(cases.REAL_CASES),
        **names,
    )


def case_table(found: dict[str, Any]) -> str:
    """Return a row per case, in the order of `cases`."""
    rows = [["case", "model", "TRL's loss", *cases.METRICS], ["---"] * (3 + len(cases.METRICS))]
    for case in [*cases.CASES, *cases.REAL_CASES]:
        if outcome := found.get(case.name):
            cells = [case.name.removeprefix(f"{case.family}-"), MODELS.get(case.family, case.family)]
            cells += [f"{outcome['first']:.4g} to {outcome['last']:.4g}"]
            rows.append(cells + [f"{outcome['deviations'][name]:.1e}" for name in cases.METRICS])
    return table(rows)


def table(rows: list[list[str]]) -> str:
    """Return rows as Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def accuracy_section(held: dict[str, Any]) -> str:
    """Return the comparison of the held-out pairs after training."""
    rows = [["", "accuracy", "margin", "loss"], ["---"] * 4]
    for side, name in {"dpojob": "`dpojob run`", "trl": "TRL"}.items():
        found = held[side]
        right = round(found["accuracy"] * held["held_out"])
        rows.append([name, f"{found['accuracy']:.4f} ({right} of {held['held_out']})"])
        rows[-1] += [f"{found['margin']:.6f}", f"{found['loss']:.6f}"]
    return ACCURACY_TEXT.format(table=table(rows), steps=held["pairs"] // held["batch"], **held)


ACCURACY_TEXT = """
## Held-out accuracy

`make parity-accuracy DATA=FILE` runs a job as a user does, with `dpojob run`: its own tokenisation, split, shuffled order and static shapes. TRL's trainer gets the same pairs in the same order and the same held-out pairs. SmolLM2-135M
on {file}: {pairs} pairs of it to train on, {held_out} held out, one epoch of {steps} steps of {batch}, {prompt} and {completion}
tokens, learning rate {learning_rate:g}, float32. More than one percentage point between the accuracies fails the command.

{table}
"""

TEXT = """<!-- Written by `make parity`. DO NOT EDIT. -->

# The same numbers as TRL

`make parity` trains the same model on the same pairs with DPOJob's trainer and with TRL's `DPOTrainer` and compares
every step. The table has the largest deviation over {steps} steps: absolute, relative where TRL's value exceeds 1. More
than {tolerance:g} fails the command.

Versions: {versions}.

Both sides: float32 on one CPU device, rows in file order, AdamW (0.9, 0.999, 1e-8), a constant learning rate and
gradients clipped to norm 1 unless the case says otherwise. TRL gets our token ids, so that tokenisation plays no part,
pads each batch on the right and has plain attention; ours pads to few fixed lengths.

- `llama`, `qwen3`: two layers of that architecture with random weights, {pairs} pairs, {tiny_batch} per step, prompts cut to
  {tiny_prompt} and completions to {tiny_completion} tokens, learning rate {tiny_learning_rate:g}.
- SmolLM2-135M: real weights (Instruct, dequantised from Q4_1 once), the pairs of `examples/data`, {real_batch} per step, {real_prompt} and {real_completion} tokens, learning rate {real_learning_rate:g}.

{count} of {all} cases:

{table}

Log-probabilities are sums over the completion, rewards are `beta` times the log-ratio, `grad_norm` is the global norm
before clipping.
{accuracy}
## Where the names differ

| DPOJob | TRL |
|---|---|
| `lossType: aot_pair` | `aot_unpaired`: TRL renamed it, the formula is the same |
| `lossType: sigmoid` with `labelSmoothing` (conservative DPO) | gone in TRL 1; `2(1-e) sigmoid - (1-2e) robust` is the same number and is what the case compares with |
| `referenceFree: true` | gone in TRL 1; compared with reference log-probabilities of 0 |
| `scheduler: linear` | transformers reaches 0 after the last step, ours `learningRateEnd` on the last step; the case sets it to a {steps}th of the peak, which makes them equal |
| `warmupSteps` | transformers begins with a step at learning rate 0, ours does not; not compared |
| `weightDecay` | leaves out norms and biases on both sides |
| the embedding of the padding token | transformers makes the embedding with `padding_idx`, and torch gives that token's look-ups no gradient, also where it is the end of a turn, as in SmolLM2; the comparison turns that off. With it the same run is up to 6.4e-4 apart |
"""
