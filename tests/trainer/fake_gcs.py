"""A real GCS emulator, fake-gcs-server, behind a proxy of ours that can fail requests on their way.

GCS itself cannot be reached from the tests. The emulator keeps real generations and serves all three clients of the
trainer: google-cloud-storage, gcsfs (Orbax's paths) and tensorstore (Orbax's arrays). `make fake-gcs` compiles it.
"""

import http.client
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest

Kind = Literal["drop", "lose", "hang"] | int
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}
START_SECONDS = 30.0
# Longer than a client's timeout, which a test sets.
HANG_SECONDS = 4.0


@dataclass
class Fault:
    """What happens to the next `times` requests whose "METHOD path" matches.

    Attributes:
        kind: a status to answer with; drop: the connection breaks before the emulator sees the request; lose: it breaks
            after the emulator has done what was asked; hang: after that no answer comes for HANG_SECONDS.
    """

    pattern: str
    kind: Kind
    times: int = 1


@dataclass
class FakeGcs:
    """The emulator: where it is, what was asked for, and what is to fail."""

    url: str
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fail(self, pattern: str, kind: Kind, times: int = 1) -> None:
        """Let requests fail."""
        self.faults.append(Fault(pattern, kind, times))

    def fault(self, request: str) -> Kind | None:
        """Record a request; return how it is to fail, if at all."""
        with self.lock:
            self.requests.append(request)
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.pattern, request):
                    fault.times -= 1
                    self.failed.append(request)
                    return fault.kind
        return None

    def environment(self) -> dict[str, str]:
        """Variables that make the three clients use the emulator."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
            "FSSPEC_GCS_TOKEN": "anon",
        }

    def create_bucket(self, name: str) -> None:
        """Create a bucket."""
        body = f'{{"name": "{name}"}}'.encode()
        with connected(self.url) as connection:
            connection.request(
                "POST", "/storage/v1/b?project=test", body, {"Content-Type": "application/json"}
            )
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()


class Proxy(BaseHTTPRequestHandler):
    """Passes one connection's requests on to the emulator; the class of a running proxy has `gcs` and `behind`."""

    gcs: FakeGcs
    behind: str
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the test's output clean."""

    def answer(self) -> None:
        body = self.body()
        kind = self.gcs.fault(f"{self.command} {self.path}")
        if isinstance(kind, int):
            words = f'{{"error": {{"code": {kind}, "message": "injected"}}}}'.encode()
            self.send(kind, {"Content-Type": "application/json"}, words)
            return
        if kind == "drop":
            self.cut()
            return
        with connected(self.behind) as connection:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        if kind in ("lose", "hang"):
            time.sleep(HANG_SECONDS if kind == "hang" else 0)
            self.cut()
            return
        self.send(answer.status, dict(answer.getheaders()), content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = answer

    def body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def cut(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def send(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def connected(url: str) -> Iterator[http.client.HTTPConnection]:
    """A connection to a server."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    try:
        yield connection
    finally:
        connection.close()


def binary() -> Path:
    """The emulator's program."""
    cache = Path(os.environ.get("DPOJOB_CACHE", Path.home() / ".cache/dpojob"))
    found = sorted(cache.glob("bin/fake-gcs-server-*/fake-gcs-server"))
    if not found:
        pytest.fail(f"no fake-gcs-server below {cache}/bin: run `make fake-gcs`")
    return found[-1]


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def emulator(external_url: str) -> Iterator[str]:
    """Run the emulator in memory; clients reach it through `external_url`."""
    port = free_port()
    command = [
        str(binary()),
        "-scheme",
        "http",
        "-host",
        "127.0.0.1",
        "-port",
        str(port),
        "-backend",
        "memory",
    ]
    command += ["-external-url", external_url, "-log-level", "error"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(port, process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    """Wait until the emulator takes connections."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert process.poll() is None, f"fake-gcs-server ended with {process.returncode}"
            assert time.monotonic() < deadline, f"fake-gcs-server did not start within {START_SECONDS:.0f} s"
            time.sleep(0.05)


@contextmanager
def serve() -> Iterator[FakeGcs]:
    """Run the emulator and the proxy before it."""
    handler = type("Handler", (Proxy,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    gcs = FakeGcs(f"http://127.0.0.1:{server.server_address[1]}")
    with emulator(gcs.url) as behind:
        handler.gcs, handler.behind = gcs, behind  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield gcs
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
