"""What ``make bench-operator`` counts and prints. Pure logic; the processes that it measures are started by nothing here."""

import pytest
from benchmarks import lives, measure, report

BEFORE = """\
apiserver_request_total{code="201",resource="events",subresource="",verb="POST"} 3
apiserver_request_total{code="200",resource="leases",subresource="",verb="PUT"} 10
"""
AFTER = """\
# TYPE apiserver_request_total counter
apiserver_request_total{code="201",resource="events",subresource="",verb="POST"} 5
apiserver_request_total{code="409",resource="events",subresource="",verb="POST"} 1
apiserver_request_total{code="200",resource="dpojobs",subresource="status",verb="PATCH"} 4
apiserver_request_total{code="200",resource="dpojobs",subresource="",verb="LIST"} 7
apiserver_request_total{code="200",resource="leases",subresource="",verb="PUT"} 99
"""
SIZE = {
    "p50": 1.0,
    "p99": 2.0,
    "max": 3.0,
    "writes_per_job": 3.0,
    "writes": {"PATCH dpojobs/status": 2000, "POST events": 1000},
    "rss_bytes": 100 * report.MIB,
    "rss_bytes_per_job": 20 * report.KIB,
    "cpu_seconds": 9.0,
}


def test_writes_and_reads_between_two_looks_without_the_servers_own():
    before, after = measure.requests(BEFORE), measure.requests(AFTER)
    assert measure.writes(before, after) == {"PATCH dpojobs/status": 4, "POST events": 3}
    assert measure.reads(before, after) == {"LIST dpojobs": 7}


def test_nearest_rank_percentiles():
    values = range(1, 101)
    assert [measure.percentile(values, share) for share in (0.5, 0.99, 1.0)] == [50, 99, 100]
    assert measure.percentile([7], 0.5) == 7
    with pytest.raises(ValueError, match="no values"):
        measure.percentile([], 0.5)


def test_spread_is_of_the_seconds_from_sending_to_seeing():
    found = measure.spread({"a": 1.0, "b": 2.0}, {"a": 1.5, "b": 4.0})
    assert found == {"p50": 0.5, "p99": 2.0, "max": 2.0}


def test_only_successful_writes_of_the_operator_count():
    calls = "\n".join(
        f'dpojob_operator_api_calls_total{{code="{code}",resource="{resource}",verb="{verb}"}} {number}'
        for code, resource, verb, number in (
            (201, "events", "create", "4.0"),
            (409, "events", "create", "2.0"),
            (200, "pods", "list", "9.0"),
        )
    )
    assert lives.written(calls) == {"create events": 4}
    assert lives.reads_and_writes(calls) == 13


def test_section_compares_the_sizes_that_both_have():
    peer = SIZE | {"p99": 20.0, "writes": {"CREATE jobsets": 500}}
    burst = {"ours": {"0": {"rss_bytes": 1}, "1000": SIZE, "5000": SIZE}, "peer": {"1000": peer}}
    text = report.section({"time": "now", "burst": burst})
    assert "| ours | 1000 | 1.0 | 2.0 | 3.0 | 3.0 | 100.0 | 20.0 | 9.0 |" in text
    assert "p99 against the peer's: 0.100 at 1000 jobs." in text
    assert "| ours | PATCH dpojobs/status | 2.00 |" in text
    assert "| peer | CREATE jobsets | 0.50 |" in text


def test_section_without_the_peer_compares_nothing():
    text = report.section({"time": "now", "burst": {"ours": {"1000": SIZE}, "peer": {}}})
    assert "p99 against" not in text
    assert "Writes per job at" not in text


def test_floor_is_what_the_processors_need_for_the_three_objects_of_a_job():
    entry = {"seconds": 5.0, "apiserver_ms": 6.0, "etcd_ms": 1.0, "sender_ms": 1.0}
    kinds = {"dpojobs": entry, "trainjobs": entry, "configmaps": entry, "rayjobs": entry}
    text = "\n".join(report.floor_lines({"number": 1000, "cpus": 2, "kinds": kinds}))
    assert "| trainjobs | 5.0 | 6.0 | 1.0 | 1.0 |" in text
    assert "cost 24.0 ms each" in text
    assert "on 2 CPUs 12.0 s at the least" in text
