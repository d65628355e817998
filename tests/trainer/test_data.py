"""From data files to token ids, with a small real tokenizer and, if it is there, SmolLM2's."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.trainer import tiny_models
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from dpojob_api.input_spec import ColumnsSpec
from dpojob_api.reasons import TrainerReason
from dpojob_api.trainer_config import TrainerConfig, trainer_config
from dpojob_api.v1alpha1 import DPOJob
from dpojob_trainer.data import PreparedData, prepare
from dpojob_trainer.data.rows import ChatPair, RowError, TextPair, read_pair
from dpojob_trainer.data.split import held_out
from dpojob_trainer.errors import TrainerError

SMOLLM2 = Path("~/.cache/dpojob/models/smollm2-135m").expanduser()
DEMO = Path(__file__).parents[3] / "shared" / "data" / "dpo_en_demo.json"
Row = dict[str, Any]


def user(text: str) -> Row:
    """A message of the user."""
    return {"role": "user", "content": text}


def assistant(text: str) -> Row:
    """A message of the assistant."""
    return {"role": "assistant", "content": text}


def chat_row(number: int) -> Row:
    """A conversation with one turn."""
    return {
        "chosen": [user(f"What is {number}?"), assistant(f"It is {number}.")],
        "rejected": [user(f"What is {number}?"), assistant("no")],
    }


ROWS = [chat_row(number) for number in range(8)]


def config(dataset: Row | None = None, dpo: Row | None = None, batch: int = 4) -> TrainerConfig:
    """A job's configuration; the data set is the folder `d` of the claim `inputs`, and its gate only warns."""
    spec = {
        "model": {"uri": "pvc://inputs/m"},
        "dataset": {"uri": "pvc://inputs/d", "gate": {"onViolation": "Warn"}} | (dataset or {}),
        "dpo": {"maxPromptLength": 64, "maxCompletionLength": 32} | (dpo or {}),
        "training": {"globalBatchSize": batch},
        "accelerator": {"type": "v4-8"},
        "output": {"uri": "pvc://out/x"},
    }
    metadata = {"name": "job", "namespace": "default", "uid": "u"}
    return trainer_config(DPOJob.from_wire({"metadata": metadata, "spec": spec}), attempt=1)


