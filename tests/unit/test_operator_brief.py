"""One list for many jobs; the API server is a list of answers."""

import asyncio

import pytest

from dpojob_operator import kube
from dpojob_operator.brief import Brief
from dpojob_operator.errors import TransientError


class Lists:
    def __init__(self, *answers):
        self.answers = list(answers)

    async def list(self, resource, namespace, selector=""):
        await asyncio.sleep(0)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_jobs_that_ask_at_once_and_soon_after_share_a_list():
    now = [0.0]
    brief = Brief(Lists([{"a": 1}], [{"a": 2}]), kube.QUOTAS, 5.0, lambda: now[0])
    assert await asyncio.gather(brief.of("ns"), brief.of("ns")) == [[{"a": 1}]] * 2
    now[0] = 4.9
    assert await brief.of("ns") == [{"a": 1}]
    now[0] = 5.0
    assert await brief.of("ns") == [{"a": 2}]


async def test_a_list_that_failed_is_not_kept():
    brief = Brief(Lists(TransientError("away"), []), kube.QUOTAS, 5.0, lambda: 0.0)
    with pytest.raises(TransientError):
        await brief.of("ns")
    assert await brief.of("ns") == []
