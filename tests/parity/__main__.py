"""`make parity`: compare every case with TRL and write docs/parity.md; non-zero if one is further apart than allowed."""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.parity import cases, harness

STEPS = 50
OUT = harness.ROOT / "docs" / "parity.md"


def page(results: harness.Results, steps: int, versions: dict[str, str]) -> str:
    """Return docs/parity.md."""
    head = ["case", "architecture", "steps", *cases.METRICS]
    rows = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for case in cases.CASES:
        if case.name in results:
            cells = [case.name.removeprefix(f"{case.family}-"), case.family, str(steps)]
            cells += [f"{results[case.name][name]:.1e}" for name in cases.METRICS]
            rows.append("| " + " | ".join(cells) + " |")
    table = "\n".join(rows)
    found = ", ".join(f"{name} {version}" for name, version in versions.items())
    return TEXT.format(table=table, versions=found, steps=steps, tolerance=cases.TOLERANCE, **settings())


def settings() -> dict[str, object]:
    """Return the numbers that the page's text names."""
    return {
        "batch": cases.BATCH,
        "pairs": cases.PAIRS,
        "prompt": cases.PROMPT,
        "completion": cases.COMPLETION,
        "rate": cases.LEARNING_RATE,
    }


TEXT = """<!-- Written by `make parity`. DO NOT EDIT. -->

# The same numbers as TRL

`make parity` trains the same model on the same pairs with DPOJob's trainer and with TRL's `DPOTrainer` and compares
every step. The table has the largest deviation over {steps} steps: absolute, relative where TRL's value exceeds 1. More
than {tolerance:g} fails the command.

Versions: {versions}.

Both sides: float32 on one CPU device, random weights (Llama-shaped and Qwen3-shaped, two layers), {pairs} pairs in
file order, {batch} per step, prompts cut to {prompt} and completions to {completion} tokens, AdamW (0.9, 0.999, 1e-8),
learning rate {rate:g}, constant unless the case says otherwise, gradients clipped to norm 1. TRL gets our token ids, so
that tokenisation plays no part, pads each batch on the right and has plain attention; ours pads to fixed lengths.

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
    parser.add_argument("--only", nargs="*", help="names of cases; nothing is written then")
    options = parser.parse_args()
    chosen = [case for case in cases.CASES if not options.only or case.name in options.only]
    with tempfile.TemporaryDirectory() as folder:
        results = harness.compare(chosen, options.steps, Path(folder))
    for name, found in results.items():
        print(name, *(f"{metric}={value:.1e}" for metric, value in found.items()))
    if not options.only:
        OUT.write_text(page(results, options.steps, harness.versions()))
    far = [name for name, found in results.items() if max(found.values()) > cases.TOLERANCE]
    if far:
        print(f"further apart than {cases.TOLERANCE:g}: {', '.join(far)}", file=sys.stderr)
    return 1 if far else 0


if __name__ == "__main__":
    sys.exit(main())
