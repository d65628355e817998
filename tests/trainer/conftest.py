"""A claim with a tiny model and preference data, at the place where the operator would mount it."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from tests.trainer import tiny_models
from tests.trainer.jobs import Claim, mounted, write_pairs

from dpojob_api.constants import PVC_MOUNT_ROOT


@pytest.fixture(scope="session")
def claim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Claim]:
    """A claim with the tiny Qwen3 in model/ and 64 pairs in pairs.jsonl."""
    folder = tmp_path_factory.mktemp("claim")
    with ExitStack() as stack:
        try:
            mount = stack.enter_context(mounted(folder))
        except OSError as error:
            pytest.skip(f"claims are mounted below {PVC_MOUNT_ROOT}, which cannot be written here: {error}")
        tiny_models.write_model(folder / "model", tiny_models.QWEN3)
        write_pairs(folder / "pairs.jsonl", 64)
        yield mount
