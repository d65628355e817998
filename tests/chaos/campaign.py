"""Many lives with many kills: what ``make chaos-operator`` and the smoke test run."""

import asyncio
import json
import random
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.api import Object
from tests.chaos.cell import Cell
from tests.chaos.control_plane import ControlPlane
from tests.chaos.lives import LIVES, Life, Outcome, live
from tests.chaos.operators import Zygote
from tests.chaos.points import Killer, Point, kill_at, points_of, shared_out
from tests.chaos.proxy import SIDES, Judge

KILLS_PER_LIFE = 12
SINGLE_KILL_SHARE = 0.03
"""Of the kills, those in lives of their own, at a call's number that the seed draws."""


@dataclass
class Record:
    """What a life without a kill looks like."""

    end: Object
    calls: int
    points: list[Point]


@dataclass
class Tally:
    """What a campaign has found."""

    kills: int = 0
    lives: int = 0
    points: set[tuple[str, Point]] = field(default_factory=set)
    duplicates: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    wrong_final_states: list[str] = field(default_factory=list)

    def add(self, what: str, outcome: Outcome, expected: Object, kills: int) -> None:
        """Count a life."""
        self.kills += kills
        self.lives += 1
        self.duplicates += [f"{what}: {words}" for words in outcome.duplicates]
        self.orphans += [f"{what}: {words}" for words in outcome.orphans]
        if outcome.end != expected:
            self.wrong_final_states.append(
                f"{what}: {json.dumps(outcome.end)} instead of {json.dumps(expected)}"
            )

    def found(self) -> list[str]:
        """Return everything that must not be."""
        return [*self.duplicates, *self.orphans, *self.wrong_final_states]

    def line(self) -> Object:
        """Return the campaign's last line."""
        return {
            "kills": self.kills,
            "duplicates": len(self.duplicates),
            "orphans": len(self.orphans),
            "wrong_final_states": len(self.wrong_final_states),
            "lives": self.lives,
            "points": len(self.points),
        }


@dataclass(frozen=True)
class Task:
    """A life with kills in it."""

    life: Life
    name: str
    points: tuple[Point, ...] = ()
    number: int | None = None


class Campaign:
    """Lives with kills until a number of kills is reached, side by side in several cells."""

    def __init__(self, seed: int, kills: int) -> None:
        self.seed, self.kills = seed, kills
        self.tally = Tally()
        self.records: dict[str, Record] = {}
        self._began = time.monotonic()

    async def run(self, cells: list[Cell]) -> Tally:
        """Record the undisturbed lives, then live them with kills."""
        lives = list(LIVES.values())
        await self._side_by_side(cells, lives, self._record)
        round_number = 0
        while self.tally.kills < self.kills:
            round_number += 1
            await self._side_by_side(cells, self._tasks(round_number), self._disturb)
            self._say(f"round {round_number}: {json.dumps(self.tally.line())}")
        return self.tally

    def _tasks(self, round_number: int) -> list[Task]:
        """Return a round: every point of every life once, and some lives with one kill at a random call."""
        chance = random.Random(f"{self.seed}/{round_number}")
        tasks = []
        for name, record in self.records.items():
            number = max(1, round(len(record.points) / KILLS_PER_LIFE))
            for index, share in enumerate(
                shared_out(record.points, number, f"{self.seed}/{round_number}/{name}")
            ):
                tasks.append(Task(LIVES[name], f"{name} {round_number}.{index}", tuple(share)))
            for index in range(round(len(record.points) * SINGLE_KILL_SHARE)):
                call = chance.randint(1, record.calls)
                tasks.append(Task(LIVES[name], f"{name} {round_number}.single-{index}", number=call))
        chance.shuffle(tasks)
        return tasks

    async def _side_by_side(self, cells: list[Cell], work: list, what) -> None:  # type: ignore[no-untyped-def,type-arg]
        queue = list(reversed(work))

        async def one(cell: Cell) -> None:
            while queue and (what is self._record or self.tally.kills < self.kills):
                await what(cell, queue.pop())

        async with asyncio.TaskGroup() as group:
            for cell in cells:
                group.create_task(one(cell))

    async def _record(self, cell: Cell, life: Life) -> None:
        await cell.operator.kill()
        cell.begin()
        outcome = await live(cell, life)
        assert not outcome.duplicates and not outcome.orphans, f"{life.name}: {outcome}"
        calls = cell.proxy.calls
        self.records[life.name] = Record(outcome.end, len(calls), points_of(calls))
        self._say(f"{life.name}: {len(calls)} calls, {len(self.records[life.name].points)} points")

    async def _disturb(self, cell: Cell, task: Task) -> None:
        record, began = self.records[task.life.name], time.monotonic()
        killer = Killer(task.points)
        judge: Judge = killer
        if task.number is not None:
            judge = kill_at(task.number, random.Random(f"{self.seed}{task.name}").choice(SIDES))
        cell.begin(judge)
        try:
            outcome = await live(cell, task.life)
        except AssertionError as error:
            self._say(str(error))
            outcome = Outcome({"stuck": str(error).splitlines()[0]}, cell.duplicates())
        kills = len(cell.proxy.harms)
        self.tally.add(f"{cell.namespace} {task.name}", outcome, record.end, kills)
        self.tally.points |= {(task.life.name, (*call.point, harm)) for call, harm in cell.proxy.harms}
        self._say(f"{task.name}: {kills} kills, {len(killer.left)} left, {time.monotonic() - began:.1f} s")

    def _say(self, text: str) -> None:
        print(f"[{time.monotonic() - self._began:6.1f} s] {text}", file=sys.stderr, flush=True)


async def run(control_plane: ControlPlane, folder: Path, seed: int, kills: int, cells: int) -> Tally:
    """Run a campaign on a control plane."""
    async with Zygote() as zygote:
        opened = [Cell(control_plane.connection, zygote, folder, f"cell-{n}") for n in range(cells)]
        try:
            for cell in opened:
                await cell.__aenter__()
            return await Campaign(seed, kills).run(opened)
        finally:
            for cell in opened:
                await cell.__aexit__()
