"""`make parity`: compare every case with TRL and write docs/parity.md; non-zero if one is further apart than allowed."""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.parity import cases, harness, page

STEPS = 50


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--only", nargs="*", help="names of cases; the others keep their figures")
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
    page.keep(results, options.steps)
    page.write()
    far = [name for name, found in results.items() if found.largest > cases.TOLERANCE]
    if far:
        print(f"further apart than {cases.TOLERANCE:g}: {', '.join(far)}", file=sys.stderr)
    return 1 if far else 0


if __name__ == "__main__":
    sys.exit(main())
