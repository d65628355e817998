"""The patch of the trainer image's Ray fits the Ray that the lock pins. Pure logic on the installed source."""

import importlib.util
from pathlib import Path

import pytest
from trainer_image import patch_ray


def installed_source() -> str:
    """Return the source of the installed ``ray._private.services``, without importing Ray."""
    spec = importlib.util.find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    return (Path(spec.origin).parent / "_private" / "services.py").read_text(encoding="utf-8")


def test_raylet_is_given_the_port_of_its_agent() -> None:
    source = patch_ray.patched(installed_source())
    start_raylet = source[source.index("def start_raylet(") :]
    command = start_raylet[start_raylet.index("RAYLET_EXECUTABLE,") :]
    assert "--dashboard_agent_listen_port={" in command[: command.index("]\n")]
    compile(source, "services.py", "exec")


@pytest.mark.parametrize("source", ["", "x = 1\n", patch_ray.KNOWN * 2])
def test_another_ray_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match="not that of Ray"):
        patch_ray.patched(source)


def test_patch_is_not_applied_twice() -> None:
    with pytest.raises(ValueError, match="not that of Ray"):
        patch_ray.patched(patch_ray.patched(installed_source()))
