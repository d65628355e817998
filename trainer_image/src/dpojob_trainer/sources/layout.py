"""Whether a set of file names is a model in Hugging Face layout that can be loaded without remote code or torch."""

import re
from collections.abc import Iterable
from pathlib import Path

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
SHARD = re.compile(r"model-(\d{5})-of-(\d{5})\.safetensors")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
TORCH_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt")

# Only these are downloaded: weights for other frameworks and code stay where they are.
TOKENIZER_FILES = ("*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt")
MODEL_FILES = (*TOKENIZER_FILES, WEIGHTS, "model-*-of-*.safetensors")


def names_in(folder: Path) -> set[str]:
    """Return the names of the files directly in a folder."""
    return {entry.name for entry in folder.iterdir() if entry.is_file()}


def layout_problem(names: Iterable[str]) -> str | None:
    """Say what a model folder lacks and how to mend it, as the end of a sentence; None if nothing."""
    files = set(names)
    if not files:
        return "is empty. Put config.json, the tokenizer and safetensors there."
    if "config.json" not in files:
        return "has no config.json, so it is not a model in Hugging Face layout. Name the folder that save_pretrained wrote."
    return weights_problem(files) or tokenizer_problem(files)


def weights_problem(files: set[str]) -> str | None:
    """Say what is wrong with the weights among the file names."""
    if WEIGHTS in files:
        return None
    if WEIGHTS_INDEX in files or any(SHARD.fullmatch(name) for name in files):
        missing = missing_shards(files)
        if missing:
            return f"lacks {', '.join(missing[:5])} of its sharded weights. Copy or upload them again."
        return None
    if any(name.endswith(TORCH_WEIGHTS) for name in files):
        return (
            "has only pickled PyTorch weights (.bin); safetensors are required. Convert them once with transformers: "
            "AutoModelForCausalLM.from_pretrained(...).save_pretrained(folder)."
        )
    return f"has no weights: neither {WEIGHTS} nor {WEIGHTS_INDEX} with its shards."


def missing_shards(files: set[str]) -> list[str]:
    """Return the names, index included, that the ``-of-N`` numbering of the shards promises and that are absent."""
    matches = [match for name in files if (match := SHARD.fullmatch(name))]
    totals = {match.group(2) for match in matches}
    if not totals:
        return ["every shard"]
    expected = {
        f"model-{number:05d}-of-{total}.safetensors"
        for total in totals
        for number in range(1, int(total) + 1)
    }
    return sorted((expected | {WEIGHTS_INDEX}) - files)


def tokenizer_problem(files: set[str]) -> str | None:
    """Say that there is no tokenizer among the file names."""
    if files.isdisjoint(TOKENIZERS):
        return "has no tokenizer (tokenizer.json). Save the tokenizer into the same folder."
    return None
