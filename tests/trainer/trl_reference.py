"""Token ids by TRL's own DPO preprocessing, and the file of them that tests without TRL compare with.

``python -m tests.trainer.trl_reference`` writes the file again; it needs TRL, torch and npm.
"""

import copy
import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer, PreTrainedTokenizerBase

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).parent / "golden" / "trl_ids.json"
PREFERENCES = ROOT / "examples" / "data" / "preferences.jsonl"
# Beside the repository, never in it: 300 real pairs, only read where they are.
DEMO = ROOT.parent / "shared" / "data" / "dpo_en_demo.json"
SHAREGPT = {"human": "user", "gpt": "assistant"}
Row = dict[str, Any]
Ids = list[int]
Triple = tuple[Ids, Ids, Ids]


def user(text: str) -> Row:
    """A message of the user."""
    return {"role": "user", "content": text}


def assistant(text: str, **fields: str) -> Row:
    """A message of the assistant."""
    return {"role": "assistant", "content": text} | fields


def pair(prompt: list[Row], chosen: Sequence[Row], rejected: Sequence[Row]) -> Row:
    """A row with an explicit prompt."""
    return {"prompt": prompt, "chosen": list(chosen), "rejected": list(rejected)}


GOOD, BAD = assistant("It is green."), assistant("I do not know.")
SYSTEM = {"role": "system", "content": "Answer briefly."}
# Rows whose prompt, rendered alone, is how both whole conversations begin.
CASES: dict[str, Row] = {
    "one turn": pair([user("Which colour is grass?")], [GOOD], [BAD]),
    "system": pair([SYSTEM, user("Which colour is grass?")], [GOOD], [BAD]),
    "several turns": pair([user("Hi"), assistant("Hello!"), user("Which colour is grass?")], [GOOD], [BAD]),
    "thoughts in one answer": pair(
        [user("Which colour is grass?")],
        [assistant("<think>\nChlorophyll.\n</think>\n\nIt is green.")],
        [BAD],
    ),
    "thoughts in both answers": pair(
        [user("Which colour is grass?")],
        [assistant("<think>\nChlorophyll.\n</think>\n\nIt is green.")],
        [assistant("<think>No idea.</think>Blue?")],
    ),
    "thoughts in a field": pair(
        [user("Which colour is grass?")],
        [assistant("It is green.", reasoning_content="Chlorophyll.")],
        [assistant("Blue?", reasoning_content="No idea.")],
    ),
    "thoughts in the history": pair(
        [user("Hi"), assistant("<think>\nGreet.\n</think>\n\nHello!"), user("Which colour is grass?")],
        [GOOD],
        [BAD],
    ),
    "several turns of completion": pair(
        [user("Which colour is grass?")],
        [GOOD, user("And the sky?"), assistant("Blue.")],
        [BAD, user("And the sky?"), assistant("Who knows.")],
    ),
    "no thinking": pair([user("Which colour is grass?")], [GOOD], [BAD])
    | {"chat_template_kwargs": {"enable_thinking": False}},
    "other scripts": pair([user("日本の首都は？")], [assistant("東京です。😀")], [assistant("مرحبا")]),
    "white space": pair([user("  spaces  \n")], [assistant("a  b\t\n c")], [assistant("a b \n")]),
    "prompt within the sides": {
        "chosen": [SYSTEM, user("Which colour is grass?"), GOOD],
        "rejected": [SYSTEM, user("Which colour is grass?"), BAD],
    },
    "text": {"prompt": "Grass is", "chosen": " green.", "rejected": " of no known colour."},
    "text over several lines": {"prompt": "Q: grass?\nA:\n", "chosen": "Green.\n", "rejected": "Blue."},
}

# Rows of which our ids differ from TRL's on purpose; test_trl_ids.py says why, one test each.
DIFFERENT: dict[str, Row] = {
    "after the EOS": CASES["one turn"],
    "second EOS": pair([user("Which colour is grass?")], [assistant("It is green.<|im_end|>")], [BAD]),
    "token across the boundary": {"prompt": "Name a colour.", "chosen": ".. green", "rejected": ".. blue"},
    "another speaker": {
        "chosen": [user("Hi"), assistant("Hello!"), user("Grass?"), GOOD],
        "rejected": [user("Hi"), assistant("Hello!"), user("And grass?"), BAD],
    },
}


def trl_ids(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row]) -> list[Triple]:
    """Return prompt, chosen and rejected ids of rows, as ``trl.DPOTrainer`` makes them."""
    from trl import DPOTrainer

    arguments = SimpleNamespace(dataset_num_proc=None, max_length=None, truncation_mode="keep_start")
    made = DPOTrainer._prepare_dataset(
        SimpleNamespace(_tokenizer=tokenizer),
        Dataset.from_list(copy.deepcopy(list(rows))),
        tokenizer,
        arguments,
        "train",
    )
    return [(row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) for row in made]


def until_eos(ids: Ids, end: int) -> Ids:
    """Leave out what a template writes after the last EOS: it is never generated."""
    return ids[: len(ids) - ids[::-1].index(end)]


def expected(tokenizer: PreTrainedTokenizerBase, triple: Triple) -> Triple:
    """Return TRL's ids with each completion ending at its EOS."""
    prompt, chosen, rejected = triple
    end = tokenizer.eos_token_id
    return prompt, until_eos(chosen, end), until_eos(rejected, end)


def digest(triples: Sequence[Triple]) -> str:
    """Return a hash of many ids."""
    return hashlib.sha256(json.dumps(list(triples)).encode()).hexdigest()


def preferences() -> list[Row]:
    """The pairs of examples/data."""
    return [json.loads(line) for line in PREFERENCES.read_text().splitlines()]


def demo() -> list[Row]:
    """The ShareGPT pairs as TRL reads them: roles, content, an explicit prompt."""
    return [
        pair(messages(row["conversations"]), messages([row["chosen"]]), messages([row["rejected"]]))
        for row in json.loads(DEMO.read_text())
    ]


def messages(turns: Sequence[Row]) -> list[Row]:
    """ShareGPT's turns with the usual names."""
    return [{"role": SHAREGPT.get(turn["from"], turn["from"]), "content": turn["value"]} for turn in turns]


def golden(folder: Path) -> Row:
    """Return what is recorded of one tokenizer."""
    from datasets import disable_progress_bars

    disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    cases = {name: expected(tokenizer, trl_ids(tokenizer, [row])[0]) for name, row in CASES.items()}
    different = {name: trl_ids(tokenizer, [row])[0] for name, row in DIFFERENT.items()}
    many = {"preferences": preferences()} | ({"demo": demo()} if DEMO.is_file() else {})
    digests = {
        name: digest([expected(tokenizer, triple) for triple in trl_ids(tokenizer, rows)])
        for name, rows in many.items()
    }
    return {"cases": cases, "different": different, "digests": digests}


def main() -> None:
    """Write the file."""
    from tests.trainer import real_tokenizers

    made = {
        "versions": {name: version(name) for name in ("trl", "transformers", "tokenizers")},
        "smollm2": golden(real_tokenizers.smollm2()),
        "qwen3": golden(real_tokenizers.qwen3()),
    }
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(
        json.dumps(made, indent=None, separators=(",", ":")).replace('"cases":', '\n"cases":') + "\n"
    )


if __name__ == "__main__":
    main()
