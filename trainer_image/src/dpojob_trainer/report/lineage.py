"""Where a tuned model comes from: revisions, fingerprints, image and versions."""

import hashlib
import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpojob_api.constants import IMAGE_VARIABLE
from dpojob_api.trainer_config import TrainerConfig
from dpojob_api.uris import parse_uri

if TYPE_CHECKING:
    from dpojob_trainer.data import PreparedData

PACKAGES = ("easydel", "jax", "ray", "transformers")


def lineage_of(config: TrainerConfig, model_dir: Path, prepared: "PreparedData") -> dict[str, str]:
    """Return what is known about the origin of the model; what is not known is left out.

    Args:
        config: the attempt's configuration.
        model_dir: the folder that the base model was read from; of the Hub's cache, where folders are named by commit.
        prepared: the pairs and their tokenizer.
    """
    from_hub = parse_uri(config.model.uri).scheme == "hf"
    found = {
        "model": config.model.uri,
        "modelRevision": model_dir.name if from_hub else None,
        "dataset": config.dataset.uri,
        "datasetRevision": prepared.revision,
        "pairsSha256": prepared.pairs_sha256,
        "chatTemplateSha256": template_hash(prepared.tokenizer.chat_template),
        "image": os.environ.get(IMAGE_VARIABLE),
    }
    return {name: value for name, value in found.items() if value}


def template_hash(template: Any) -> str | None:
    """Return the SHA-256 of a chat template, None without one."""
    if template is None:
        return None
    text = template if isinstance(template, str) else json.dumps(template, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of what computes."""
    return {name: version(name) for name in PACKAGES}
