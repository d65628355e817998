"""Our token ids beside those of TRL's own DPO preprocessing, with SmolLM2's and Qwen3's real tokenizers.

TRL's ids are recorded in golden/trl_ids.json; where TRL is installed, a test compares the record with it.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.trainer import manifests, real_tokenizers, trl_reference
from tests.trainer.trl_reference import CASES, DEMO, DIFFERENT, PREFERENCES, Row, Triple
from transformers import PreTrainedTokenizerBase

from dpojob_api.input_spec import ColumnsSpec
from dpojob_trainer import data
from dpojob_trainer.data.rows import read_pair
from dpojob_trainer.data.tokens import Lengths, encode_pairs, texts_of

GOLDEN: Row = json.loads(trl_reference.GOLDEN.read_text())
FOLDERS: dict[str, Callable[[], Path]] = {
    "smollm2": real_tokenizers.smollm2,
    "qwen3": real_tokenizers.qwen3,
}
LONG = {"maxPromptLength": 8192, "maxCompletionLength": 8192}


@pytest.fixture(scope="module", params=list(FOLDERS))
def name(request: pytest.FixtureRequest) -> str:
    """Which tokenizer."""
    return str(request.param)


@pytest.fixture(scope="module")
def folder(name: str) -> Path:
    """The tokenizer's files."""
    return FOLDERS[name]()


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer as the trainer loads it."""
    return data.load_tokenizer(folder)


def ours(tokenizer: PreTrainedTokenizerBase, row: Row) -> Triple:
    """Our ids of a row."""
    pair = read_pair(row, ColumnsSpec(prompt="prompt" if "prompt" in row else None))
    (made,) = encode_pairs(tokenizer, [texts_of(tokenizer, pair)], Lengths(8192, 8192))
    return made.prompt, made.chosen, made.rejected


def different(name: str, case: str) -> Triple:
    """TRL's ids of a row that is treated differently on purpose."""
    prompt, chosen, rejected = GOLDEN[name]["different"][case]
    return prompt, chosen, rejected


@pytest.mark.parametrize("case", CASES)
def test_ids_are_those_of_trl(name: str, tokenizer: PreTrainedTokenizerBase, case: str) -> None:
    assert list(ours(tokenizer, CASES[case])) == GOLDEN[name]["cases"][case]


def digest_of(folder: Path, workdir: Path, path: Path, prompt: str) -> str:
    """The hash of the ids that the whole way from the file gives."""
    config = manifests.config(dataset={"columns": {"prompt": prompt}}, dpo=LONG)
    rows: Any = data.examine(config, folder, workdir, path).train
    return trl_reference.digest([(row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) for row in rows])


def test_all_example_pairs(name: str, folder: Path, tmp_path: Path) -> None:
    assert digest_of(folder, tmp_path, PREFERENCES, "prompt") == GOLDEN[name]["digests"]["preferences"]


@pytest.mark.skipif(not DEMO.is_file(), reason=f"{DEMO} is not there")
def test_all_real_sharegpt_pairs(name: str, folder: Path, tmp_path: Path) -> None:
    assert digest_of(folder, tmp_path, DEMO, "conversations") == GOLDEN[name]["digests"]["demo"]


def test_nothing_after_the_eos(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """TRL trains on the template's line break after the EOS, where generation has ended."""
    prompt, chosen, rejected = different(name, "after the EOS")
    line_break = tokenizer("\n")["input_ids"]
    mine = ours(tokenizer, DIFFERENT["after the EOS"])
    assert (prompt, chosen, rejected) == (mine[0], mine[1] + line_break, mine[2] + line_break)


def test_one_eos(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """An EOS in the data and the template's are two to TRL; after the first nothing is generated."""
    end = tokenizer.eos_token_id
    assert different(name, "second EOS")[1].count(end) == 2
    assert ours(tokenizer, DIFFERENT["second EOS"]) == ours(tokenizer, CASES["one turn"])


def test_prompt_keeps_its_own_tokens(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """TRL cuts the prompt where its last token would merge with the completion: a context that never occurs."""
    row = DIFFERENT["token across the boundary"]
    theirs, mine = different(name, "token across the boundary"), ours(tokenizer, row)
    assert mine[0] == tokenizer(row["prompt"])["input_ids"]
    assert len(theirs[0]) < len(mine[0]) and theirs[0] == mine[0][: len(theirs[0])]
    for side in (1, 2):
        assert tokenizer.decode(mine[0] + mine[side]) == tokenizer.decode(theirs[0] + theirs[side])


def test_another_speaker_after_the_common_beginning(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """At most the boundary differs, by tokens that both completions share: they cancel in the margin."""
    theirs, mine = different(name, "another speaker"), ours(tokenizer, DIFFERENT["another speaker"])
    theirs = trl_reference.expected(tokenizer, theirs)
    assert theirs[0][: len(mine[0])] == mine[0]
    for side in (1, 2):
        assert mine[0] + mine[side] == theirs[0] + theirs[side]


def test_record_is_what_trl_gives(name: str, folder: Path) -> None:
    pytest.importorskip("trl", reason="TRL is not installed; its recorded ids stand in")
    made = json.loads(json.dumps(trl_reference.golden(folder)))
    recorded = GOLDEN[name]
    recorded["digests"] = {key: recorded["digests"][key] for key in made["digests"]}
    assert made == recorded
