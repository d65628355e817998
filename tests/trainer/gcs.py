"""A stand-in of the part of GCS's JSON API that google-cloud-storage calls, in memory on 127.0.0.1.

There is no GCS in the tests; the real client speaks to this through STORAGE_EMULATOR_HOST. It shows every request and
refuses whole buckets, which the emulator of `fake_gcs.py` cannot.
"""

import base64
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import md5
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.trainer.loopback import serving

BUCKET = re.compile(r"/storage/v1/b/([^/]+)")
OBJECTS = re.compile(r"/(?:upload/|download/)?storage/v1/b/([^/]+)/o(?:/(.+))?")


@dataclass
class Gcs:
    """Objects by bucket and name, the buckets that refuse everything, and every request."""

    url: str = ""
    buckets: dict[str, dict[str, bytes]] = field(default_factory=dict)
    generations: dict[tuple[str, str], int] = field(default_factory=dict)
    metadata: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    denied: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    """Answers one connection; `gcs` is set by :func:`serve`."""

    gcs: Gcs
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the test's output clean."""

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def do_DELETE(self) -> None:
        self.answer()

    def answer(self) -> None:
        url = urlsplit(self.path)
        self.query = {key: values[0] for key, values in parse_qs(url.query).items()}
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        match = OBJECTS.fullmatch(url.path) or BUCKET.fullmatch(url.path)
        assert match, self.path
        bucket, name = match[1], unquote(match[2] or "") if match.re is OBJECTS else ""
        self.gcs.requests.append(f"{self.command} {bucket} {name}")
        if bucket in self.gcs.denied:
            self.send(403, {"error": {"message": f"caller has no access to {bucket}"}})
        elif bucket not in self.gcs.buckets:
            self.send(404, {"error": {"message": "The specified bucket does not exist."}})
        elif match.re is BUCKET:
            self.send(200, {"kind": "storage#bucket", "name": bucket, "location": "US"})
        else:
            self.answer_object(bucket, name, self.gcs.buckets[bucket])

    def answer_object(self, bucket: str, name: str, objects: dict[str, bytes]) -> None:
        if self.command == "POST":
            self.upload(bucket, objects)
        elif not name:
            self.list(bucket, objects)
        elif name not in objects:
            self.send(404, {"error": {"message": f"No such object: {bucket}/{name}"}})
        elif self.command == "DELETE":
            del objects[name]
            self.send(204, None)
        elif self.query.get("alt") == "media":
            self.generation = self.gcs.generations.get((bucket, name), 1)
            self.send(200, objects[name])
        else:
            self.send(200, self.resource(bucket, name, objects[name]))

    def upload(self, bucket: str, objects: dict[str, bytes]) -> None:
        boundary = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])
        assert self.query["uploadType"] == "multipart" and boundary
        parts = self.body.split(b"--" + boundary[1].encode())
        described = json.loads(parts[1].partition(b"\r\n\r\n")[2])
        name = described["name"]
        generation = self.gcs.generations.get((bucket, name), 1) if name in objects else 0
        if self.query.get("ifGenerationMatch", str(generation)) != str(generation):
            self.send(412, {"error": {"message": "conditionNotMet"}})
            return
        self.gcs.generations[bucket, name] = generation + 1
        self.gcs.metadata[bucket, name] = described.get("metadata", {})
        objects[name] = parts[2].partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
        self.send(200, self.resource(bucket, name, objects[name]))

    def list(self, bucket: str, objects: dict[str, bytes]) -> None:
        prefix, delimiter = self.query.get("prefix", ""), self.query.get("delimiter")
        names = sorted(name for name in objects if name.startswith(prefix))
        folders = sorted(
            {
                prefix + name[len(prefix) :].split(delimiter)[0] + delimiter
                for name in names
                if delimiter in name[len(prefix) :]
            }
            if delimiter
            else []
        )
        items = [
            self.resource(bucket, name, objects[name])
            for name in names
            if not any(name.startswith(folder) for folder in folders)
        ]
        limit = int(self.query.get("maxResults", len(items)))
        self.send(200, {"kind": "storage#objects", "items": items[:limit], "prefixes": folders})

    def resource(self, bucket: str, name: str, content: bytes) -> dict[str, Any]:
        """An object's description."""
        return {
            "kind": "storage#object",
            "bucket": bucket,
            "name": name,
            "size": str(len(content)),
            "generation": str(self.gcs.generations.get((bucket, name), 1)),
            "metadata": self.gcs.metadata.get((bucket, name), {}),
            "md5Hash": checksum(content),
        }

    def send(self, status: int, content: Any) -> None:
        body = (
            content
            if isinstance(content, bytes)
            else b""
            if content is None
            else json.dumps(content).encode()
        )
        self.send_response(status)
        if isinstance(content, bytes):
            self.send_header("X-Goog-Hash", f"md5={checksum(content)}")
            self.send_header("X-Goog-Generation", str(self.generation))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def checksum(content: bytes) -> str:
    """MD5 in base64, as GCS writes it."""
    return base64.b64encode(md5(content).digest()).decode()


@contextmanager
def serve() -> Iterator[Gcs]:
    """Run the stand-in on a free port of 127.0.0.1."""
    gcs = Gcs()
    with serving(type("GcsHandler", (Handler,), {"gcs": gcs})) as gcs.url:
        yield gcs
