"""Preference pairs whose chosen answers are computed: sums, units, dates, JSON and small text tasks.

Used by make_preferences.py, which draws from these generators until a family is full. Each yields
`(prompt, chosen, rejected)` texts for ever; a rejected text is the bare bad answer, filler is put around
it later.
"""

import ast
import json
import operator
from calendar import day_name, month_name
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from itertools import cycle
from random import Random
from typing import Any

Texts = tuple[str, str, str]

Pools = dict[str, list[str]]

# Share of computed pairs whose two answers have the same shape.
ALIKE = 0.4

MONTHS, WEEKDAYS = list(month_name), list(day_name)
OPERATIONS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}


def solve(formula: str, values: dict[str, int]) -> int:
    """Value of an integer formula such as `2 * (a + b)`; ValueError for anything but + - *."""

    def value(node: ast.expr) -> int:
        match node:
            case ast.Name(id=name):
                return values[name]
            case ast.Constant(value=int(number)):
                return number
            case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATIONS:
                return OPERATIONS[type(op)](value(left), value(right))
        raise ValueError(f"not a sum: {formula}")

    return value(ast.parse(formula, mode="eval").body)


def near_miss(rng: Random, right: int) -> int:
    """A plausible wrong result."""
    return rng.choice([w for w in (right - 10, right - 2, right + 3, right + 10, right + 20) if w > 0])


def formulas(rng: Random, templates: list[Any]) -> Iterator[Texts]:
    """Fill templates in turn: answer first, then the working, against a wrong result.

    In some pairs the wrong result is given just like the right one, so that only the number tells.
    """
    for question, answer, working, wrong, a_range, b_range, solutions in cycle(templates):
        values = {"a": rng.randint(*a_range), "b": rng.randint(*b_range)}
        values |= {name: solve(formula, values) for name, formula in solutions.items()}
        values["w"] = near_miss(rng, values["n"])
        right = f"{answer}. {working}"
        if "{w}" in wrong and rng.random() < ALIKE:
            wrong = right.replace("{n}", "{w}")
        yield question.format(**values), right.format(**values), wrong.format(**values)


def spoken(day: date) -> str:
    """Day, month and year: `4 July 1976`."""
    return f"{day.day} {MONTHS[day.month]} {day.year}"


def weekday_after(rng: Random) -> Texts:
    start, weeks, rest = rng.randrange(7), rng.randint(1, 4), rng.randint(1, 6)
    days = 7 * weeks + rest
    right, wrong = WEEKDAYS[(start + days) % 7], WEEKDAYS[(start + days + rng.randint(1, 6)) % 7]
    return (
        f"Which day of the week comes {days} days after a {WEEKDAYS[start]}?",
        f"{right}. {days} − {7 * weeks} = {rest}, and whole weeks change nothing.",
        f"That will be a {wrong}.",
    )


def date_after(rng: Random) -> Texts:
    start, days = date(rng.randint(1990, 2030), rng.randint(1, 12), rng.randint(18, 28)), rng.randint(12, 28)
    end = start + timedelta(days=days)
    return (
        f"What date is {days} days after {spoken(start)}?",
        f"{spoken(end)}.",
        f"That will be {spoken(end + timedelta(days=rng.choice((-3, -1, 2, 10))))}.",
    )


def days_between(rng: Random) -> Texts:
    month, first, gap = rng.randint(3, 12), rng.randint(1, 12), rng.randint(5, 16)
    name, last = MONTHS[month], first + gap
    return (
        f"How many days is it from {first} {name} to {last} {name}?",
        f"{gap} days. {last} − {first} = {gap}.",
        f"It is {near_miss(rng, gap)} days from the one to the other.",
    )


def leap_year(rng: Random) -> Texts:
    year = rng.randint(1901, 2099)
    right, wrong = ("Yes", "is no leap year") if year % 4 == 0 else ("No", "is a leap year")
    reason = "can be divided by 4" if year % 4 == 0 else "can't be divided by 4"
    return f"Is {year} a leap year?", f"{right}. {year} {reason}.", f"The year {year} {wrong}, as I remember."


def dates(rng: Random) -> Iterator[Texts]:
    """Calendar questions in turn."""
    for make in cycle((weekday_after, date_after, days_between, leap_year)):
        yield make(rng)


def people(rng: Random, pools: Pools) -> tuple[str, dict[str, Any]]:
    name, age, city = rng.choice(pools["first_names"]), rng.randint(19, 78), rng.choice(pools["cities"])
    return f"{name} is {age} years old and lives in {city}.", {"name": name, "age": age, "city": city}


def orders(rng: Random, pools: Pools) -> tuple[str, dict[str, Any]]:
    item, count, price = rng.choice(pools["goods"]), rng.randint(2, 40), rng.randint(2, 30)
    return f"{count} {item} at ${price} each.", {"item": item, "quantity": count, "price": price}


