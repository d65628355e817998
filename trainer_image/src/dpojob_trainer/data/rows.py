"""One row of a data set to one preference pair: messages or text, whatever way the data set spells it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dpojob_api.input_spec import ColumnsSpec
from dpojob_api.reasons import TrainerReason
from dpojob_trainer.errors import TrainerError

Message = dict[str, Any]
SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant"}
ROLES = ("system", "developer", "user", "assistant")


@dataclass(frozen=True)
class TextPair:
    """Plain text, tokenised as it is."""

    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True)
class ChatPair:
    """Messages, rendered by the chat template: the prompt and what follows it on either side.

    ``template_kwargs`` are the template's own switches, e.g. ``{"enable_thinking": False}``.
    """

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)


class RowError(ValueError):
    """What is wrong with a row, without its number."""


def check_columns(names: Sequence[str], columns: ColumnsSpec) -> None:
    """Make sure that the data set has the columns that the spec names.

    Raises:
        TrainerError: ColumnNotFound, listing the columns that exist.
    """
    wanted = {"prompt": columns.prompt, "chosen": columns.chosen, "rejected": columns.rejected}
    missing = {role: name for role, name in wanted.items() if name is not None and name not in names}
    if missing:
        which = ", ".join(f"{name!r} (dataset.columns.{role})" for role, name in missing.items())
        raise TrainerError(
            TrainerReason.COLUMN_NOT_FOUND,
            f"the data set has no column {which}; it has {', '.join(sorted(names))}. Set dataset.columns to the right names.",
        )


def read_pair(row: Mapping[str, Any], columns: ColumnsSpec) -> TextPair | ChatPair:
    """Bring a row to one form.

    Sides are text, a list of messages or one message; messages are ``{"role", "content"}`` or ShareGPT's
    ``{"from", "value"}``. Sides that repeat the whole conversation carry their prompt themselves: it is their common
    beginning, and the prompt column only stands in for it if there is none.

    Raises:
        RowError: what is wrong with the row.
    """
    refuse_tools(row)
    pair = pair_of_sides(row, columns)
    kwargs = template_kwargs(row)
    if not kwargs:
        return pair
    if isinstance(pair, TextPair):
        raise RowError(
            "chat_template_kwargs goes with messages, and this row is plain text; remove the column"
        )
    return replace(pair, template_kwargs=kwargs)


def pair_of_sides(row: Mapping[str, Any], columns: ColumnsSpec) -> TextPair | ChatPair:
    """Choose the form of a row by what its sides are."""
    chosen, rejected = side(row, columns.chosen), side(row, columns.rejected)
    prompt = side(row, columns.prompt) if columns.prompt else None
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise RowError("one of chosen and rejected is text, the other messages")
    if isinstance(chosen, str) and isinstance(rejected, str):
        return pair_of_text(prompt, chosen, rejected)
    assert isinstance(chosen, list) and isinstance(rejected, list)
    return pair_of_messages(prompt, chosen, rejected)


def template_kwargs(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the column ``chat_template_kwargs`` (the name TRL uses) without what Arrow has filled in."""
    value = row.get("chat_template_kwargs") or {}
    if not isinstance(value, Mapping):
        raise RowError(f"'chat_template_kwargs' is {describe(value)}, not an object")
    return {key: cell for key, cell in value.items() if cell is not None}


def refuse_tools(row: Mapping[str, Any]) -> None:
    """Refuse tool definitions, which the template would need and which are not passed on."""
    if row.get("tools"):
        raise RowError("tools are not supported; remove the column 'tools' and the rows that need it")


def side(row: Mapping[str, Any], column: str) -> str | list[Message]:
    """Return a column's value as text or as messages."""
    value = row[column]
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        value = columns_to_messages(value)
    if not isinstance(value, Sequence) or not value:
        raise RowError(f"{column!r} is neither text nor messages but {describe(value)}")
    return [message(item, column) for item in value]


def columns_to_messages(value: Mapping[str, Any]) -> list[Any]:
    """Return one message as a list, or the ``{"role": [...], "content": [...]}`` of old ``Sequence`` features as messages."""
    present = {key: cell for key, cell in value.items() if cell is not None}
    if present and all(isinstance(cell, list) for cell in present.values()):
        return [dict(zip(present, cells, strict=True)) for cells in zip(*present.values(), strict=True)]
    return [value]


