"""Which kill points are hit in which life. Pure."""

import random
from collections.abc import Collection, Iterable, Sequence

from tests.chaos.proxy import SIDES, Call, Harm, Judge

Point = tuple[str, str, Harm]
"""Stage, call and side."""


def points_of(calls: Iterable[Call]) -> list[Point]:
    """Return the points before and after every call of an undisturbed life, each once, in its order."""
    return list(dict.fromkeys((*call.point, side) for call in calls for side in SIDES))


def shared_out(points: Sequence[Point], lives: int, seed: str) -> list[list[Point]]:
    """Share points out among lives, so that one life's are spread over its length; the seed says which goes where."""
    order = list(range(lives))
    random.Random(seed).shuffle(order)
    return [list(points[start::lives]) for start in order]


class Killer:
    """Kills at every point of a set once; a point that does not come stays in it."""

    def __init__(self, points: Collection[Point]) -> None:
        self.left = set(points)

    def __call__(self, call: Call) -> Harm | None:
        """Return the side on which the operator dies at this call, None if it lives on."""
        for side in SIDES:
            if (*call.point, side) in self.left:
                self.left.discard((*call.point, side))
                return side
        return None


def kill_at(number: int, side: Harm) -> Judge:
    """Return a judge who kills once, at a call's number."""
    return lambda call: side if call.number == number else None


def at_random(harms: Sequence[Harm], rate: float, seed: str) -> Judge:
    """Return a judge who harms a share of the calls in one of several ways."""
    chance = random.Random(seed)
    return lambda call: chance.choice(harms) if chance.random() < rate else None
