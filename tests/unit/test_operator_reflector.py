"""What a reflector does with lists, streams and their errors. The API server is a script; a real one is in tests/chaos."""

import asyncio

import pytest

from dpojob_operator import kube, reflector
from dpojob_operator.errors import ExpiredError, NotFoundError, TransientError
from dpojob_operator.kube import Versions
from dpojob_operator.reflector import ABSENT_SECONDS, Reflector


def pod(name, version):
    return {"metadata": {"name": name, "namespace": "ns", "resourceVersion": str(version)}}


def event(kind, name, version):
    return {"type": kind, "object": pod(name, version)}


def page(version, *items):
    return {"metadata": {"resourceVersion": str(version)}, "items": list(items)}


class Script:
    """An API server that gives its answers in turn; an answer that is an error is raised."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.watched = []

    async def pages(self, resource, namespace, selector):
        for answer in self.next():
            yield answer

    async def watch(self, resource, namespace, selector, version):
        self.watched.append(version)
        for answer in self.next():
            yield answer

    def next(self):
        for answer in self.answers.pop(0):
            if isinstance(answer, Exception):
                raise answer
            yield answer


async def follow(script, monkeypatch):
    """Follow until the script is at its end; return what was shown, the lists and the pauses."""
    shown, lists, pauses = [], [], []

    async def sleep(seconds):
        pauses.append(seconds)
        if not script.answers:
            raise asyncio.CancelledError

    monkeypatch.setattr(reflector.asyncio, "sleep", sleep)
    follower = Reflector(
        script,
        kube.PODS,
        "ns",
        "",
        lambda resource, kind, body: shown.append((kind, body["metadata"]["name"])),
        lambda resource, namespace, versions: lists.append(versions),
    )
    with pytest.raises(asyncio.CancelledError):
        await follower.run()
    return shown, lists, pauses


async def test_pages_are_shown_and_then_what_happens_after_them(monkeypatch):
    script = Script([page(7, pod("a", 3)), page(7, pod("b", 5))], [event("MODIFIED", "a", 8)])
    shown, lists, _ = await follow(script, monkeypatch)
    assert shown == [(None, "a"), (None, "b"), ("MODIFIED", "a")]
    assert lists == [Versions(7, {("ns", "a"): 3, ("ns", "b"): 5})]
    assert script.watched == [7]


async def test_stream_that_ends_or_breaks_goes_on_where_it_was(monkeypatch):
    bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "20"}}}
    script = Script([page(7)], [event("ADDED", "a", 9)], [bookmark, TransientError("cut")], [])
    shown, lists, _ = await follow(script, monkeypatch)
    assert (shown, len(lists)) == ([("ADDED", "a")], 1)
    assert script.watched == [7, 9, 20]


@pytest.mark.parametrize(
    "expired", [ExpiredError("gone"), {"type": "ERROR", "object": {"code": 410, "message": "too old"}}]
)
async def test_version_that_is_too_old_is_listed_anew(monkeypatch, expired):
    script = Script([page(7, pod("a", 3))], [expired], [page(30)], [])
    _, lists, _ = await follow(script, monkeypatch)
    assert [versions.version for versions in lists] == [7, 30]
    assert script.watched == [7, 30]


async def test_errors_are_tried_again_after_longer_and_longer_pauses(monkeypatch):
    error = {"type": "ERROR", "object": {"code": 500, "message": "etcd"}}
    script = Script([TransientError("away")], [TransientError("away")], [page(7)], [error], [error], [])
    _, lists, pauses = await follow(script, monkeypatch)
    assert len(lists) == 1
    assert pauses[0] < pauses[1]
    assert pauses[2] == pauses[0], "an answer begins the count anew"
    assert pauses[2] < pauses[3]


async def test_kind_that_is_not_served_is_looked_for_from_time_to_time(monkeypatch):
    script = Script([NotFoundError("no rayjobs")], [page(7)], [])
    _, lists, pauses = await follow(script, monkeypatch)
    assert (len(lists), pauses[0]) == (1, ABSENT_SECONDS)


async def test_lines_are_put_together_from_pieces_of_any_size():
    class Pieces:
        async def iter_any(self):
            for piece in (b'{"a"', b":1}\n\n{", b"}\n" + b"x" * 300_000, b"\n"):
                yield piece

    assert [line async for line in kube.lines(Pieces())] == [b'{"a":1}', b"", b"{}", b"x" * 300_000]
