"""Reads the TPU compiler's scheduled program as text: estimated cycles and moved bytes, times what loops repeat them.

The compiler's own cost analysis counts a loop's body once, so this walks the text from its entry instead.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

ITEM_BYTES = {
    "bf16": 2,
    "f16": 2,
    "f32": 4,
    "s32": 4,
    "u32": 4,
    "f64": 8,
    "s64": 8,
    "u64": 8,
    "pred": 1,
    "s8": 1,
    "u8": 1,
}
COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "ragged-all-to-all",
)
COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{\s*$")
ARRAY = re.compile(rf"\b({'|'.join(ITEM_BYTES)})\[([\d,]*)\]")
CYCLES = re.compile(r'estimated_cycles":"(\d+)"')
SCALAR = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = [su]32\[\]\S* constant\((\d+)\)")
CALLED = re.compile(r"(?:to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)")

Program = dict[str, list[str]]


@dataclass
class Work:
    """What one device does in one run of a program.

    Attributes:
        cycles: the compiler's estimate for all instructions but custom kernels and collectives.
        blocking: bytes of collectives that the device waits for.
        hidden: bytes of collectives that run beside the instructions between their start and their end.
        unknown_loops: loops whose number of repetitions the text does not tell; they count once.
    """

    cycles: float = 0.0
    blocking: dict[str, float] = field(default_factory=dict)
    hidden: dict[str, float] = field(default_factory=dict)
    unknown_loops: int = 0


def work_of(text: str) -> Work:
    """Return what a scheduled program does.

    Raises:
        ValueError: the text has no entry computation.
    """
    program, entry = computations(text)
    work = Work()
    _visit(program, entry, 1, work)
    return work


def computations(text: str) -> tuple[Program, str]:
    """Return the instructions of every computation, and the entry's name."""
    program: Program = {}
    entry, lines = None, None
    for line in text.splitlines():
        if found := COMPUTATION.match(line):
            lines = program[found.group(2)] = []
            entry = found.group(2) if found.group(1) else entry
        elif line.rstrip() == "}":
            lines = None
        elif lines is not None and " = " in line:
            lines.append(line)
    if entry is None:
        raise ValueError("the program's text has no entry computation")
    return program, entry


def _visit(program: Program, name: str, times: int, work: Work) -> None:
    for line in program[name]:
        kind, operation = typed(line)
        if operation == "while":
            _visit_loop(program, line, times, work)
        elif operation in ("call", "conditional"):
            for called in CALLED.findall(line):
                _visit(program, called, times, work)
        else:
            _count(line, kind, operation, times, work)


def _visit_loop(program: Program, line: str, times: int, work: Work) -> None:
    body, condition = (_named(line, role) for role in ("body", "condition"))
    count = repetitions(program[condition])
    work.unknown_loops += count is None
    _visit(program, body, times * (count or 1), work)


def _count(line: str, kind: str, operation: str, times: int, work: Work) -> None:
    name = operation.removesuffix("-done")
    if name in COLLECTIVES:
        # The start of one that runs beside other instructions has the operand in its type too, and is no collective of its own.
        where = work.hidden if operation.endswith("-done") else work.blocking
        where[name] = where.get(name, 0.0) + array_bytes(kind) * times
    elif found := CYCLES.search(line):
        work.cycles += int(found.group(1)) * times


def _named(line: str, role: str) -> str:
    found = re.search(rf"{role}=%?([\w.\-]+)", line)
    if found is None:
        raise ValueError(f"a loop has no {role}: {line[:80]}")
    return found.group(1)


def typed(line: str) -> tuple[str, str]:
    """Return an instruction's result type and its operation."""
    rest = line.split(" = ", 1)[1]
    end = _closing(rest) + 1 if rest.startswith("(") else rest.find(" ")
    return rest[:end], rest[end:].strip().split("(", 1)[0]


def _closing(text: str) -> int:
    depth = 0
    for at, letter in enumerate(text):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if depth == 0:
            return at
    return len(text) - 1


def array_bytes(kind: str) -> int:
    """Return the bytes of all arrays of a type."""
    return sum(_sizes(kind))


def _sizes(kind: str) -> Iterator[int]:
    for item, sides in ARRAY.findall(kind):
        size = ITEM_BYTES[item]
        for side in filter(None, sides.split(",")):
            size *= int(side)
        yield size


def repetitions(condition: list[str]) -> int | None:
    """Return how often a loop runs that counts from 0 to the constant in its condition; None if there is no such."""
    constants = {found.group(1): int(found.group(2)) for found in map(SCALAR.match, condition) if found}
    for line in condition:
        if "ROOT" in line and " compare(" in line:
            operands = re.findall(r"%([\w.\-]+)", line.split("compare(", 1)[1].split(")")[0])
            for operand in operands:
                if operand in constants:
                    return constants[operand]
    return next(iter(constants.values())) if len(constants) == 1 else None
