"""What `dpojob plan` ends with, and what it writes, without a compiler."""

from pathlib import Path

import yaml
from typer.testing import CliRunner

from dpojob_trainer.cli import app
from dpojob_trainer.cli.planning import MAX_WORDS, PlanExit, unexpected, write_patch


class JaxRuntimeError(RuntimeError):
    """Has the name of the compiler's own error, which would have to be imported with JAX."""


def test_a_failure_of_the_compiler_is_told_from_others_and_shortened() -> None:
    failed = unexpected(JaxRuntimeError("INTERNAL: Mosaic failed\n  to compile TPU kernel: " + "x" * 5000))
    assert (failed.code, failed.reason) == (PlanExit.NOT_COMPILED, "CompileFailed")
    assert str(failed.problem).startswith(
        "JaxRuntimeError: INTERNAL: Mosaic failed to compile TPU kernel: xxx"
    )
    assert len(str(failed.problem)) < MAX_WORDS + 30
    assert unexpected(ValueError("no")).code is PlanExit.FAILED


def test_a_patch_is_read_as_yaml(tmp_path: Path) -> None:
    patch = {"spec": {"runtime": {"xlaFlags": {"xla_tpu_overlap_compute_collective_tc": "true"}}}}
    write_patch(tmp_path / "patch.yaml", patch)
    assert yaml.safe_load((tmp_path / "patch.yaml").read_text()) == patch


def test_a_patch_needs_a_search(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text("{}")
    found = CliRunner().invoke(app, ["plan", str(job), "--patch", str(tmp_path / "patch.yaml")])
    assert found.exit_code == PlanExit.USAGE
    assert "needs --tune" in found.output
