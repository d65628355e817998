"""EasyDeL's own DPOTrainer on two hosts: `python -m tests.trainer.plain_hosts FOLDER NAME ADDRESS RANK` prints a finding.

Each host has one device. `FOLDER/model` is there already.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import jax

HOSTS = 2
SECONDS = 2.0


def index_in_use(folder: Path, rank: int) -> Any:
    """Trap 4: how host 1 fares that reads the index of a checkpoint while host 0 writes it, or how host 0 does.

    The moment between emptying the file and filling it is stretched on host 0, and host 1 looks in the middle of it.
    """
    from eformer.paths import ePath
    from tests.trainer.plain_easydel import trainer

    kind = type(ePath(str(folder)))
    write, exists = kind.write_text, kind.exists

    def slowly(path: Any, text: str, *args: Any, **named: Any) -> Any:
        if rank == 0 and path.name == "tensorstore_index.json":
            write(path, "")
            time.sleep(2 * SECONDS)
        return write(path, text, *args, **named)

    def later(path: Any) -> Any:
        if rank == 1 and path.name == "tensorstore_index.json":
            time.sleep(SECONDS)
        return exists(path)

    options = {"save_steps": 1, "max_training_steps": 1}
    with mock.patch.object(kind, "write_text", slowly), mock.patch.object(kind, "exists", later):
        try:
            trainer(folder, mesh=TWO, **options).train()
        except json.JSONDecodeError as error:
            return type(error).__name__
    return None


def another_order(folder: Path, rank: int) -> Any:
    """Trap 12: how many steps are done, and on which first prompts, if host 1 has the rows in another order."""
    from tests.trainer.plain_easydel import rows, trainer

    data = rows(8)
    made = trainer(folder, mesh=TWO, data=data if rank == 0 else data.select(range(7, -1, -1)))
    return {"steps": int(made.train().state.step), "first": made.batches[0]}


FINDINGS: dict[str, Callable[[Path, int], Any]] = {
    function.__name__: function for function in (index_in_use, another_order)
}
TWO = {"dp": 1, "fsdp": HOSTS, "ep": 1, "tp": 1, "sp": 1}


def main() -> None:
    """Print the finding as a line of its own, and end without meeting the other host again."""
    folder, name, address, rank = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, HOSTS, rank)
    found = FINDINGS[name](folder / name, rank)
    os.write(1, f"\n{json.dumps({'found': found})}\n".encode())
    os._exit(0)


if __name__ == "__main__":
    main()
