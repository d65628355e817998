"""Preference pairs to token ids: the chat template applied once, one EOS at the end, both lengths kept.

The tokens are those of TRL's ``DPOTrainer`` (v0.2x, ``tokenize_row`` after ``maybe_apply_chat_template``) with two
differences on purpose: a template that already ends its last turn with the EOS token does not get a second one, and a
completion is tokenised in its context when that leaves the prompt's tokens as they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
    """One pair of ids; ``truncated_*`` count sequences that were longer, ``kind`` is kept, equal or empty."""

    prompt: Ids
    chosen: Ids
    rejected: Ids
    kind: str
    truncated_prompts: int
    truncated_completions: int

    def row(self) -> Mapping[str, Any]:
        """Return the pair as a data set row."""
        return {
            "prompt_ids": self.prompt,
            "chosen_ids": self.chosen,
            "rejected_ids": self.rejected,
            "kind": self.kind,
            "largest_id": max(self.prompt + self.chosen + self.rejected),
            "truncated_prompts": self.truncated_prompts,
            "truncated_completions": self.truncated_completions,
        }


@dataclass(frozen=True)
class Texts:
    """A pair as text: completions without their final EOS; ``start`` are the ids that go before the prompt."""

    start: Ids
    prompt: str
    chosen: str
    rejected: str
    blank: bool


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
    return Texts(start, texts.prompt, chosen, rejected, is_blank(pair.chosen) or is_blank(pair.rejected))


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
        kind="equal" if kept[1] == kept[2] else "empty" if pair.blank else "kept",
        truncated_prompts=int(len(prompt) > lengths.prompt),
        truncated_completions=sum(len(side) > lengths.completion for side in (chosen, rejected)),
    )


def is_blank(side: str | list[Message]) -> bool:
    """Whether a completion has no text."""
    return not (side if isinstance(side, str) else "".join(turn["content"] for turn in side)).strip()


def render(tokenizer: PreTrainedTokenizerBase, pair: ChatPair) -> TextPair:
    """Apply the chat template: the prompt with its generation prompt, and each whole conversation.

    A completion is what follows their common beginning, which is the prompt except where a template writes history
    differently from the last turn (thinking blocks).
    """
    opens_turn = pair.prompt[-1]["role"] != "assistant"
    prompt = apply_template(tokenizer, pair.prompt, opens_turn)
    chosen = apply_template(tokenizer, pair.prompt + pair.chosen, False)
    rejected = apply_template(tokenizer, pair.prompt + pair.rejected, False)
    shared = common_prefix(prompt, chosen, rejected)
    return TextPair(shared, chosen[len(shared) :], rejected[len(shared) :])


def apply_template(tokenizer: PreTrainedTokenizerBase, messages: list[Message], open_turn: bool) -> str:
    """Render messages with the tokenizer's chat template."""
    if tokenizer.chat_template is None:
        raise TrainerError(
            TrainerReason.NO_CHAT_TEMPLATE,
            "the data set has messages and the model's tokenizer has no chat template. Use an instruction-tuned model, add "
            "chat_template to tokenizer_config.json, or use a data set with plain text.",
        )
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=open_turn))
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
