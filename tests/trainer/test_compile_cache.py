"""Where compiled programs are kept: in the output, or where several jobs share them."""

from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from tests.trainer.fake_gcs import FakeGcs

from dpojob_api.constants import OUTPUT_COMPILE_CACHE
from dpojob_api.slice_spec import Platform
from dpojob_trainer import store
from dpojob_trainer.training import compile_cache

pytestmark = pytest.mark.jax


@pytest.fixture(autouse=True)
def kept() -> Iterator[None]:
    """JAX's settings are those of the process."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def folder_of(uri: str, platform: Platform, workdir: Path) -> Path:
    """Return where JAX keeps the programs of a job with this output."""
    out = store.open_store(uri)
    compile_cache.CompileCache(out, out, platform, workdir).enable()
    return Path(str(jax.config.jax_compilation_cache_dir))


def test_programs_of_a_job_lie_in_its_output(
    monkeypatch: pytest.MonkeyPatch, volume: Path, tmp_path: Path
) -> None:
    monkeypatch.delenv(compile_cache.SHARED, raising=False)
    found = folder_of("pvc://inputs/out", Platform.TPU, tmp_path)
    assert found == volume / "out" / OUTPUT_COMPILE_CACHE / "tpu"


def test_jobs_may_share_programs_apart_by_cpu(
    monkeypatch: pytest.MonkeyPatch, volume: Path, emulator: FakeGcs, tmp_path: Path
) -> None:
    monkeypatch.setenv(compile_cache.SHARED, str(tmp_path / "shared"))
    for uri in ("pvc://inputs/out", "gs://out/job"):
        found = folder_of(uri, Platform.CPU, tmp_path)
        assert found.parent == tmp_path / "shared" and found.name.startswith("cpu-")


def test_beside_gcs_there_is_a_local_copy(
    monkeypatch: pytest.MonkeyPatch, emulator: FakeGcs, tmp_path: Path
) -> None:
    monkeypatch.delenv(compile_cache.SHARED, raising=False)
    found = folder_of("gs://out/job", Platform.TPU, tmp_path)
    assert found == tmp_path / OUTPUT_COMPILE_CACHE / "tpu" and found.is_dir()
