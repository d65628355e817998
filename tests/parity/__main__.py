"""`make parity`: compare every case with TRL and write docs/parity.md; non-zero if one is further apart than allowed."""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.parity import cases, harness

STEPS = 50
OUT = harness.ROOT / "docs" / "parity.md"


def page(chosen: list[cases.Case], results: harness.Results, steps: int, versions: dict[str, str]) -> str:
    """Return docs/parity.md."""
    rows = ["| " + " | ".join(["case", "model", "TRL's loss", *cases.METRICS]) + " |"]
    rows.append("|" + "---|" * (3 + len(cases.METRICS)))
    for case in chosen:
        cells = [case.name.removeprefix(f"{case.family}-"), MODELS.get(case.family, case.family)]
        found = results[case.name]
        cells += [f"{found.first:.4g} to {found.last:.4g}"]
        cells += [f"{found.deviations[name]:.1e}" for name in cases.METRICS]
        rows.append("| " + " | ".join(cells) + " |")
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    names = {f"tiny_{key}": value for key, value in vars(cases.TINY).items()}
    names |= {f"real_{key}": value for key, value in vars(cases.REAL).items()}
    return TEXT.format(
        table="\n".join(rows),
        versions=listed,
        steps=steps,
        tolerance=cases.TOLERANCE,
        pairs=cases.PAIRS,
        count=len(chosen),
        all=len(cases.CASES) + len(cases.REAL_CASES),
        **names,
    )


MODELS = {"smollm2": "SmolLM2-135M"}
TEXT = """<!-- Written by `make parity`. DO NOT EDIT. -->

# The same numbers as TRL

`make parity` trains the same model on the same pairs with DPOJob's trainer and with TRL's `DPOTrainer` and compares
every step. The table has the largest deviation over {steps} steps: absolute, relative where TRL's value exceeds 1. More
than {tolerance:g} fails the command.

Versions: {versions}.

Both sides: float32 on one CPU device, rows in file order, AdamW (0.9, 0.999, 1e-8), a constant learning rate and
gradients clipped to norm 1 unless the case says otherwise. TRL gets our token ids, so that tokenisation plays no part,
pads each batch on the right and has plain attention; ours pads to fixed lengths.

- `llama`, `qwen3`: two layers of that architecture with random weights, {pairs} pairs, {tiny_batch} per step, prompts cut to
  {tiny_prompt} and completions to {tiny_completion} tokens, learning rate {tiny_learning_rate:g}.
- SmolLM2-135M, only with `make parity MODEL=FOLDER`: the pairs of `examples/data`, {real_batch} per step, {real_prompt} and {real_completion} tokens, learning rate {real_learning_rate:g}.

{count} of {all} cases:

{table}

Log-probabilities are sums over the completion, rewards are `beta` times the log-ratio, `grad_norm` is the global norm
before clipping.

## Where the names differ

| DPOJob | TRL |
|---|---|
| `lossType: aot_pair` | `aot_unpaired`: TRL renamed it, the formula is the same |
| `lossType: sigmoid` with `labelSmoothing` (conservative DPO) | gone in TRL 1; `2(1-e) sigmoid - (1-2e) robust` is the same number and is what the case compares with |
| `referenceFree: true` | gone in TRL 1; compared with reference log-probabilities of 0 |
| `scheduler: linear` | transformers reaches 0 after the last step, ours `learningRateEnd` on the last step; the case sets it to a {steps}th of the peak, which makes them equal |
| `warmupSteps` | transformers begins with a step at learning rate 0, ours does not; not compared |
| `weightDecay` | leaves out norms and biases on both sides |
"""


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--only", nargs="*", help="names of cases; the page is not written then")
    parser.add_argument("--write", action="store_true", help="write the page with these cases alone")
    parser.add_argument("--model", type=Path, help="folder of SmolLM2-135M; adds the case with real weights")
    parser.add_argument(
        "--folder", type=Path, help="keep models and curves here; cases that are there are not run again"
    )
    options = parser.parse_args()
    known = [*cases.CASES, *(cases.REAL_CASES if options.model else [])]
    chosen = [case for case in known if not options.only or case.name in options.only]
    with tempfile.TemporaryDirectory() as scratch:
        results = harness.compare(chosen, options.steps, options.folder or Path(scratch), real=options.model)
    for name, found in results.items():
        listed = (f"{metric}={value:.1e}" for metric, value in found.deviations.items())
        print(name, f"loss {found.first:.4g} to {found.last:.4g}", *listed)
    if options.write or not options.only:
        OUT.write_text(page(chosen, results, options.steps, harness.versions()))
    far = [name for name, found in results.items() if found.largest > cases.TOLERANCE]
    if far:
        print(f"further apart than {cases.TOLERANCE:g}: {', '.join(far)}", file=sys.stderr)
    return 1 if far else 0


if __name__ == "__main__":
    sys.exit(main())
