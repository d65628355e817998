"""The two images without a Dockerfile: pause, which every pod needs, and probe, which proves that pods work."""

from __future__ import annotations

from .build import module_folder
from .oci import archive
from .paths import Paths
from .runtime import load

PAUSE = "localhost/pause:local"
PROBE = "localhost/probe:local"
_USER = "65532:65532"


def load_tools(paths: Paths) -> None:
    """Make the images from their binaries, once per compiled version, and import them."""
    binaries = module_folder(paths, "pod")
    for image, program in ((PAUSE, "pause"), (PROBE, "probe")):
        file = binaries / f"{program}.tar"
        if not file.exists():
            config = {"Entrypoint": [f"/{program}"], "User": _USER}
            archive(file, {program: binaries / program}, config)
        load(paths, file, image)
