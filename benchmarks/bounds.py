"""``make bench-plan-bounds``: the compiler's estimated cycles of simple programs against bounds counted by hand.

A matrix product cannot be faster than its operations at the chip's peak, nor a sum than its bytes at the memory's bandwidth. What
the estimate says beyond that, a plan's seconds say too. Writes benchmarks/results/bounds.json and its section of
docs/benchmarks.md; nothing here has run on a TPU.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import document
from dpojob_trainer.plan import topology

topology.prepare()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from jax.sharding import SingleDeviceSharding  # noqa: E402

from benchmarks.jobs import job_on  # noqa: E402
from dpojob_api.accelerator import ChipSpec, chips  # noqa: E402
from dpojob_trainer.plan.hlo import work_of  # noqa: E402

RESULTS = Path(__file__).resolve().parent / "results" / "bounds.json"
SLICES = ("v4-8", "v5litepod-4", "v5p-8", "v6e-4")
# Bytes per second of a chip's memory as Cloud TPU publishes them; v5p's with the comparison of generations.
BANDWIDTH = {"v4": 1200e9, "v5e": 819e9, "v5p": 2765e9, "v6e": 1600e9}
BF16 = 2
# Qwen3-14B's: tokens of a chip in the tutorial's job, width, and width of the feed-forward part.
TOKENS, WIDTH, WIDE = 8192, 5120, 17408


@dataclass(frozen=True)
class Program:
    """A program with what it cannot do without.

    Attributes:
        name: in the table.
        run: what is compiled.
        shapes: of its arguments, in bfloat16.
        operations: floating-point operations of its matrix products.
        moved: bytes from and to memory.
    """

    name: str
    run: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    operations: float
    moved: float

    def bound(self, chip: ChipSpec, bandwidth: float) -> float:
        """Return the seconds that no chip can undercut."""
        return max(self.operations / chip.peak_flops, self.moved / bandwidth)


def product(rows: int, inner: int, columns: int) -> Program:
    """Return a matrix product."""
    return Program(
        f"product {rows} x {inner} x {columns}",
        jnp.matmul,
        ((rows, inner), (inner, columns)),
        2.0 * rows * inner * columns,
        BF16 * (rows * inner + inner * columns + rows * columns),
    )


PROGRAMS = (
    product(8192, 8192, 8192),
    product(TOKENS, WIDTH, WIDE),
    product(TOKENS, WIDE, WIDTH),
    Program("sum of two arrays of 512 MiB", jnp.add, ((16384, 16384),) * 2, 0.0, 3.0 * BF16 * 16384**2),
)


def estimated(program: Program, device: Any, chip: ChipSpec) -> float:
    """Return the compiler's seconds on one chip."""
    place = SingleDeviceSharding(device)
    arguments = [jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=place) for shape in program.shapes]
    text = jax.jit(program.run, out_shardings=place).lower(*arguments).compile().as_text()
    return work_of(text).cycles / (chip.clock_mhz * 1e6)


def rows_of(slice_type: str) -> list[dict[str, Any]]:
    """Compile all programs for one chip of a slice."""
    config = job_on(slice_type)
    chip, generation = chips()[config.generation], config.generation
    device = topology.devices_of(config.plan, generation)[0]
    return [
        {
            "program": program.name,
            "generation": generation,
            "bound": program.bound(chip, BANDWIDTH[generation]),
            "estimate": estimated(program, device, chip),
        }
        for program in PROGRAMS
    ]


def line(row: dict[str, Any]) -> str:
    """Return a row of the table."""
    bound, estimate = row["bound"] * 1e3, row["estimate"] * 1e3
    return (
        f"| {row['program']} | {row['generation']} | {bound:.2f} | {estimate:.2f} | {estimate / bound:.2f} |"
    )


def main() -> int:
    """Compile everything, print and write."""
    rows = [row for slice_type in SLICES for row in rows_of(slice_type)]
    RESULTS.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    head = "| program | chip | bound, ms | compiler's estimate, ms | ratio |\n|---|---|---|---|---|"
    table = "\n".join([head, *map(line, rows)])
    text = "`make bench-plan-bounds`: cycles that the TPU compiler estimates, against bounds counted by hand. No TPU took part."
    document.keep("plan-bounds", f"## Bounds of a plan's seconds\n\n{text}\n\n{table}\n")
    print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