def message(item: Any, column: str) -> Message:
    """Bring a message to ``role`` and ``content``; further text fields (e.g. reasoning_content) are kept for the template."""
    if not isinstance(item, Mapping):
        raise RowError(f"{column!r} has {describe(item)} where a message is expected")
    fields = {key: value for key, value in item.items() if value is not None}
    if fields.get("tool_calls"):
        raise RowError(f"{column!r} has tool calls, which are not supported")
    role, content = fields.get("role", fields.get("from")), fields.get("content", fields.get("value"))
    role = SHAREGPT_ROLES.get(str(role), role)
    if role not in ROLES:
        raise RowError(f"{column!r} has a message with role {role!r}; use {', '.join(ROLES)}")
    extra = {key: value for key, value in fields.items() if isinstance(value, str)}
    known = ("role", "from", "content", "value")
    return {key: value for key, value in extra.items() if key not in known} | {
        "role": role,
        "content": text_of(content, column),
    }


def text_of(content: Any, column: str) -> str:
    """Return a message's text; a list of text parts is joined."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(
        isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in content
    ):
        return "".join(part["text"] for part in content)
    raise RowError(f"{column!r} has a message whose content is {describe(content)}; only text is supported")


def describe(value: Any) -> str:
    """Name a value that does not fit."""
    if value is None:
        return "null"
    if isinstance(value, Sequence | Mapping) and not value:
        return "empty"
    return f"a {type(value).__name__}"


def pair_of_text(prompt: str | list[Message] | None, chosen: str, rejected: str) -> TextPair | ChatPair:
    """Join a prompt with two texts; after messages, the texts are the assistant's answers."""
    if isinstance(prompt, list):
        return ChatPair(prompt, answer(chosen), answer(rejected))
    if prompt is not None:
        return TextPair(prompt, chosen, rejected)
    shared = common_beginning(chosen, rejected)
    if not shared.strip():
        raise RowError("chosen and rejected have no common beginning; set dataset.columns.prompt")
    return TextPair(shared, chosen[len(shared) :], rejected[len(shared) :])


def common_beginning(chosen: str, rejected: str) -> str:
    """Return the common beginning up to a word's end; the space before the next word belongs to the completion.

    Words after it that both sides share change nothing: their log-probabilities cancel in the margin. Cutting inside a
    word would give tokens that the model never produces.
    """
    shared = common_prefix(chosen, rejected)
    ahead = {text[len(shared) : len(shared) + 1] for text in (chosen, rejected)}
    inside_word = shared[-1:].isalnum() and any(char.isalnum() for char in ahead)
    if chosen != rejected and (inside_word or "" in ahead):
        last_space = max(shared.rfind(space) for space in " \n\t")
        shared = shared[: last_space + 1] or shared
    return shared.rstrip(" ")


def common_prefix(*texts: str) -> str:
    """Return the longest beginning that all texts share, character by character."""
    low, high = min(texts), max(texts)
    return low[: next((index for index, char in enumerate(low) if char != high[index]), len(low))]


def pair_of_messages(
    prompt: str | list[Message] | None, chosen: list[Message], rejected: list[Message]
) -> ChatPair:
    """Split full conversations at the end of their common beginning, or put a prompt before bare answers."""
    shared = 0 if is_bare(prompt, chosen) else common_messages(chosen, rejected)
    if shared:
        if isinstance(prompt, list):
            require_beginning(prompt, chosen=chosen, rejected=rejected)
        return ChatPair(chosen[:shared], chosen[shared:], rejected[shared:])
    if prompt is None:
        raise RowError("chosen and rejected have no common first message; set dataset.columns.prompt")
    if any(answers[0]["role"] != "assistant" for answers in (chosen, rejected)):
        raise RowError("chosen and rejected begin with different messages of the user")
    asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return ChatPair(asked, chosen, rejected)


def is_bare(prompt: str | list[Message] | None, chosen: list[Message]) -> bool:
    """Whether a side has only what follows the prompt; with a prompt beside it, an assistant's first message says so."""
    if chosen[0]["role"] != "assistant":
        return False
    return len(chosen) == 1 or (prompt is not None and chosen[0] != first_of(prompt))


def first_of(prompt: str | list[Message]) -> Message | None:
    """Return the first message of a prompt, None if it is text."""
    return prompt[0] if isinstance(prompt, list) else None


def require_beginning(prompt: list[Message], **sides: list[Message]) -> None:
    """Make sure that whole conversations begin with the prompt beside them."""
    for name, messages in sides.items():
        if messages[: len(prompt)] != prompt:
            raise RowError(f"{name} does not begin with the messages of the prompt column")


def common_messages(chosen: list[Message], rejected: list[Message]) -> int:
    """Return how many messages both sides begin with, at least one message being left to each."""
    longest = min(len(chosen), len(rejected)) - 1
    differing = (index for index in range(longest) if chosen[index] != rejected[index])
    return next(differing, max(longest, 0))


def answer(text: str) -> list[Message]:
    """Return a text as the assistant's message."""
    return [{"role": "assistant", "content": text}]
