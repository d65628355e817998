"""Gives Ray 2.54's raylet the port of its dashboard agent; run once while the image is built.

`ray start` knows the port and does not pass it on. The raylet then waits for a file that the agent writes, for a fixed
15 s, and aborts: too short for an agent that starts while other hosts' processes have the cores
(https://github.com/ray-project/ray/issues/65983).
"""

import importlib.util
import py_compile
from pathlib import Path

KNOWN = '        f"--runtime_env_agent_port={runtime_env_agent_port}",\n'
ADDED = '        f"--dashboard_agent_listen_port={dashboard_agent_listen_port or 0}",\n'


def patched(source: str) -> str:
    """Return the source of ``ray._private.services`` with the flag added to the raylet's command.

    Raises:
        ValueError: the source is not that of the Ray version that this patch is for.
    """
    if source.count(KNOWN) != 1 or ADDED in source:
        raise ValueError(
            "ray._private.services is not that of Ray 2.54; look at the raylet's command line again"
        )
    return source.replace(KNOWN, KNOWN + ADDED)


def main() -> None:
    """Patch the installed Ray and compile the file again."""
    ray = importlib.util.find_spec("ray")
    if ray is None or ray.origin is None:
        raise SystemExit("Ray is not installed")
    path = Path(ray.origin).parent / "_private" / "services.py"
    path.write_text(patched(path.read_text(encoding="utf-8")), encoding="utf-8")
    py_compile.compile(str(path), doraise=True)


if __name__ == "__main__":
    main()
