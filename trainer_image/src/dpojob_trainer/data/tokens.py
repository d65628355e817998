"""Preference pairs to token ids: the chat template applied once, one EOS at the end, both lengths kept.

The ids are those of TRL's ``DPOTrainer`` (1.16, ``_prepare_dataset``) with these differences on purpose:

* A completion ends with its EOS, exactly one. TRL keeps what a template writes after it (ChatML's line break), which is
  never generated, keeps a second EOS that the data brings along, and has none where the template writes none.
* The prompt's ids are those of the prompt alone, which is what the model sees when it generates. Where a token would
  span the boundary, TRL cuts the prompt before that token and trains on a context that never occurs.
* Where a completion begins with another turn than the assistant's, what the template opens a turn with belongs to it;
  the whole sequence is the same.
* Prompt and completion have a length each; TRL 1.16 has one for both together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from dpojob_api.reasons import TrainerReason
from dpojob_trainer.data.rows import ChatPair, Message, RowError, TextPair, common_prefix
from dpojob_trainer.errors import TrainerError

Ids = list[int]


@dataclass(frozen=True)
class Lengths:
    """Tokens kept: of the prompt its end, of a completion its beginning."""

    prompt: int
    completion: int


@dataclass(frozen=True)
class TokenPair:
    """One pair: the ids kept, the numbers of tokens there were, and whether it is kept, empty or equal."""

    prompt: Ids
    chosen: Ids
    rejected: Ids
    kind: str
    roles: str
    prompt_tokens: int
    chosen_tokens: int
    rejected_tokens: int

    def row(self) -> Mapping[str, Any]:
        """Return the pair as a data set row."""
        return {
            "prompt_ids": self.prompt,
            "chosen_ids": self.chosen,
            "rejected_ids": self.rejected,
            "kind": self.kind,
            "roles": self.roles,
            "largest_id": max(self.prompt + self.chosen + self.rejected),
            "prompt_tokens": self.prompt_tokens,
            "chosen_tokens": self.chosen_tokens,
            "rejected_tokens": self.rejected_tokens,
            "prompt_key": key(self.prompt),
            "pair_key": key(self.prompt, self.chosen, self.rejected),
        }


def key(*parts: Ids) -> int:
    """Return 64 bits that are equal for equal ids; among a million pairs two others are equal once in 10^7 runs."""
    digest = blake2b(digest_size=8)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + np.array(part, dtype=np.int32).tobytes())
    return int.from_bytes(digest.digest(), "little", signed=True)


@dataclass(frozen=True)
class Texts:
    """A pair as text: completions without their final EOS; ``start`` are the ids that go before the prompt."""

    start: Ids
    prompt: str
    chosen: str
    rejected: str
    blank: bool
    roles: str


def texts_of(tokenizer: PreTrainedTokenizerBase, pair: TextPair | ChatPair) -> Texts:
    """Render a pair; what is plain text already stays as it is, after the tokenizer's own BOS.

    Raises:
        RowError: the chat template refuses the messages, or the prompt is empty.
        TrainerError: NoChatTemplate.
    """
    plain = isinstance(pair, TextPair)
    texts = pair if isinstance(pair, TextPair) else render(tokenizer, pair)
    start = leading_bos(tokenizer) if plain else []
    if not start and not texts.prompt:
        raise RowError("the prompt is empty")
    chosen, rejected = (without_end(text, tokenizer.eos_token) for text in (texts.chosen, texts.rejected))
    blank = any(is_blank(side, tokenizer.eos_token) for side in (pair.chosen, pair.rejected))
    return Texts(start, texts.prompt, chosen, rejected, blank, roles_of(pair))


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Texts], lengths: Lengths
) -> list[TokenPair]:
    """Return the ids of many pairs; the tokenizer works on all of them at once, on all cores."""
    prompts = encode(tokenizer, [pair.prompt for pair in pairs])
    heads = [[*pair.start, *prompt] for pair, prompt in zip(pairs, prompts, strict=True)]
    chosen = completions(tokenizer, pairs, heads, [pair.chosen for pair in pairs])
    rejected = completions(tokenizer, pairs, heads, [pair.rejected for pair in pairs])
    sides = zip(pairs, heads, chosen, rejected, strict=True)
    return [cut(pair, head, first, second, lengths) for pair, head, first, second in sides]


def cut(pair: Texts, prompt: Ids, chosen: Ids, rejected: Ids, lengths: Lengths) -> TokenPair:
    """Shorten a pair and say whether it can be learnt from: its sides differ in what is kept, and neither is blank."""
    kept = (prompt[-lengths.prompt :], chosen[: lengths.completion], rejected[: lengths.completion])
    return TokenPair(
        *kept,
        kind="empty" if pair.blank else "equal" if kept[1] == kept[2] else "kept",
        roles=pair.roles,
        prompt_tokens=len(prompt),
        chosen_tokens=len(chosen),
        rejected_tokens=len(rejected),
    )


def is_blank(side: str | list[Message], end: str) -> bool:
    """Whether a completion has no text but EOS tokens and white space."""
    turns = [side] if isinstance(side, str) else [text for turn in side for text in spoken(turn)]
    return not any(without_end(text, end).strip() for text in turns)


def spoken(turn: Message) -> list[str]:
    """Return what a message says, thoughts included."""
    return [turn[field] for field in ("content", "reasoning_content") if field in turn]


def roles_of(pair: TextPair | ChatPair) -> str:
    """Return the roles of a pair's messages, e.g. ``system user > assistant``."""
    if isinstance(pair, TextPair):
        return "text"
    prompt, chosen, rejected = (
        " ".join(turn["role"] for turn in turns) for turns in (pair.prompt, pair.chosen, pair.rejected)
    )
    return f"{prompt} > {chosen}" if chosen == rejected else f"{prompt} > {chosen} | {rejected}"


