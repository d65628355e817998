"""Image builds: what a Dockerfile takes from its context, what makes another build, and images as files."""

import io
import json
import os
import tarfile
from collections.abc import Container
from hashlib import sha256
from pathlib import Path

import pytest
from hack.cluster.localcluster import images, oci
from hack.cluster.localcluster.shell import Problem

ROOT = Path(__file__).resolve().parents[2]


class TestContext:
    @pytest.mark.parametrize(
        ("dockerfile", "sources"),
        [
            (
                "FROM a AS b\nCOPY --chown=1:1 src/x \\\n  src/y /app/\nCOPY --from=b /v /v",
                ["src/x", "src/y"],
            ),
            ("add a /a\n  COPY a /b\nCOPY 'with space' /c", ["a", "with space"]),
            ("# COPY a /a\nRUN echo COPY b /b\nENV COPY=c", []),
        ],
    )
    def test_copied(self, dockerfile: str, sources: list[str]) -> None:
        assert images.copied(dockerfile) == sources

    @pytest.mark.parametrize("dockerfile", ["operator/Dockerfile", "trainer_image/Dockerfile"])
    def test_our_dockerfiles_copy_what_the_checkout_has(self, dockerfile: str) -> None:
        for source in images.copied((ROOT / dockerfile).read_text()):
            assert list(images._files(ROOT, source)), source

    def test_what_a_build_leaves_behind_does_not_count(self, tmp_path: Path) -> None:
        for name in (
            "src/a.py",
            "src/__pycache__/a.pyc",
            "src/x.egg-info/PKG",
            ".git/HEAD",
            ".venv/bin/python",
        ):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        assert list(images._files(tmp_path, ".")) == [tmp_path / "src/a.py"]

    def test_a_missing_source_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(Problem, match=f"copies src/x, which is not in {tmp_path}"):
            list(images._files(tmp_path, "src/x"))

    def test_name_content_and_executable_bit_make_another_build(self, tmp_path: Path) -> None:
        file = tmp_path / "run"
        file.write_text("1")
        file.chmod(0o644)
        first = list(images._content(tmp_path, "run"))
        file.chmod(0o600)
        assert list(images._content(tmp_path, "run")) == first
        file.chmod(0o755)
        executable = list(images._content(tmp_path, "run"))
        file.write_text("2")
        assert first != executable != list(images._content(tmp_path, "run"))

    def test_staged_files_can_be_read_by_everyone(self, tmp_path: Path) -> None:
        context, staged = tmp_path / "context", tmp_path / "staged"
        (context / "src").mkdir(parents=True, mode=0o700)
        for name, mode in (("a.py", 0o600), ("run.sh", 0o700)):
            (context / "src" / name).write_text(name)
            (context / "src" / name).chmod(mode)
        staged.mkdir(mode=0o700)
        images._stage(context, ["src"], staged)
        modes = {str(p.relative_to(staged)): p.stat().st_mode & 0o777 for p in (staged, *staged.rglob("*"))}
        assert modes == {".": 0o755, "src": 0o755, "src/a.py": 0o644, "src/run.sh": 0o755}

    def test_index_settings_go_into_a_file_and_not_into_the_command(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in images._INDEX:
            monkeypatch.delenv(name, raising=False)
        assert not any("index" in word for word in images._secrets(tmp_path))
        monkeypatch.setenv("PIP_INDEX_URL", "https://user:pass word@host/simple")
        assert "pass" not in " ".join(images._secrets(tmp_path))
        assert (
            tmp_path / "index"
        ).read_text() == "export PIP_INDEX_URL='https://user:pass word@host/simple'\n"


@pytest.fixture
def content(tmp_path: Path) -> Path:
    """A file for an image."""
    file = tmp_path / "program"
    file.write_bytes(bytes(range(256)) * 40)
    return file


def pushed(folder: Path, *layers: bytes) -> Path:
    """A folder as ``buildah push dir:`` leaves it."""
    folder.mkdir()
    parts = [{"digest": f"sha256:{sha256(part).hexdigest()}", "size": len(part)} for part in (b"{}", *layers)]
    for part, blob in zip(parts, (b"{}", *layers), strict=True):
        (folder / str(part["digest"]).removeprefix("sha256:")).write_bytes(blob)
    (folder / "manifest.json").write_text(json.dumps({"config": parts[0], "layers": parts[1:]}))
    (folder / "version").write_text("Directory Transport Version: 1.1\n")
    return folder


def streamed(path: Path, without: Container[str] = ()) -> dict[str, bytes]:
    """The members of an image as containerd is given it."""
    out = io.BytesIO()
    oci.stream(path, out, without)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        files = {member.name: tar.extractfile(member) for member in tar}
        return {name: file.read() for name, file in files.items() if file}


class TestFiles:
    def test_an_archive_has_the_same_bytes_whenever_it_is_made(self, tmp_path: Path, content: Path) -> None:
        first = oci.archive(tmp_path / "1.tar", {"program": content}, {"User": "1"}).read_bytes()
        os.utime(content, (1, 1))
        assert oci.archive(tmp_path / "2.tar", {"program": content}, {"User": "1"}).read_bytes() == first
        assert oci.archive(tmp_path / "3.tar", {"program": content}, {"User": "2"}).read_bytes() != first

    def test_every_blob_of_an_archive_is_named_by_its_digest(self, tmp_path: Path, content: Path) -> None:
        path = oci.archive(tmp_path / "1.tar", {"program": content}, {"Entrypoint": ["/program"]})
        files = streamed(path)
        (manifest,) = json.loads(files["index.json"])["manifests"]
        parts = json.loads(files[oci._blob(manifest["digest"])])
        for part in (manifest, parts["config"], *parts["layers"]):
            blob = files[oci._blob(part["digest"])]
            assert (part["digest"], part["size"]) == (f"sha256:{sha256(blob).hexdigest()}", len(blob))
        layer = files[oci._blob(parts["layers"][0]["digest"])]
        with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
            assert tar.getnames() == ["program"]
        assert oci.index_digest(path) == f"sha256:{sha256(files['index.json']).hexdigest()}"

    def test_what_containerd_has_is_not_sent_again(self, tmp_path: Path) -> None:
        large, small = b"x" * 5000, b"y"
        image = oci.adopt(pushed(tmp_path / "push", large, small), tmp_path / "app-1.json")
        known = f"sha256:{sha256(large).hexdigest()}"
        whole, rest = streamed(image), streamed(image, {known})
        assert whole.keys() - rest.keys() == {oci._blob(known)} and whole[oci._blob(known)] == large
        assert oci.size(image) - oci.size(image, {known}) == len(large)
        assert oci.index_digest(image) == f"sha256:{sha256(image.read_bytes()).hexdigest()}"

    def test_old_versions_go_but_not_what_new_ones_share_with_them(self, tmp_path: Path) -> None:
        shared = b"base"
        for number in range(3):
            image = oci.adopt(
                pushed(tmp_path / f"push{number}", shared, b"layer%d" % number),
                tmp_path / f"app-{number}.json",
            )
            os.utime(image, (number, number))
        images._prune(tmp_path / "app-2.json")
        assert sorted(file.name for file in tmp_path.glob("app-*.json")) == ["app-1.json", "app-2.json"]
        blobs = {file.read_bytes() for file in (tmp_path / "blobs").iterdir()}
        assert {shared, b"layer1", b"layer2"} <= blobs and b"layer0" not in blobs
        assert oci.size(tmp_path / "app-1.json") > 0
