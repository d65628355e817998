"""Write the demo's preference data: 300 English pairs in conversational form, one JSON object per line.

Run by hand when the material changes; the result, preferences.jsonl, is committed beside this file and read
by examples/smollm2-demo.yaml. The same seed always gives the same bytes. What people prefer in the chosen
answers: right over wrong, to the point over rambling, the asked format over another one, "I can't know
that" over invention.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import Any

import preference_tasks as tasks
from preference_tasks import Texts

HERE = Path(__file__).resolve().parent
SEED = 20261123

# Family: (number of pairs, share of rejected answers with an opener, share with a closer).
FAMILIES: dict[str, tuple[int, float, float]] = {
    "facts": (40, 0.5, 0.0),
    "sums": (30, 0.7, 0.2),
    "units": (22, 0.6, 0.1),
    "dates": (8, 0.6, 0.1),
    "lists": (30, 0.6, 0.1),
    "one_word": (20, 0.4, 0.0),
    "json": (28, 0.6, 0.2),
    "tables": (24, 0.7, 0.2),
    "text_tasks": (30, 0.5, 0.0),
    "to_the_point": (38, 0.5, 0.0),
    "honesty": (30, 0.5, 0.0),
}
LIST_STYLES = (
    ("List three {topic} as a numbered list.", "{index}. {item}", "\n"),
    ("Give me three {topic}, one per line, each after a dash.", "- {item}", "\n"),
    ("Name exactly three {topic} on one line, separated by commas.", "{item}", ", "),
)


@dataclass(frozen=True)
class Pair:
    """One prompt with the answer people prefer and one they do not."""

    family: str
    prompt: str
    chosen: str
    rejected: str

    def as_row(self) -> dict[str, Any]:
        """The conversational form that DPO trainers read."""
        answers = {"chosen": self.chosen, "rejected": self.rejected}
        return {"prompt": [{"role": "user", "content": self.prompt}]} | {
            column: [{"role": "assistant", "content": text}] for column, text in answers.items()
        }


def lists(rng: Random, material: list[Any]) -> Iterator[Texts]:
    """Three items in the asked shape, against another count or shape."""
    for (topic, pool), (ask, line, separator) in zip(material, cycle(LIST_STYLES), strict=False):
        items = rng.sample(pool, 5)
        shown = [item if separator == ", " else item[0].upper() + item[1:] for item in items[:3]]
        chosen = separator.join(line.format(index=i, item=item) for i, item in enumerate(shown, 1))
        bad = (
            f"To name a few: {', '.join(items[:4])}, and so on.",
            f"I can think of two: {items[0]}, and {items[1]}, for example.",
            "\n".join(f"* {item}" for item in items),
            separator.join(line.format(index=i, item=item) for i, item in enumerate(shown[:2], 1)),
            f"For example: {items[0]}, but it depends.",
        )
        yield ask.format(topic=topic), chosen, rng.choice(bad)


def tables(rng: Random, material: list[Any]) -> Iterator[Texts]:
    """A Markdown table with the asked columns, against prose, a list or a table of another shape."""
    for left, right, about, cells in material:
        rows = rng.sample(sorted(cells), 6)
        for picked in (rows[:3], rows[3:]):
            head = f"| {left} | {right} |\n|---|---|\n"
            body = "\n".join(f"| {row} | {cells[row]} |" for row in picked)
            prompt = f"Make a table with the columns {left} and {right} for {', '.join(picked)}."
            facts = [f"for {row} it is {cells[row]}" for row in picked]
            bad = (
                f"This is about {about}. {facts[0].capitalize()}, and so on.",
                f"{', '.join(facts[:2])}, and {facts[2]}.".capitalize(),
                "\n".join(f"{row} = {cells[row]}" for row in picked),
                body,
            )
            yield prompt, head + body, rng.choice(bad)


def padded(rng: Random, text: str, material: dict[str, Any], opener: float, closer: float) -> str:
    """`text` with the filler that people dislike, at the family's shares."""
    gap = "\n" if "\n" in text else " "
    if rng.random() < opener:
        text = f"{rng.choice(material['openers'])}{gap}{text}"
    if rng.random() < closer:
        text = f"{text}{gap}{rng.choice(material['closers'])}"
    return text


def family_texts(rng: Random, name: str, material: dict[str, Any]) -> Iterator[Texts]:
    """Texts of one family: hand-written where material.json has complete rows, else put together."""
    match name:
        case "sums" | "units":
            return tasks.formulas(rng, material[name])
        case "dates":
            return tasks.dates(rng)
        case "json":
            return tasks.as_json(rng, material["pools"])
        case "text_tasks":
            return tasks.text_tasks(rng, material["pools"])
        case "lists":
            return lists(rng, material[name])
        case "tables":
            return tables(rng, material[name])
    return (tuple(row) for row in material[name])


def distinct(texts: Iterator[Texts]) -> Iterator[Texts]:
    """Leave out a prompt that was drawn before."""
    seen: set[str] = set()
    for row in texts:
        if row[0] not in seen:
            seen.add(row[0])
            yield row


def make_pairs(seed: int = SEED) -> list[Pair]:
    """All pairs, shuffled, so that any split has every family."""
    material = json.loads((HERE / "material.json").read_text(encoding="utf-8"))
    pairs = []
    for name, (count, opener, closer) in FAMILIES.items():
        rng = Random(f"{seed}/{name}")
        rows = list(islice(distinct(family_texts(rng, name, material)), count))
        for prompt, chosen, rejected in rows:
            pairs.append(Pair(name, prompt, chosen, padded(rng, rejected, material, opener, closer)))
    Random(seed).shuffle(pairs)
    return pairs


def as_jsonl(pairs: list[Pair]) -> str:
    """One JSON object per line."""
    return "".join(json.dumps(pair.as_row(), ensure_ascii=False) + "\n" for pair in pairs)


def summary(pairs: list[Pair]) -> str:
    """Counts and mean lengths in characters by family, as the data card shows them."""
    lines = ["| Family | Pairs | Prompt | Chosen | Rejected |", "|---|---|---|---|---|"]
    for name in (*FAMILIES, "all"):
        some = [pair for pair in pairs if name in (pair.family, "all")]
        means = [
            sum(len(getattr(pair, column)) for pair in some) / len(some)
            for column in ("prompt", "chosen", "rejected")
        ]
        lines.append(f"| {name} | {len(some)} | " + " | ".join(f"{mean:.0f}" for mean in means) + " |")
    return "\n".join(lines)


def main() -> None:
    """Write the file and print the data card's table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=SEED, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=HERE / "preferences.jsonl", help="default: %(default)s")
    wanted = parser.parse_args()
    pairs = make_pairs(wanted.seed)
    wanted.out.write_text(as_jsonl(pairs), encoding="utf-8", newline="\n")
    print(f"{wanted.out}: {len(pairs)} pairs; mean lengths in characters:\n{summary(pairs)}")


if __name__ == "__main__":
    main()