def render(tokenizer: PreTrainedTokenizerBase, pair: ChatPair) -> TextPair:
    """Apply the chat template: the prompt with its generation prompt, and each whole conversation.

    A completion is what follows their common beginning, which is the prompt except where a template writes history
    differently from the last turn (thinking blocks).
    """
    opens_turn = pair.prompt[-1]["role"] != "assistant"
    prompt = apply_template(tokenizer, pair.prompt, opens_turn, pair.template_kwargs)
    chosen = apply_template(tokenizer, pair.prompt + pair.chosen, False, pair.template_kwargs)
    rejected = apply_template(tokenizer, pair.prompt + pair.rejected, False, pair.template_kwargs)
    shared = common_prefix(prompt, chosen, rejected)
    return TextPair(shared, chosen[len(shared) :], rejected[len(shared) :])


def apply_template(
    tokenizer: PreTrainedTokenizerBase, messages: list[Message], open_turn: bool, kwargs: Mapping[str, Any]
) -> str:
    """Render messages with the tokenizer's chat template."""
    if tokenizer.chat_template is None:
        raise TrainerError(
            TrainerReason.NO_CHAT_TEMPLATE,
            "the data set has messages and the model's tokenizer has no chat template. Use an instruction-tuned model, add "
            "chat_template to tokenizer_config.json, or use a data set with plain text.",
        )
    try:
        return str(
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=open_turn, **kwargs)
        )
    except Exception as error:
        raise RowError(f"the model's chat template refuses the messages: {error}") from error


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[Ids]:
    """Return the ids of texts without added special tokens."""
    return list(tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]) if texts else []


def leading_bos(tokenizer: PreTrainedTokenizerBase) -> Ids:
    """Return what the tokenizer puts before plain text by itself; chat templates write it themselves."""
    ids = list(tokenizer("", verbose=False)["input_ids"])
    return ids[:1] if ids and ids[0] == tokenizer.bos_token_id else []


def completions(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Texts], prompts: list[Ids], texts: list[str]
) -> list[Ids]:
    """Return the ids of one side, each ended by exactly one EOS.

    Tokenised together with the prompt, as SentencePiece models need; alone where a token would span the boundary,
    because generation starts after the prompt's own tokens.
    """
    together = encode(tokenizer, [pair.prompt + text for pair, text in zip(pairs, texts, strict=True)])
    wholes = [[*pair.start, *ids] for pair, ids in zip(pairs, together, strict=True)]
    return [
        [
            *(whole[len(prompt) :] if whole[: len(prompt)] == prompt else encode(tokenizer, [text])[0]),
            tokenizer.eos_token_id,
        ]
        for whole, prompt, text in zip(wholes, prompts, texts, strict=True)
    ]


def without_end(text: str, end: str) -> str:
    """Remove EOS tokens and the white space around them from a text's end; text without EOS stays as it is."""
    while text.rstrip().endswith(end):
        text = text.rstrip().removesuffix(end)
    return text
