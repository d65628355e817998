"""Last stage of training: the tuned EasyDeL module becomes a Hugging Face model directory."""

from pathlib import Path
from typing import Any

from dpojob_api.trainer_config import TrainerConfig

MAX_SHARD_BYTES = 5_000_000_000


def export_model(
    model: Any, config: TrainerConfig, base_dir: Path, out_dir: Path, *, max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Write `model` (what `load_model` returned, or `state.model`) to `out_dir` in Hugging Face layout.

    Every process of the slice calls it (gathering a tensor is a collective); only process 0 writes. One tensor at
    a time is brought to the host. `config.json`, `generation_config.json` and the tokenizer come from `base_dir`,
    the directory the model was loaded from. `out_dir` appears whole or not at all and must not exist before.

    Raises:
        TrainerError: EXPORT_FAILED when the directory cannot be written.
    """
    raise NotImplementedError
