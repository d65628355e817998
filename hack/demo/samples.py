"""Completions of the base and the tuned model, side by side, with plain transformers."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console

MAX_NEW_TOKENS = 48


def prompts(data: Path, count: int = 2) -> list[list[dict[str, str]]]:
    """Return the last prompts of a preference file as messages."""
    text = data.read_text()
    rows = (
        json.loads(text) if text.lstrip().startswith("[") else [json.loads(row) for row in text.splitlines()]
    )
    return [_messages(row) for row in rows[-count:]]


def _messages(row: dict[str, Any]) -> list[dict[str, str]]:
    messages = row.get("prompt") or row["conversations"]
    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    roles = {"human": "user", "gpt": "assistant", "system": "system"}
    return [
        {"role": m.get("role") or roles[m["from"]], "content": m.get("content") or m["value"]}
        for m in messages
    ]


def complete(folder: Path, conversations: list[list[dict[str, str]]]) -> list[str]:
    """Return one greedy completion per conversation."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    texts = []
    for messages in conversations:
        ids = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        out = model.generate(
            **ids, max_new_tokens=MAX_NEW_TOKENS, do_sample=False, pad_token_id=tokenizer.pad_token_id
        )
        texts.append(tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True).strip())
    return texts


def show(console: Console, base: Path, tuned: Path, conversations: list[list[dict[str, str]]]) -> None:
    """Print each prompt with the completion before and after."""
    before, after = complete(base, conversations), complete(tuned, conversations)
    for messages, old, new in zip(conversations, before, after, strict=True):
        console.print(f"\nprompt: {messages[-1]['content']}", style="bold", markup=False)
        console.print(f"before: {old}", markup=False)
        console.print(f"after:  {new}", style="green", markup=False)