def meetings(rng: Random, pools: Pools) -> tuple[str, dict[str, Any]]:
    day, hour, room = rng.choice(WEEKDAYS), rng.randint(9, 16), rng.randint(101, 320)
    text = f"We meet on {day} at {hour}:00 in room {room}."
    return text, {"day": day, "time": f"{hour}:00", "room": room}


def books(rng: Random, pools: Pools) -> tuple[str, dict[str, Any]]:
    author = f"{rng.choice(pools['first_names'])} {rng.choice(pools['last_names'])}"
    title, year = rng.choice(pools["titles"]), rng.randint(1950, 2020)
    return f"{title} by {author}, {year}.", {"title": title, "author": author, "year": year}


def flights(rng: Random, pools: Pools) -> tuple[str, dict[str, Any]]:
    start, end = rng.sample(pools["cities"], 2)
    direct = rng.random() < 0.5
    kind = "direct" if direct else "with one stop"
    return f"A flight from {start} to {end}, {kind}.", {"from": start, "to": end, "direct": direct}


def as_json(rng: Random, pools: Pools) -> Iterator[Texts]:
    """Extraction into JSON with given keys, against prose, a colon list, or JSON that is broken or keyless."""
    asks = (
        "Turn this into JSON with the keys {keys}: {text}",
        "Return only a JSON object with {keys}. Text: {text}",
        "Extract {keys} as JSON, without any comment. {text}",
    )
    for make, ask in zip(cycle((people, orders, meetings, books, flights)), cycle(asks), strict=False):
        text, record = make(rng, pools)
        keys = ", ".join(record)
        bad = rng.choice(
            (
                "That would be " + ", ".join(f"{k} {v}" for k, v in record.items()) + ".",
                "\n".join(f"{key.capitalize()}: {value}" for key, value in record.items()),
                json.dumps(list(record.values())),
                "Here it is: { " + "; ".join(f"{k} = {v}" for k, v in record.items()) + " }",
            )
        )
        yield ask.format(keys=keys, text=text), json.dumps(record), bad


def sort_words(rng: Random, pools: Pools) -> Texts:
    words = rng.sample(pools["words"], 5)
    prompt = f"Sort these words from A to Z and separate them with commas: {' '.join(words)}"
    return (
        prompt,
        ", ".join(sorted(words)),
        ", ".join(sorted(words, reverse=True)),
    )


def capitals(rng: Random, pools: Pools) -> Texts:
    text = rng.choice(pools["sentences"])
    prompt = f"Write this in capital letters and add nothing else: {text}"
    return prompt, text.upper(), f"It would be: {text.capitalize()}."


def initials(rng: Random, pools: Pools) -> Texts:
    first, middle, last = (
        rng.choice(pools["first_names"]),
        rng.choice(pools["first_names"]),
        rng.choice(pools["last_names"]),
    )
    prompt = f"Give only the initials, with full stops: {first} {middle} {last}"
    return (
        prompt,
        f"{first[0]}.{middle[0]}.{last[0]}.",
        f"The initials are {first[:2]} and {last[:2]}.",
    )


def iso_date(rng: Random, pools: Pools) -> Texts:
    day = date(rng.randint(1900, 2030), rng.randint(1, 12), rng.randint(1, 28))
    bad = f"That is {day.day}/{day.month}/{day.year % 100:02d}."
    return f"Write {spoken(day)} as YYYY-MM-DD, nothing more.", day.isoformat(), bad


def count_words(rng: Random, pools: Pools) -> Texts:
    text = rng.choice(pools["sentences"])
    right = len(text.split())
    prompt = f"How many words are in this sentence? Reply with the number only: {text}"
    return prompt, str(right), f"It has about {right + rng.choice((-2, 2, 3))} words."


def repeat_word(rng: Random, pools: Pools) -> Texts:
    word = rng.choice(pools["words"])
    prompt = f'Repeat the word "{word}" three times, joined by hyphens.'
    return prompt, "-".join([word] * 3), f"I can repeat it: {word} {word}."


def yes_or_no(rng: Random, pools: Pools) -> Texts:
    divisor = rng.randint(3, 9)
    number = divisor * rng.randint(5, 14) + rng.choice((0, 1))
    right = "Yes" if number % divisor == 0 else "No"
    prompt = f"Answer only yes or no: can {number} be divided by {divisor} without remainder?"
    return prompt, right, f"One has to look closely at {number} and {divisor}."


def text_tasks(rng: Random, pools: Pools) -> Iterator[Texts]:
    """Exact text operations in turn: the result and nothing else, against talk about it."""
    for make in cycle((sort_words, capitals, initials, iso_date, count_words, repeat_word, yes_or_no)):
        yield make(rng, pools)
