"""A local stand-in of the Hub's HTTP API, spoken to by the real huggingface_hub and datasets clients in the tests.

It answers what they call: repository info, tree, paths-info and resolve (ETag, X-Repo-Commit, Range), and the Hub's
error headers. The real Hub cannot be reached from the tests.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha1
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.trainer.loopback import serving

GOOD_TOKEN = "hf_granted"
OTHER_TOKEN = "hf_not_granted"
API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?")
RESOLVE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
Files = dict[str, bytes]


@dataclass
class Repo:
    """A repository: files by branch or tag, and who may read it."""

    branches: dict[str, Files]
    gated: bool = False
    private: bool = False

    def commit(self, revision: str) -> str | None:
        """The commit of a branch, or the commit itself; None if there is no such revision."""
        commits = {branch: commit_of(branch, files) for branch, files in self.branches.items()}
        return revision if revision in commits.values() else commits.get(revision)

    def files(self, commit: str) -> Files:
        """The files of a commit."""
        return next(files for branch, files in self.branches.items() if commit_of(branch, files) == commit)


@dataclass
class Fault:
    """How to answer the next `times` requests whose method and path match: a status, or half of the body."""

    pattern: str
    times: int
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Hub:
    """What the server serves and what it was asked."""

    url: str = ""
    models: dict[str, Repo] = field(default_factory=dict)
    datasets: dict[str, Repo] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)

    def fault_for(self, request: str) -> Fault | None:
        """Take one use of the first fault that matches a request."""
        for fault in self.faults:
            if fault.times > 0 and re.search(fault.pattern, request):
                fault.times -= 1
                return fault
        return None

    def served(self, pattern: str) -> int:
        """How many requests matched."""
        return sum(bool(re.search(pattern, request)) for request in self.requests)


def commit_of(branch: str, files: Files) -> str:
    """A commit hash that depends on the content."""
    digest = sha1(branch.encode())
    for name in sorted(files):
        digest.update(name.encode() + files[name])
    return digest.hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Answers one connection; `hub` is set by :func:`serve`."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the test's output clean."""

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        self.answer()

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        request = f"{self.command} {path}"
        self.hub.requests.append(request)
        if token := self.headers.get("Authorization", "").removeprefix("Bearer "):
            self.hub.tokens.add(token)
        fault = self.hub.fault_for(request)
        if fault is not None and fault.status:
            self.refuse(fault.status, fault.headers)
        elif match := API.fullmatch(path):
            self.answer_api(*match.groups())
        elif match := RESOLVE.fullmatch(path):
            self.answer_file(*match.groups(), cut=fault is not None)
        else:
            self.refuse(404, {})

    def answer_api(
        self, kind: str, name: str, verb: str | None, revision: str | None, rest: str | None
    ) -> None:
        repo = self.readable(getattr(self.hub, kind), name, file=False)
        commit = self.commit_in(repo, revision or "main") if repo else None
        if repo is None or commit is None:
            return
        files = repo.files(commit)
        if verb == "tree":
            self.send_json(
                [entry(path, data) for path, data in sorted(files.items()) if path.startswith(rest or "")]
            )
        elif verb == "paths-info":
            wanted = (
                parse_qs(self.body).get("paths", []) if "=" in self.body else json.loads(self.body)["paths"]
            )
            self.send_json(paths_info(files, wanted))
        else:
            siblings = [{"rfilename": path} for path in sorted(files)]
            self.send_json(
                {"id": name, "sha": commit, "private": repo.private, "siblings": siblings, "tags": []}
            )

    def answer_file(self, dataset: str | None, name: str, revision: str, path: str, *, cut: bool) -> None:
        repo = self.readable(self.hub.datasets if dataset else self.hub.models, name, file=True)
        commit = self.commit_in(repo, revision) if repo else None
        if repo is None or commit is None:
            return
        content = repo.files(commit).get(path)
        if content is None:
            self.refuse(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        self.send_file(content, commit, cut)

    def send_file(self, content: bytes, commit: str, cut: bool) -> None:
        start = int((self.headers.get("Range") or "bytes=0-")[6:].split("-")[0])
        part = content[start:]
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", str(len(part)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(part[: len(part) // 2] if cut else part)
            self.close_connection = cut

    def readable(self, repos: dict[str, Repo], name: str, *, file: bool) -> Repo | None:
        """Return the repository if the request may read it, else answer as the Hub does."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        repo = repos.get(name)
        if token and token not in (GOOD_TOKEN, OTHER_TOKEN):
            self.refuse(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif repo is None or (repo.private and token != GOOD_TOKEN):
            missing = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
            anonymous = {"X-Error-Message": "Invalid username or password."}
            self.refuse(404 if token else 401, missing if token else anonymous)
        elif repo.gated and file and token != GOOD_TOKEN:
            self.refuse(403 if token else 401, {"X-Error-Code": "GatedRepo"})
        else:
            return repo
        return None

    def commit_in(self, repo: Repo, revision: str) -> str | None:
        commit = repo.commit(revision)
        if commit is None:
            self.refuse(404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
        return commit

    def refuse(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send_json(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def entry(path: str, data: bytes) -> dict[str, Any]:
    """A file in a tree listing."""
    return {"type": "file", "path": path, "size": len(data), "oid": sha1(data).hexdigest()}


def paths_info(files: Files, wanted: list[str]) -> list[dict[str, Any]]:
    """The files and folders among the wanted paths."""
    folders = [path for path in wanted if any(name.startswith(f"{path}/") for name in files)]
    return [entry(path, files[path]) for path in wanted if path in files] + [
        {"type": "directory", "path": path, "oid": "0" * 40} for path in folders
    ]


@contextmanager
def serve() -> Iterator[Hub]:
    """Run a Hub on a free port of 127.0.0.1."""
    hub = Hub()
    with serving(type("HubHandler", (Handler,), {"hub": hub})) as hub.url:
        yield hub