def write_rows(volume: Path, rows: list[Row], name: str = "d/train.jsonl") -> None:
    """Write JSON Lines."""
    (volume / name).parent.mkdir(parents=True, exist_ok=True)
    (volume / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def run(volume: Path, model: Path, rows: list[Row], batch: int = 1, **spec: Any) -> PreparedData:
    """Prepare rows."""
    write_rows(volume, rows)
    return prepare(config(batch=batch, **spec), model)


def refusal(volume: Path, model: Path, rows: list[Row] | None = None, **spec: Any) -> TrainerError:
    """The error that preparing ends with; without rows, the files are there already."""
    if rows is not None:
        write_rows(volume, rows)
    with pytest.raises(TrainerError) as caught:
        prepare(config(**spec), model)
    return caught.value


def texts(data: PreparedData, index: int = 0) -> tuple[str, str, str]:
    """A pair's ids as text."""
    row = data.train[index]
    prompt, chosen, rejected = (
        data.tokenizer.decode(row[name]) for name in ("prompt_ids", "chosen_ids", "rejected_ids")
    )
    return prompt, chosen, rejected


OPEN = "<|im_start|>assistant\n"


class TestTokens:
    def test_one_turn(self, volume: Path, model: Path) -> None:
        data = run(volume, model, ROWS)
        assert texts(data, 3) == (
            f"<|im_start|>user\nWhat is 3?<|im_end|>\n{OPEN}",
            "It is 3.<|im_end|>",
            "no<|im_end|>",
        )
        assert data.train.column_names == ["prompt_ids", "chosen_ids", "rejected_ids"]
        assert data.evaluation is None

    def test_system_and_several_turns(self, volume: Path, model: Path) -> None:
        start = [{"role": "system", "content": "Be brief."}, user("a"), assistant("b"), user("c")]
        row = {"chosen": [*start, assistant("good")], "rejected": [*start, assistant("bad")]}
        assert texts(run(volume, model, [row])) == (
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
            f"<|im_start|>user\nc<|im_end|>\n{OPEN}",
            "good<|im_end|>",
            "bad<|im_end|>",
        )

    def test_conversations_that_part_early(self, volume: Path, model: Path) -> None:
        row = {
            "chosen": [user("a"), assistant("b"), user("c"), assistant("d")],
            "rejected": [user("a"), assistant("x"), user("c"), assistant("d")],
        }
        later = "<|im_end|>\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\nd<|im_end|>"
        assert texts(run(volume, model, [row])) == (
            f"<|im_start|>user\na<|im_end|>\n{OPEN}",
            f"b{later}",
            f"x{later}",
        )

    def test_template_without_eos_gets_one(self, volume: Path, tmp_path: Path) -> None:
        tiny_models.write_tokenizer(
            tmp_path,
            "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}",
        )
        (tmp_path / "config.json").write_text("{}")
        assert texts(run(volume, tmp_path, ROWS)) == (
            "[user]What is 0?\n[assistant]",
            "It is 0.\n<|im_end|>",
            "no\n<|im_end|>",
        )

    def test_template_that_writes_history_differently(self, volume: Path, tmp_path: Path) -> None:
        """Like Qwen3's, which puts an empty thinking block before the last answer only."""
        tiny_models.write_tokenizer(
            tmp_path,
            "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if loop.last and m.role == 'assistant' %}<think>\n\n</think>\n\n"
            "{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        )
        (tmp_path / "config.json").write_text("{}")
        prompt, chosen, _ = texts(run(volume, tmp_path, ROWS))
        assert prompt == f"<|im_start|>user\nWhat is 0?<|im_end|>\n{OPEN}"
        assert chosen == "<think>\n\n</think>\n\nIt is 0.<|im_end|>"

    def test_pad_token_is_eos_if_there_is_none(self, volume: Path, model: Path, tmp_path: Path) -> None:
        (tmp_path / "tokenizer.json").write_bytes((model / "tokenizer.json").read_bytes())
        settings = json.loads((model / "tokenizer_config.json").read_text())
        del settings["pad_token"]
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        (tmp_path / "config.json").write_text("{}")
        tokenizer = run(volume, tmp_path, ROWS).tokenizer
        assert tokenizer.pad_token_id == tokenizer.eos_token_id

    def test_plain_text(self, volume: Path, model: Path) -> None:
        rows = [{"q": "The answer is", "chosen": " yes.", "rejected": " no.<|im_end|>"}]
        data = run(volume, model, rows, dataset={"columns": {"prompt": "q"}})
        assert texts(data) == ("The answer is", " yes.<|im_end|>", " no.<|im_end|>")

    def test_plain_text_without_prompt_column(self, volume: Path, model: Path) -> None:
        rows = [
            {"chosen": "Q: why? A: forwards", "rejected": "Q: why? A: fortunes"},
            {"chosen": "Q: a\nA: good", "rejected": "Q: a\nA: bad"},
            {"chosen": "Q A. More.", "rejected": "Q A."},
        ]
        data = run(volume, model, rows)
        assert texts(data, 0) == ("Q: why? A:", " forwards<|im_end|>", " fortunes<|im_end|>")
        assert texts(data, 1) == ("Q: a\nA:", " good<|im_end|>", " bad<|im_end|>")
        assert texts(data, 2) == ("Q", " A. More.<|im_end|>", " A.<|im_end|>")

    def test_plain_text_gets_the_tokenizers_own_bos_once(
        self, volume: Path, model: Path, tmp_path: Path
    ) -> None:
        tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        tokenizer.post_processor = TemplateProcessing(
            single="<|endoftext|> $A <|im_end|>", special_tokens=[("<|endoftext|>", 0), ("<|im_end|>", 2)]
        )
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        settings = json.loads((model / "tokenizer_config.json").read_text()) | {"bos_token": "<|endoftext|>"}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        (tmp_path / "config.json").write_text("{}")
        rows = [{"q": "The answer is", "chosen": " yes.", "rejected": " no."}]
        data = run(volume, tmp_path, rows, dataset={"columns": {"prompt": "q"}})
        assert texts(data) == ("<|endoftext|>The answer is", " yes.<|im_end|>", " no.<|im_end|>")

    def test_template_switches_of_a_row(self, volume: Path, tmp_path: Path) -> None:
        tiny_models.write_tokenizer(
            tmp_path,
            "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}{% if brief %}brief{% endif %}",
        )
        (tmp_path / "config.json").write_text("{}")
        rows = [
            chat_row(0) | {"chat_template_kwargs": {"brief": True}},
            chat_row(1) | {"chat_template_kwargs": None},
        ]
        data = run(volume, tmp_path, rows)
        assert texts(data, 0)[1] == "It is 0.<|im_end|>\nbrief<|im_end|>"
        assert texts(data, 1)[1] == "It is 1.<|im_end|>"

    def test_token_across_the_boundary(self, volume: Path, model: Path) -> None:
        """Generation starts after the prompt's own tokens, so a token that would span the boundary is not used."""
        tokenizer = AutoTokenizer.from_pretrained(model)
        assert len(tokenizer(" capital")["input_ids"]) < len(
            tokenizer(" ca")["input_ids"] + tokenizer("pital")["input_ids"]
        )
        rows = [{"q": "The ca", "chosen": "pital", "rejected": "t"}]
        row = run(volume, model, rows, dataset={"columns": {"prompt": "q"}}).train[0]
        assert row["prompt_ids"] == tokenizer("The ca")["input_ids"]
        assert row["chosen_ids"] == [*tokenizer("pital")["input_ids"], tokenizer.eos_token_id]


class TestLengths:
    def test_prompt_loses_its_beginning_and_completion_its_end(self, volume: Path, model: Path) -> None:
        whole = run(volume, model, ROWS).train[0]
        data = run(volume, model, ROWS, dpo={"maxPromptLength": 6, "maxCompletionLength": 3})
        short = data.train[0]
        assert short["prompt_ids"] == whole["prompt_ids"][-6:]
        assert short["chosen_ids"] == whole["chosen_ids"][:3]
        assert data.tokenizer.eos_token_id not in short["chosen_ids"]
        assert data.report.truncated_prompts == 8
        longer = sum(
            len(row[name]) > 3
            for row in run(volume, model, ROWS).train
            for name in ("chosen_ids", "rejected_ids")
        )
        assert data.report.truncated_completions == longer > 0

    def test_pairs_that_cannot_be_used_are_dropped_and_counted(self, volume: Path, model: Path) -> None:
        same = {"chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("b")]}
        empty = {"chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant(" ")]}
        report = run(volume, model, [*ROWS, same, empty, same]).report
        assert (report.rows, report.train_pairs) == (11, 8)
        assert (report.dropped_equal, report.dropped_empty) == (2, 1)

    @pytest.mark.parametrize("nothing", ["", " \n", "<|im_end|>", " <|im_end|> <|im_end|>\n"])
    def test_completion_of_nothing_but_eos_and_space_is_empty(
        self, volume: Path, model: Path, nothing: str
    ) -> None:
        rows = [
            {"p": "q", "chosen": "good", "rejected": "bad"},
            {"p": "q", "chosen": nothing, "rejected": "bad"},
        ]
        report = run(
            volume, model, rows, dataset={"columns": {"prompt": "p"}, "gate": {"onViolation": "Warn"}}
        ).report
        assert (report.dropped_empty, report.dropped_equal, report.train_pairs) == (1, 0, 1)

    def test_sides_that_only_differ_beyond_the_length_are_equal(self, volume: Path, model: Path) -> None:
        row = {"chosen": [user("a"), assistant("xyz 1")], "rejected": [user("a"), assistant("xyz 2")]}
        data = run(volume, model, [*ROWS, row], dpo={"maxCompletionLength": 2})
        assert data.report.dropped_equal == 1


class TestRows:
    """`read_pair` on every spelling of a row."""

    def pair(self, row: Row, prompt: str | None = None) -> TextPair | ChatPair:
        return read_pair(row, ColumnsSpec(prompt=prompt))

    def test_sharegpt_with_single_message_sides(self) -> None:
        row = {
            "conversations": [{"from": "human", "value": "q"}],
            "chosen": {"from": "gpt", "value": "good"},
            "rejected": {"from": "gpt", "value": "bad"},
        }
        expected = ChatPair([user("q")], [assistant("good")], [assistant("bad")])
        assert self.pair(row, "conversations") == expected

    def test_prompt_messages_before_texts(self) -> None:
        row = {"p": [user("q")], "chosen": "good", "rejected": "bad"}
        assert self.pair(row, "p") == ChatPair([user("q")], [assistant("good")], [assistant("bad")])

    def test_prompt_text_before_messages(self) -> None:
        row = {"p": "q", "chosen": [assistant("good")], "rejected": [assistant("bad")]}
        assert self.pair(row, "p") == ChatPair([user("q")], [assistant("good")], [assistant("bad")])

    def test_whole_conversations_beside_a_prompt_text(self) -> None:
        system = {"role": "system", "content": "s"}
        row = {
            "p": "q",
            "chosen": [system, user("q"), assistant("good")],
            "rejected": [system, user("q"), assistant("bad")],
        }
        assert self.pair(row, "p") == ChatPair([system, user("q")], [assistant("good")], [assistant("bad")])

    def test_columns_of_a_sequence_feature(self) -> None:
        row = {
            "chosen": {"role": ["user", "assistant"], "content": ["q", "good"]},
            "rejected": {"role": ["user", "assistant"], "content": ["q", "bad"]},
        }
        assert self.pair(row) == ChatPair([user("q")], [assistant("good")], [assistant("bad")])

    def test_fields_that_arrow_filled_in_with_null(self) -> None:
        turns = [user("q") | {"name": None, "tool_calls": None}, assistant("good")]
        row = {"chosen": turns, "rejected": [user("q"), assistant("bad")], "tools": None}
        assert self.pair(row) == ChatPair([user("q")], [assistant("good")], [assistant("bad")])

    def test_text_parts(self) -> None:
        parts = {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
        row = {"chosen": [parts, assistant("good")], "rejected": [parts, assistant("bad")]}
        assert self.pair(row) == ChatPair([user("ab")], [assistant("good")], [assistant("bad")])

    @pytest.mark.parametrize(
        ("row", "words"),
        [
            ({"chosen": None, "rejected": "b"}, "'chosen' is neither text nor messages but null"),
            ({"chosen": [], "rejected": "b"}, "but empty"),
            ({"chosen": 3, "rejected": "b"}, "but a int"),
            ({"chosen": "a", "rejected": [assistant("b")]}, "one of chosen and rejected is text"),
            ({"chosen": "a", "rejected": "b"}, "no common beginning"),
            ({"chosen": [assistant("a")], "rejected": [assistant("b")]}, "no common first message"),
            ({"chosen": ["a"], "rejected": ["b"]}, "has a str where a message is expected"),
            ({"chosen": [{"role": "tool", "content": "x"}], "rejected": "b"}, "role 'tool'"),
            ({"chosen": [{"role": "user", "content": None}], "rejected": "b"}, "content is null"),
            (
                {"chosen": [{"role": "user", "content": [{"type": "image"}]}], "rejected": "b"},
                "only text is supported",
            ),
            ({"chosen": [assistant("a") | {"tool_calls": [{"id": 1}]}], "rejected": "b"}, "tool calls"),
            ({"chosen": "a", "rejected": "b", "tools": "[{}]"}, "tools are not supported"),
            (
                {"chosen": [user("q"), assistant("a")], "rejected": [user("q"), assistant("b")]}
                | {"chat_template_kwargs": "x"},
                "'chat_template_kwargs' is a str",
            ),
            (
                {"chosen": "q a", "rejected": "q b", "chat_template_kwargs": {"enable_thinking": False}},
                "goes with messages",
            ),
        ],
    )
    def test_rows_that_are_not_pairs(self, row: Row, words: str) -> None:
        with pytest.raises(RowError, match=words.replace("[", r"\[")):
            self.pair(row)

    def test_prompt_messages_that_the_conversation_does_not_have(self) -> None:
        row = {
            "p": [user("other")],
            "chosen": [user("q"), assistant("a")],
            "rejected": [user("q"), assistant("b")],
        }
        with pytest.raises(RowError, match="chosen does not begin with the messages of the prompt column"):
            self.pair(row, "p")

    def test_prompt_messages_that_only_one_side_has(self) -> None:
        turns = [user("q"), assistant("a"), user("r")]
        row = {
            "p": turns,
            "chosen": [*turns, assistant("good")],
            "rejected": [user("q"), assistant("x"), user("r"), assistant("bad")],
        }
        with pytest.raises(RowError, match="rejected does not begin with the messages of the prompt column"):
            self.pair(row, "p")

    def test_conversations_that_the_assistant_opens(self) -> None:
        turns = [assistant("Hello!"), user("q")]
        row = {"p": turns, "chosen": [*turns, assistant("good")], "rejected": [*turns, assistant("bad")]}
        expected = ChatPair(turns, [assistant("good")], [assistant("bad")])
        assert self.pair(row) == self.pair(row, "p") == expected

    def test_answers_of_several_turns_after_a_prompt(self) -> None:
        later = [user("more"), assistant("z")]
        row = {"p": "q", "chosen": [assistant("good"), *later], "rejected": [assistant("bad"), *later]}
        expected = ChatPair([user("q")], [assistant("good"), *later], [assistant("bad"), *later])
        assert self.pair(row, "p") == expected


class TestErrors:
    def test_bad_row_is_named(self, volume: Path, model: Path) -> None:
        error = refusal(volume, model, [*ROWS[:4], {"chosen": None, "rejected": ROWS[0]["rejected"]}])
        assert error.reason == TrainerReason.DATASET_INVALID
        assert "row 5 of split 'train'" in error.message and "null" in error.message

    def test_row_that_the_template_refuses(self, volume: Path, tmp_path: Path) -> None:
        tiny_models.write_tokenizer(tmp_path, "{{ raise_exception('roles must alternate') }}")
        (tmp_path / "config.json").write_text("{}")
        error = refusal(volume, tmp_path, ROWS)
        assert error.reason == TrainerReason.DATASET_INVALID and "roles must alternate" in error.message

    def test_missing_column_lists_those_that_exist(self, volume: Path, model: Path) -> None:
        rows = [{"question": "q", "good": "a", "rejected": "b"}]
        error = refusal(volume, model, rows, dataset={"columns": {"prompt": "prompt", "chosen": "good"}})
        assert error.reason == TrainerReason.COLUMN_NOT_FOUND
        assert "'prompt' (dataset.columns.prompt)" in error.message
        assert "it has good, question, rejected" in error.message

    def test_no_chat_template(self, volume: Path, tmp_path: Path) -> None:
        tiny_models.write_tokenizer(tmp_path, chat_template=None)
        (tmp_path / "config.json").write_text("{}")
        assert refusal(volume, tmp_path, ROWS).reason == TrainerReason.NO_CHAT_TEMPLATE

    def test_fewer_pairs_than_a_batch(self, volume: Path, model: Path) -> None:
        same = {"chosen": ROWS[0]["chosen"], "rejected": ROWS[0]["chosen"]}
        error = refusal(volume, model, [*ROWS, same], batch=9)
        assert error.reason == TrainerReason.DATASET_TOO_SMALL
        assert "8 pairs are left to train on and one step takes 9" in error.message
        assert "1 have equal sides" in error.message and "globalBatchSize to 8 or less" in error.message

    @pytest.mark.parametrize("text", ["", "[]", "\n"])
    def test_empty_file(self, volume: Path, model: Path, text: str) -> None:
        (volume / "d").mkdir()
        (volume / "d/train.json").write_text(text)
        assert refusal(volume, model).reason == TrainerReason.DATASET_EMPTY

    def test_nothing_usable(self, volume: Path, model: Path) -> None:
        same = {"chosen": ROWS[0]["chosen"], "rejected": ROWS[0]["chosen"]}
        assert refusal(volume, model, [same, same]).reason == TrainerReason.DATASET_EMPTY

    def test_broken_json(self, volume: Path, model: Path) -> None:
        (volume / "d").mkdir()
        (volume / "d/train.jsonl").write_text('{"chosen": "a", \n{]')
        error = refusal(volume, model)
        assert error.reason == TrainerReason.DATASET_INVALID and "train.jsonl" in error.message

    def test_ids_beyond_the_embedding(self, volume: Path, model: Path, tmp_path: Path) -> None:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (tmp_path / name).write_bytes((model / name).read_bytes())
        (tmp_path / "config.json").write_text('{"vocab_size": 100}')
        error = refusal(volume, tmp_path, ROWS)
        assert error.reason == TrainerReason.MODEL_UNSUPPORTED and "100 entries" in error.message

    def test_no_tokenizer(self, volume: Path, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text("{}")
        error = refusal(volume, tmp_path, ROWS)
        assert error.reason == TrainerReason.MODEL_NOT_FOUND and "\n" not in error.message


class TestFiles:
    def test_json_list_and_parquet(self, volume: Path, model: Path) -> None:
        expected = run(volume, model, ROWS).train.to_dict()
        (volume / "d/train.jsonl").unlink()
        (volume / "d/train.json").write_text(json.dumps(ROWS))
        assert prepare(config(), model).train.to_dict() == expected
        (volume / "d/train.json").unlink()
        pq.write_table(pa.Table.from_pylist(ROWS), volume / "d/train-00000-of-00001.parquet")
        assert prepare(config(), model).train.to_dict() == expected

    def test_single_file(self, volume: Path, model: Path) -> None:
        write_rows(volume, ROWS, "pairs.jsonl")
        assert prepare(config({"uri": "pvc://inputs/pairs.jsonl"}), model).report.rows == 8

    def test_several_files_in_the_order_of_their_names(self, volume: Path, model: Path) -> None:
        whole = run(volume, model, ROWS).train.to_dict()
        (volume / "d/train.jsonl").unlink()
        write_rows(volume, ROWS[4:], "d/train/1.jsonl")
        write_rows(volume, ROWS[:4], "d/train/0.jsonl")
        assert prepare(config(), model).train.to_dict() == whole

    def test_splits_by_name(self, volume: Path, model: Path) -> None:
        write_rows(volume, ROWS[:5], "d/train-0.jsonl")
        write_rows(volume, ROWS[5:], "d/test.jsonl")
        data = prepare(config({"evalSplit": "test"}), model)
        assert (data.report.train_pairs, data.report.eval_pairs) == (5, 3)

    def test_only_set_is_train(self, volume: Path, model: Path) -> None:
        write_rows(volume, ROWS, "d/my pairs.jsonl")
        assert prepare(config(), model).report.rows == 8
        error = refusal(volume, model, dataset={"evalSplit": "test"})
        assert error.reason == TrainerReason.DATASET_NOT_FOUND
        assert "only my pairs.jsonl" in error.message and "evalFraction" in error.message

    def test_no_files(self, volume: Path, model: Path) -> None:
        (volume / "d").mkdir()
        (volume / "d/notes.txt").write_text("x")
        assert refusal(volume, model).reason == TrainerReason.DATASET_NOT_FOUND
        assert (
            refusal(volume, model, dataset={"uri": "pvc://inputs/none"}).reason
            == TrainerReason.DATASET_NOT_FOUND
        )

    def test_two_formats(self, volume: Path, model: Path) -> None:
        write_rows(volume, ROWS, "d/a.jsonl")
        pq.write_table(pa.Table.from_pylist(ROWS), volume / "d/b.parquet")
        assert refusal(volume, model).reason == TrainerReason.DATASET_INVALID


class TestSplit:
    def test_share_and_seed(self) -> None:
        first = held_out(1000, 0.1, 0)
        assert len(first) == 100 and first == sorted(set(first)) and held_out(1000, 0.1, 0) == first
        assert held_out(1000, 0.1, 1) != first
        assert held_out(1000, 0.0, 0) == [] and len(held_out(3, 0.1, 0)) == 1

    def test_choice_is_fixed(self) -> None:
        """The rows may not change with a version of anything: a resumed job would train on what it evaluates on."""
        assert held_out(20, 0.2, 7) == [3, 4, 7, 12]

    def test_parts_are_disjoint_and_in_order(self, volume: Path, model: Path) -> None:
        whole = [texts(run(volume, model, ROWS), index) for index in range(8)]
        data = run(volume, model, ROWS, dataset={"evalFraction": 0.25})
        assert data.evaluation is not None and data.report.eval_pairs == 2 and data.report.train_pairs == 6
        kept = [texts(data, index) for index in range(6)]
        assert kept == [pair for index, pair in enumerate(whole) if index not in held_out(8, 0.25, 0)]

    def test_same_on_every_host(self, volume: Path, model: Path, tmp_path: Path) -> None:
        write_rows(volume, ROWS)
        first, second = (
            prepare(config({"evalFraction": 0.25}), model, tmp_path / host) for host in ("host0", "host1")
        )
        assert first.train.to_dict() == second.train.to_dict()
        assert first.evaluation is not None and second.evaluation is not None
        assert first.evaluation.to_dict() == second.evaluation.to_dict() and first.report == second.report


@pytest.mark.skipif(not DEMO.is_file(), reason=f"{DEMO} is not there")
def test_real_sharegpt_pairs(volume: Path, model: Path) -> None:
    (volume / "d").mkdir()
    (volume / "d/demo.json").write_bytes(DEMO.read_bytes())
    data = prepare(
        config(
            {"columns": {"prompt": "conversations"}},
            dpo={"maxPromptLength": 4096, "maxCompletionLength": 4096},
        ),
        model,
    )
    first = json.loads(DEMO.read_text())[0]
    question = first["conversations"][0]["value"]
    assert texts(data)[0] == f"<|im_start|>user\n{question}<|im_end|>\n{OPEN}"
    assert data.report.rows == data.report.train_pairs == 300


@pytest.mark.skipif(
    not (SMOLLM2 / "tokenizer.json").is_file(), reason=f"{SMOLLM2} is not there (make demo puts it there)"
)
def test_smollm2(volume: Path) -> None:
    data = run(volume, SMOLLM2, ROWS)
    prompt, chosen, rejected = texts(data)
    assert prompt.endswith(f"<|im_start|>user\nWhat is 0?<|im_end|>\n{OPEN}")
    assert (chosen, rejected) == ("It is 0.<|im_end|>", "no<|im_end|>")
    assert data.train[0]["chosen_ids"][-1] == data.tokenizer.eos_token_id
