"""The attempt's ConfigMap: the trainer's configuration, resolved."""

from typing import Any

from dpojob_api import constants
from dpojob_api.trainer_config import trainer_config
from dpojob_api.v1alpha1 import DPOJob
from dpojob_operator.desired import metadata


def config_text(job: DPOJob, attempt: int) -> str:
    """Return the text of the trainer's configuration file."""
    return trainer_config(job, attempt).to_json()


def build_configmap(job: DPOJob, attempt: int) -> dict[str, Any]:
    """Return the ConfigMap that every Ray container mounts at ``CONFIG_DIR``."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata.metadata(job, attempt),
        "data": {constants.CONFIG_KEY: config_text(job, attempt)},
    }
