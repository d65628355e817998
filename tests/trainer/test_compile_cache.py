"""Where compiled programs are kept: in the output, or where several jobs share them."""

from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from dpojob_api.constants import OUTPUT_COMPILE_CACHE
from dpojob_api.slice_spec import Platform
from dpojob_trainer.training import compile_cache

pytestmark = pytest.mark.jax


@pytest.fixture(autouse=True)
def kept() -> Iterator[None]:
    """JAX's setting is that of the process."""
    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_programs_of_a_job_lie_in_its_output(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(compile_cache.SHARED, raising=False)
    compile_cache.enable(tmp_path, Platform.TPU)
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / OUTPUT_COMPILE_CACHE / "tpu")


def test_jobs_may_share_programs_apart_by_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(compile_cache.SHARED, str(tmp_path / "shared"))
    for output in (tmp_path / "out", None):
        compile_cache.enable(output, Platform.CPU)
        found = Path(str(jax.config.jax_compilation_cache_dir))
        assert found.parent == tmp_path / "shared" and found.name.startswith("cpu-")


def test_without_a_folder_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(compile_cache.SHARED, raising=False)
    before = jax.config.jax_compilation_cache_dir
    compile_cache.enable(None, Platform.TPU)
    assert jax.config.jax_compilation_cache_dir == before
