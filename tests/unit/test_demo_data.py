"""The demo's preference data: reproducible, right where a chosen answer can be computed, and balanced.

Right answers are recomputed here from the prompt's text alone, without the generator's formulas.
"""

import importlib
import json
import re
import sys
from calendar import day_name, isleap
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from statistics import mean
from types import ModuleType
from typing import Any

import pytest

DATA = Path(__file__).resolve().parents[2] / "examples" / "data"
ROWS = [json.loads(line) for line in (DATA / "preferences.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    """make_preferences.py as a module; it finds its sibling module as it does when run as a script."""
    sys.path.insert(0, str(DATA))
    try:
        return importlib.import_module("make_preferences")
    finally:
        sys.path.remove(str(DATA))


def texts(row: dict[str, Any]) -> tuple[str, str, str]:
    """Prompt, chosen and rejected text of a row."""
    return row["prompt"][0]["content"], row["chosen"][0]["content"], row["rejected"][0]["content"]


def pairs_of(generator: ModuleType, *families: str) -> list[Any]:
    return [pair for pair in generator.make_pairs() if pair.family in families]


def pseudo_tokens(text: str) -> int:
    """Words, single digits and punctuation marks: close to what SmolLM2's tokenizer counts."""
    return len(re.findall(r"\d|[^\W\d]+|[^\w\s]", text))


def is_answer(right: str, chosen: str) -> bool:
    """Whether `chosen` begins with `right`, and not with a longer number."""
    return re.match(re.escape(right) + r"(?![\d,])", chosen) is not None


def day(text: str) -> datetime:
    return datetime.strptime(text, "%d %B %Y")


def weekday_after(days: str, start: str) -> str:
    return day_name[(list(day_name).index(start) + int(days)) % 7]


def date_after(days: str, start: str) -> str:
    end = day(start) + timedelta(days=int(days))
    return f"{end.day} {end:%B %Y}"


def film_end(minute: str, length: str) -> str:
    end = datetime(2000, 1, 1, 19, int(minute)) + timedelta(minutes=int(length))
    return f"{end.hour - 12}:{end:%M} pm"


def number(solve: Callable[..., float], unit: str = "{}") -> Callable[..., str]:
    """A solution on the prompt's numbers whose result must be whole."""

    def solved(*found: str) -> str:
        result = solve(*map(float, found))
        assert result == int(result), found
        return unit.format(int(result))

    return solved


N = r"(\d+(?:\.\d+)?)"
SOLUTIONS: dict[str, Callable[..., str]] = {
    rf"What is {N} times {N}\?": number(lambda a, b: a * b),
    rf"How much is {N} plus {N}\?": number(lambda a, b: a + b),
    rf"I had {N} stickers and gave away {N}\. .*": number(lambda a, b: a - b),
    rf"{N} friends share a bill of \${N} .*": number(lambda a, b: b / a, "${}"),
    rf"What is {N} % of {N}\?": number(lambda a, b: a * b / 100),
    rf"A car drives {N} km in {N} hours\. .*": number(lambda a, b: a / b, "{} km/h"),
    rf"I buy {N} notebooks at \${N} each and pay with a \$100 note\..*": number(
        lambda a, b: 100 - a * b, "${}"
    ),
    rf"What is the area of a room that is {N} m long and {N} m wide\?": number(lambda a, b: a * b, "{} m²"),
    rf"What is the perimeter .* sides of {N} cm and {N} cm\?": number(lambda a, b: 2 * a + 2 * b, "{} cm"),
    rf"What is the average of {N}, {N} and {N}\?": number(lambda a, b, c: (a + b + c) / 3),
    rf"I read {N} pages a day\. .* for {N} pages\?": number(lambda a, b: b / a, "{} days"),
    rf"A shirt costs \${N} and is {N} % off\. .*": number(lambda a, b: a * (100 - b) / 100, "${}"),
    rf"A recipe for {N} people needs {N} g of rice\. .* for {N} .*": number(
        lambda a, b, c: b / a * c, "{} g"
    ),
    rf"Double {N} and then subtract {N}\. .*": number(lambda a, b: 2 * a - b),
    rf"Eggs come in boxes of {N}\. .* for {N} eggs\?": number(lambda a, b: -(-b // a), "{} boxes"),
    rf"How many minutes are {N} hours\?": number(lambda a: a * 60, "{} minutes"),
    rf"Convert {N} kilometres to metres\.": number(lambda a: a * 1000, "{} metres"),
    rf"How many grams are {N} kilograms\?": number(lambda a: a * 1000, "{} grams"),
    rf"How many seconds are in {N} minutes\?": number(lambda a: a * 60, "{} seconds"),
    rf"Convert {N} degrees Celsius to Fahrenheit\.": number(lambda a: a * 1.8 + 32, "{} degrees Fahrenheit"),
    rf"How many days are in {N} weeks\?": number(lambda a: a * 7, "{} days"),
    rf"How many millilitres are {N} litres\?": number(lambda a: a * 1000, "{} millilitres"),
    rf"How many inches are {N} feet\?": number(lambda a: a * 12, "{} inches"),
    rf"Someone was born in May {N}\. .* in {N}\?": number(lambda a, b: b - a),
    r"A film starts at 7:(\d+) pm and runs for (\d+) minutes\. .*": film_end,
    rf"Which century does the year {N} belong to\?": number(lambda a: (a - 1) // 100 + 1, "The {}th century"),
    r"Which day of the week comes (\d+) days after a (\w+)\?": weekday_after,
    r"What date is (\d+) days after (.+)\?": date_after,
    rf"How many days is it from {N} \w+ to {N} \w+\?": number(lambda a, b: b - a, "{} days"),
    r"Is (\d+) a leap year\?": lambda year: "Yes" if isleap(int(year)) else "No",
}


def expected(prompt: str) -> str:
    """The right answer to a computable prompt, from its text."""
    hits = [(pattern, hit) for pattern in SOLUTIONS if (hit := re.fullmatch(pattern, prompt))]
    assert len(hits) == 1, f"{len(hits)} patterns fit {prompt!r}"
    pattern, hit = hits[0]
    return SOLUTIONS[pattern](*hit.groups())


def test_the_same_seed_gives_the_committed_bytes(generator: ModuleType, tmp_path: Path) -> None:
    made = generator.as_jsonl(generator.make_pairs()).encode()
    assert made == (DATA / "preferences.jsonl").read_bytes(), "run examples/data/make_preferences.py"


def test_another_seed_gives_other_data(generator: ModuleType) -> None:
    assert generator.make_pairs(1) != generator.make_pairs()


def test_every_row_is_conversational() -> None:
    for row in ROWS:
        assert list(row) == ["prompt", "chosen", "rejected"]
        roles = [[turn["role"] for turn in row[column]] for column in row]
        assert roles == [["user"], ["assistant"], ["assistant"]]
        assert all(text and text == text.strip() for text in texts(row))


def test_300_prompts_and_none_twice() -> None:
    prompts = {" ".join(re.findall(r"\w+|[^\w\s]", texts(row)[0].lower())) for row in ROWS}
    assert len(prompts) == len(ROWS) == 300


def test_chosen_and_rejected_differ_in_more_than_filler(generator: ModuleType) -> None:
    material = json.loads((DATA / "material.json").read_text(encoding="utf-8"))
    for row in ROWS:
        _, chosen, rejected = texts(row)
        for filler in (*material["openers"], *material["closers"]):
            rejected = rejected.replace(filler, "").strip()
        assert rejected, row
        assert chosen != rejected


def test_no_family_has_more_than_a_fifth(generator: ModuleType) -> None:
    counts = Counter(pair.family for pair in generator.make_pairs())
    assert len(counts) >= 8
    assert max(counts.values()) <= 300 / 5
    assert counts == {name: share[0] for name, share in generator.FAMILIES.items()}


def test_length_alone_does_not_tell_chosen_from_rejected() -> None:
    lengths = [tuple(map(pseudo_tokens, texts(row)[1:])) for row in ROWS]
    chosen, rejected = (mean(column) for column in zip(*lengths, strict=True))
    assert chosen == pytest.approx(rejected, rel=0.15)
    assert 0.4 < mean(c > r for c, r in lengths) < 0.6


def test_pairs_are_short() -> None:
    longest = max(pseudo_tokens(prompt) + max(map(pseudo_tokens, both)) for prompt, *both in map(texts, ROWS))
    assert longest < 120


def test_every_computed_answer_is_right_and_its_rejected_one_wrong(generator: ModuleType) -> None:
    computed = pairs_of(generator, "sums", "units", "dates")
    assert len(computed) == 60
    for pair in computed:
        right = expected(pair.prompt)
        assert is_answer(right, pair.chosen), (pair.prompt, right, pair.chosen)
        if right not in ("Yes", "No"):
            assert re.search(rf"(?<![\d:]){re.escape(right)}(?!\d)", pair.rejected) is None, pair


def test_every_working_adds_up(generator: ModuleType) -> None:
    equations = [
        (pair, *found)
        for pair in pairs_of(generator, "sums", "units", "dates")
        for found in re.findall(r"(\d[\d ()+−×/]*) = (\d+)", pair.chosen)
    ]
    assert len(equations) > 30
    for pair, left, right in equations:
        assert evaluate(left) == int(right), pair


def evaluate(expression: str) -> float:
    """Value of a working such as `15 × 9 / 5 + 32` or `2 × (3 + 4)`."""
    inner = re.sub(r"\(([^()]*)\)", lambda hit: str(int(evaluate(hit[1]))), expression)
    tokens = inner.split()
    terms = [float(tokens[0])]
    for sign, operand in zip(tokens[1::2], map(float, tokens[2::2]), strict=True):
        match sign:
            case "×":
                terms[-1] *= operand
            case "/":
                terms[-1] /= operand
            case "+" | "−":
                terms.append(operand if sign == "+" else -operand)
            case _:
                raise AssertionError(f"unknown sign in {expression!r}")
    return sum(terms)


def parsed(text: str) -> Any:
    """The JSON value of `text`; None if it is not JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def test_chosen_json_has_the_asked_keys_and_the_texts_values(generator: ModuleType) -> None:
    for pair in pairs_of(generator, "json"):
        record = json.loads(pair.chosen)
        assert ", ".join(record) in pair.prompt
        assert all(isinstance(value, bool) or str(value) in pair.prompt for value in record.values())
        assert record.get("direct", True) is ("one stop" not in pair.prompt)
        assert parsed(pair.rejected) is None or isinstance(parsed(pair.rejected), list)


def test_chosen_lists_have_three_items_in_the_asked_shape(generator: ModuleType) -> None:
    for pair in pairs_of(generator, "lists"):
        if "commas" in pair.prompt:
            assert re.fullmatch(r"[^,\n]+, [^,\n]+, [^,\n]+", pair.chosen)
        elif "dash" in pair.prompt:
            assert re.fullmatch(r"- .+\n- .+\n- .+", pair.chosen)
        else:
            assert re.fullmatch(r"1\. .+\n2\. .+\n3\. .+", pair.chosen)


def test_chosen_tables_have_the_asked_columns_and_rows(generator: ModuleType) -> None:
    for pair in pairs_of(generator, "tables"):
        asked = re.fullmatch(
            r"Make a table with the columns (.+) and (.+) for (.+), (.+), (.+)\.", pair.prompt
        )
        assert asked, pair.prompt
        head, rule, *rows = pair.chosen.splitlines()
        assert (head, rule) == (f"| {asked[1]} | {asked[2]} |", "|---|---|")
        assert [row.split("|")[1].strip() for row in rows] == [asked[3], asked[4], asked[5]]


def exact_text(prompt: str) -> str:
    """The only right answer to a text task, from its prompt."""
    ask, _, rest = prompt.rpartition(": ")
    if prompt.startswith("Sort"):
        return ", ".join(sorted(rest.split()))
    if prompt.startswith("Write this"):
        return rest.upper()
    if prompt.startswith("Give only the initials"):
        return "".join(f"{name[0]}." for name in rest.split())
    if prompt.startswith("How many words"):
        return str(rest.count(" ") + 1)
    if hit := re.match(r"Write (.+) as YYYY-MM-DD", prompt):
        return f"{day(hit[1]):%Y-%m-%d}"
    if hit := re.match(r'Repeat the word "(\w+)" three times', prompt):
        return f"{hit[1]}-{hit[1]}-{hit[1]}"
    if hit := re.search(r"can (\d+) be divided by (\d+)", prompt):
        return "No" if int(hit[1]) % int(hit[2]) else "Yes"
    raise AssertionError(f"unknown task {ask or prompt!r}")


def test_chosen_text_results_are_exact(generator: ModuleType) -> None:
    for pair in pairs_of(generator, "text_tasks"):
        assert pair.chosen == exact_text(pair.prompt)
        assert pair.chosen not in pair.rejected or pair.chosen in ("Yes", "No")


def test_one_word_is_one_word(generator: ModuleType) -> None:
    for pair in pairs_of(generator, "one_word"):
        assert pair.chosen.isalpha()
        assert pair.rejected not in (pair.chosen, pair.chosen.lower())
