"""JSON log lines with the job and the attempt that they are about. Pure logic; no cluster."""

import asyncio
import io
import json
import logging

import pytest

from dpojob_operator import logs
from dpojob_operator.queue import WorkQueue


@pytest.fixture
def lines():
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonFormatter())
    root = logging.getLogger()
    root.addHandler(handler)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.removeHandler(handler)


log = logging.getLogger("dpojob_operator.test")


def test_line_outside_a_reconcile_names_no_job(lines):
    log.warning("hello %s", "you")
    (line,) = lines()
    assert set(line) == {"time", "level", "logger", "message"}
    assert (line["level"], line["logger"], line["message"]) == ("WARNING", log.name, "hello you")


def test_line_of_a_reconcile_names_job_and_attempt(lines):
    logs.name_attempt(9)
    with logs.about(("ns", "j")):
        log.warning("first")
        logs.name_attempt(2)
        log.warning("second")
    log.warning("third")
    first, second, third = lines()
    assert (first["namespace"], first["job"], "attempt" in first) == ("ns", "j", False)
    assert (second["namespace"], second["job"], second["attempt"]) == ("ns", "j", 2)
    assert "job" not in third


def test_exception_is_one_line(lines):
    try:
        raise ValueError("x")
    except ValueError:
        log.exception("failed")
    (line,) = lines()
    assert line["exception"].endswith("ValueError: x")


async def test_jobs_that_are_worked_on_at_once_are_told_apart(lines):
    done = asyncio.Event()
    names = []

    async def work(key):
        logs.name_attempt(len(key[1]))
        await asyncio.sleep(0.01)
        log.warning("working on %s", key[1])
        names.append(key[1])
        if len(names) == 2:
            done.set()
        raise ValueError(key[1])

    queue = WorkQueue(work, about=logs.about)
    for name in ("a", "bb"):
        queue.add(("ns", name))
    task = asyncio.create_task(queue.run(2))
    await asyncio.wait_for(done.wait(), 10)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    told = {
        (line["message"], line["job"], line["attempt"]) for line in lines() if "working" in line["message"]
    }
    assert told == {("working on a", "a", 1), ("working on bb", "bb", 2)}
    retries = [line for line in lines() if "next try" in line["message"]]
    assert {(line["job"], line["attempt"]) for line in retries} == {("a", 1), ("bb", 2)}
