"""Images from Dockerfiles without a registry or a daemon: a base image by debootstrap, the rest by buildah, both cached."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from . import oci
from .paths import Paths
from .shell import Problem, digest, locked, run, run_logged, step

BASE = "localhost/python:3.11-slim-bookworm"
SUITE = "bookworm"
INCLUDE = "python3,python3-venv,ca-certificates"
PRUNED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "var/cache/apt", "var/lib/apt/lists",
          "var/log")  # fmt: skip
_RECIPE = "3"
_AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
_INDEX = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX")
_EPOCH = "1700000000"
_KEEP = 2
_ROOM = 12 << 30
_STALE = 24 * 3600


def base(paths: Paths) -> Path:
    """Return the archive of the base image, made by debootstrap when the cache lacks it.

    It stands in for the public python:3.11-slim-bookworm: Debian 12 with its Python 3.11 and venv.
    """
    file = paths.cache / "images" / f"base-{digest([SUITE, INCLUDE, _RECIPE, *PRUNED])}.tar"
    with locked(paths.cache / "images/.base.lock", "the base image"):
        if not file.exists():
            began = time.monotonic()
            _bootstrap(paths, file)
            step(f"made {BASE} in {time.monotonic() - began:.0f} s ({file.stat().st_size >> 20} MiB)")
    return file


def image(paths: Paths, name: str, dockerfile: Path, context: Path) -> Path:
    """Return the archive of the image `name`, built unless the cache holds one from the same files.

    Only what the Dockerfile copies from the context is seen by the build and counts for the cache.

    Raises:
        Problem: the Dockerfile is missing, copies what is not there, or a step of it fails.
    """
    if not dockerfile.is_file():
        raise Problem(f"there is no Dockerfile {dockerfile}")
    base_archive = base(paths)
    sources = copied(dockerfile.read_text())
    content = [part for source in sources for part in _content(context, source)]
    key = digest([dockerfile.read_bytes(), base_archive.name, name, *content])
    label = re.sub(r"[^a-z0-9.]+", "-", name.rpartition("/")[2])
    file = paths.cache / "images" / f"{label}-{key}.json"
    with locked(paths.cache / f"images/.{label}.lock", f"building {name}"):
        if file.exists():
            os.utime(file)
            return file
        began = time.monotonic()
        step(f"building {name} from {dockerfile}")
        with tempfile.TemporaryDirectory(dir=file.parent) as staged:
            _stage(context, sources, Path(staged))
            _build(paths, name, dockerfile, Path(staged), base_archive, file)
        step(f"built {name} in {time.monotonic() - began:.0f} s ({oci.size(file) >> 20} MiB)")
    return file


def copied(dockerfile: str) -> list[str]:
    """Return the paths that COPY and ADD take from the build context, in order.

    >>> copied("FROM a AS b\\nCOPY --chown=1:1 src/x \\\\\\n  src/y /app/\\nCOPY --from=b /v /v")
    ['src/x', 'src/y']
    """
    found: list[str] = []
    for line in re.sub(r"\\\s*\n", " ", dockerfile).splitlines():
        words = shlex.split(line, comments=True) if re.match(r"\s*(COPY|ADD)\s", line, re.I) else []
        options = [word for word in words[1:] if word.startswith("--")]
        if not any(option.startswith("--from") for option in options):
            found += [word for word in words[1:-1] if not word.startswith("--")]
    return list(dict.fromkeys(found))


def _files(context: Path, source: str) -> Iterator[Path]:
    matches = sorted(context.glob(source.strip("/"))) if source.strip("./") else [context]
    if not matches:
        raise Problem(f"the Dockerfile copies {source}, which is not in {context}")
    for match in matches:
        files = sorted(match.rglob("*")) if match.is_dir() else [match]
        yield from (f for f in files if f.is_file() and not _ignored(f.relative_to(context)))


def _ignored(path: Path) -> bool:
    return any(
        part in {"__pycache__", ".git", ".cluster", ".venv", ".tools"} or part.endswith(".egg-info")
        for part in path.parts
    )


def _content(context: Path, source: str) -> Iterator[str | bytes]:
    for file in _files(context, source):
        yield f"{file.relative_to(context)} {os.access(file, os.X_OK)}"
        yield file.read_bytes()


def _stage(context: Path, sources: list[str], into: Path) -> None:
    for file in (file for source in sources for file in _files(context, source)):
        target = into / file.relative_to(context)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
        # A checkout's umask must not change the image, nor hide its files from user 1000.
        target.chmod(0o755 if os.access(file, os.X_OK) else 0o644)
    for folder in (into, *(p for p in into.rglob("*") if p.is_dir())):
        folder.chmod(0o755)


def _build(paths: Paths, name: str, dockerfile: Path, context: Path, base_archive: Path, into: Path) -> None:
    log = paths.cache / "log" / f"image-{into.stem.rpartition('-')[0]}.log"
    with locked(paths.cache / "images/.buildah.lock", "buildah"), tempfile.TemporaryDirectory() as secrets:
        _tidy(paths)
        _have_base(paths, base_archive)
        command = [*_buildah(paths), "bud", "--isolation", "chroot", "--pull-never", "--network", "host", "--layers",
                   "--timestamp", _EPOCH, "--format", "oci", *_secrets(Path(secrets)), "--build-arg", f"BASE_IMAGE={BASE}",
                   "--file", dockerfile, "--tag", name, context]  # fmt: skip
        run_logged(command, log, f"building {name}", seconds=2400)
        with tempfile.TemporaryDirectory(dir=into.parent) as layers:
            # Not oci-archive: buildah compresses that whatever it is told, minutes for a large image.
            run([*_buildah(paths), "push", "--disable-compression", name, f"dir:{layers}"], seconds=900)
            oci.adopt(Path(layers), into)
        _prune(into)


def _buildah(paths: Paths) -> list[str | Path]:
    root = paths.cache / "buildah"
    policy = root.with_name("buildah-policy.json")
    if not policy.exists():
        policy.parent.mkdir(parents=True, exist_ok=True)
        policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    return ["buildah", "--root", root, "--runroot", "/run/dpojob-buildah", "--storage-driver", "overlay"]


def _tidy(paths: Paths) -> None:
    """Remove what a killed build left, and the layers kept for the next build when the disk is nearly full."""
    run([*_buildah(paths), "rm", "--all"], check=False)
    if shutil.disk_usage(paths.cache).free < _ROOM:
        run([*_buildah(paths), "rmi", "--all", "--force"], check=False, seconds=300)
    for folder in (paths.cache / "images").glob("tmp*"):
        if time.time() - folder.stat().st_mtime > _STALE:
            shutil.rmtree(folder, ignore_errors=True)


def _have_base(paths: Paths, archive: Path) -> None:
    marker = paths.cache / "buildah" / f".{archive.name}"
    if marker.exists() and run([*_buildah(paths), "images", "-q", BASE], check=False).strip():
        return
    identifier = run([*_buildah(paths), "pull", f"oci-archive:{archive}"], seconds=300).split()[-1]
    run([*_buildah(paths), "tag", identifier, BASE])
    marker.touch()


def _secrets(folder: Path) -> list[str]:
    words = ["--secret", f"id=ca,src={_AUTHORITIES}"] if _AUTHORITIES.exists() else []
    settings = [f"export {name}={shlex.quote(os.environ[name])}" for name in _INDEX if os.environ.get(name)]
    if settings:
        (folder / "index").write_text("\n".join(settings) + "\n")
        words += ["--secret", f"id=index,src={folder / 'index'}"]
    return words


def _prune(newest: Path) -> None:
    label = newest.stem.rpartition("-")[0]
    files = sorted(newest.parent.glob(f"{label}-*.json"), key=lambda f: f.stat().st_mtime, reverse=True)
    for old in files[_KEEP:]:
        old.unlink()
    oci.sweep(newest.parent)


def _bootstrap(paths: Paths, into: Path) -> None:
    step(f"making the base image {BASE} with debootstrap (about a minute)")
    into.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into.parent) as name:
        root = Path(name) / "root"
        options = ["--variant=minbase", f"--include={INCLUDE}"]
        command = ["debootstrap", *options, SUITE, str(root), *_mirror()]
        run_logged(command, paths.cache / "log/debootstrap.log", "debootstrap", seconds=1200)
        for folder in PRUNED:
            for child in (root / folder).glob("*"):
                shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()
        for alias in ("python", "python3"):
            (root / "usr/local/bin" / alias).symlink_to("/usr/bin/python3")
        for device in ("dev", "proc", "sys"):
            shutil.rmtree(root / device, ignore_errors=True)
            (root / device).mkdir(exist_ok=True)
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        oci.archive(into, {".": root}, {"Env": [f"PATH={path}", "LANG=C.UTF-8"], "Cmd": ["python3"]})


def _mirror() -> list[str]:
    """Return the mirror this machine uses when it is Debian's; elsewhere debootstrap knows one by itself."""
    if "ID=debian" not in Path("/etc/os-release").read_text().split():
        return []
    sources = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    text = "\n".join(file.read_text() for file in sources if file.is_file())
    found = re.search(r"^(?:URIs:|deb(?: \[.*?\])?)\s+(\S+/debian/?)(?:\s|$)", text, re.M)
    return [found[1]] if found else []
