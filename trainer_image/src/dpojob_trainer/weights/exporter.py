"""Last stage of training: the tuned EasyDeL module becomes a Hugging Face model directory."""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpojob_api.reasons import TrainerReason
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer.errors import TrainerError
from dpojob_trainer.weights.checkpoint import INDEX_FILE, SINGLE_FILE, read_json
from dpojob_trainer.weights.gather import agree, is_writer, to_host
from dpojob_trainer.weights.names import Parameter, is_head, parameter

MAX_SHARD_BYTES = 2_000_000_000
COPIED = (
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.tiktoken",
    "chat_template*",
    "LICENSE*",
    "NOTICE*",
)
Leaf = tuple[Parameter, Any]


def export_model(
    model: Any,
    config: TrainerConfig,
    base_dir: Path,
    out_dir: Path,
    *,
    texts: Mapping[str, str] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write `model` (what `load_model` returned, or `state.model`) to `out_dir` in Hugging Face layout.

    Every process of the slice calls it, because gathering a tensor is a collective; only process 0 writes. Process 0
    holds one file's tensors at a time, so `max_shard_bytes` bounds its memory. `config.json`,
    `generation_config.json` and the tokenizer come from `base_dir`, the directory the model was loaded from.
    `texts` are further files by name. `out_dir` appears whole or not at all; an export that is already there is replaced.

    Raises:
        TrainerError: EXPORT_FAILED, on every process, when the directory cannot be written.
    """
    shards = plan_shards(leaves(model), max_shard_bytes)
    partial = out_dir.parent / f".{out_dir.name}.partial"
    problem = _attempt(lambda: _begin(partial, shards, base_dir)) if is_writer() else None
    for file, members in shards.items():
        tensors = {item.name: _stored(item, array) for item, array in members}
        if is_writer() and problem is None:
            problem = _attempt(lambda file=file, tensors=tensors: _save(tensors, partial / file))
    if is_writer() and problem is None:
        problem = _attempt(lambda: _finish(partial, out_dir, shards, base_dir, texts or {}))
    if not agree(problem is None):
        raise TrainerError(
            TrainerReason.EXPORT_FAILED,
            f"The tuned model could not be written to {out_dir}: "
            f"{problem or 'process 0 has the cause'}. Checkpoints are kept; make room there and resubmit the job.",
        )


def leaves(model: Any) -> list[Leaf]:
    """Return every parameter with its global array, in Hugging Face's names, sorted by name."""
    from flax import nnx

    state = nnx.split(model, nnx.Param, ...)[1]
    tied = bool(getattr(model.config, "tie_word_embeddings", False))
    found = [(path, leaf.get_value()) for path, leaf in nnx.to_flat_state(state)]
    kept = [(path, value) for path, value in found if value is not None and not (tied and is_head(path))]
    return sorted(
        ((parameter(path, value.shape), value) for path, value in kept), key=lambda leaf: leaf[0].name
    )


def plan_shards(members: Iterable[Leaf], limit: int) -> dict[str, list[Leaf]]:
    """Distribute parameters over files of at most `limit` bytes (a larger tensor has its own); equal on all hosts."""
    groups: list[list[Leaf]] = []
    room = 0
    for item, array in members:
        if not groups or array.nbytes > room:
            groups.append([])
            room = limit
        groups[-1].append((item, array))
        room -= array.nbytes
    if len(groups) == 1:
        return {SINGLE_FILE: groups[0]}
    return {
        f"model-{number:05d}-of-{len(groups):05d}.safetensors": group
        for number, group in enumerate(groups, start=1)
    }


def _stored(item: Parameter, array: Any) -> NDArray[Any] | None:
    """Return a parameter in Hugging Face's layout; None on processes that do not write."""
    value = to_host(array)
    if value is None:
        return None
    return np.ascontiguousarray(value.T if item.transposed else value)


def _begin(partial: Path, shards: dict[str, list[Leaf]], base_dir: Path) -> None:
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    needed = _bytes(shards)
    if (free := shutil.disk_usage(partial).free) < needed:
        raise OSError(f"it needs {needed} bytes and {free} are free")
    for file in _copied(base_dir):
        shutil.copyfile(file, partial / file.name)


def _save(tensors: dict[str, NDArray[Any] | None], file: Path) -> None:
    from safetensors.numpy import save_file

    save_file(tensors, file, metadata={"format": "pt"})


def _finish(
    partial: Path, out_dir: Path, shards: dict[str, list[Leaf]], base_dir: Path, texts: Mapping[str, str]
) -> None:
    for name, text in texts.items():
        (partial / name).write_text(text, encoding="utf-8")
    dtype = next(array.dtype.name for members in shards.values() for _, array in members)
    _write_json(partial / "config.json", exported_config(read_json(base_dir / "config.json"), dtype))
    if len(shards) > 1:
        weight_map = {item.name: file for file, members in shards.items() for item, _ in members}
        total = {"metadata": {"total_size": _bytes(shards)}, "weight_map": weight_map}
        _write_json(partial / INDEX_FILE, total)
    shutil.rmtree(out_dir, ignore_errors=True)
    partial.rename(out_dir)


def exported_config(settings: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Return config.json with the written type under the name it already uses for it (`dtype` since transformers 5)."""
    keys = [key for key in ("torch_dtype", "dtype") if key in settings] or ["torch_dtype"]
    return settings | dict.fromkeys(keys, dtype)


def _copied(base_dir: Path) -> Iterator[Path]:
    found = {file for pattern in COPIED for file in base_dir.glob(pattern) if file.is_file()}
    return iter(sorted(found))


def _bytes(shards: dict[str, list[Leaf]]) -> int:
    return sum(int(array.nbytes) for members in shards.values() for _, array in members)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _attempt(action: Any) -> str | None:
    """Run `action`; return what went wrong. The other processes still wait in collectives, so nothing may escape."""
    try:
        action()
    except (OSError, TrainerError) as error:
        return str(error)
    return None
