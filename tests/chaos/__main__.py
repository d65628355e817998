"""``python -m tests.chaos --seed 1 --kills 1000``: the last line is JSON, the exit code says whether all is well."""

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.campaign import run
from tests.chaos.control_plane import ControlPlane

CELLS = 4


def main() -> int:
    """Run a campaign of its own control plane."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="draws which kill goes where")
    parser.add_argument("--kills", type=int, default=1000, help="at least so many kills")
    parser.add_argument("--cells", type=int, default=CELLS, help="operators side by side")
    given = parser.parse_args()
    began = time.monotonic()
    # Ends through the context managers, which stop what was started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("SIGTERM"))
    with ControlPlane() as control_plane, tempfile.TemporaryDirectory() as folder:
        tally = asyncio.run(run(control_plane, Path(folder), given.seed, given.kills, given.cells))
    for words in tally.found():
        print(words, file=sys.stderr)
    print(json.dumps(tally.line() | {"seed": given.seed, "seconds": round(time.monotonic() - began)}))
    return 1 if tally.found() else 0


if __name__ == "__main__":
    raise SystemExit(main())
