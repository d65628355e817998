"""What ends the process once kopf stops, and how long requests are tried. kopf itself is real in tests/chaos."""

import itertools
import threading

from dpojob_operator import lifecycle


def test_process_that_does_not_end_by_itself_is_ended():
    ended = threading.Event()
    timer = lifecycle.end_in(0.001, ended.set)
    assert ended.wait(10)
    assert timer.daemon, "it must not keep a process that has ended alive"


def test_every_request_is_tried_for_ever_with_bounded_waits():
    backoffs = lifecycle.Backoffs()
    for _ in range(2):
        assert list(itertools.islice(backoffs, 7)) == [1, 2, 4, 8, 16, 30, 30]
