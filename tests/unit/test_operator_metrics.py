"""What the operator's metrics say of jobs and of calls; the API server is a small HTTP server."""

import json
import threading
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import kopf
import pytest
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from tests.unit import operator_builders as b

from dpojob_api.ledger import Activity
from dpojob_api.status import DPOJobStatus
from dpojob_api.v1alpha1 import plan_of
from dpojob_operator import kube, metrics
from dpojob_operator.connection import Connection
from dpojob_operator.errors import NotFoundError, TransientError


def make_book():
    registry = CollectorRegistry()
    book = metrics.JobBook(registry, lambda: b.NOW + timedelta(seconds=10))
    return registry, book


def make_status(summary="Running", ledger=None):
    return DPOJobStatus(summary=summary, plan=plan_of(b.make_job().spec), ledger=ledger)


def test_jobs_are_counted_by_summary():
    registry, book = make_book()
    for name, summary in (("a", "Running"), ("b", "Running"), ("c", "Stalled")):
        book.told(("ns", name), make_status(summary))
    book.told(("ns", "a"), make_status("Complete"))
    book.told(("ns", "c"), None)
    book.told(("ns", "never"), None)
    numbers = {
        s.labels["summary"]: s.value
        for family in registry.collect()
        if family.name == "dpojob_operator_jobs"
        for s in family.samples
    }
    assert numbers == {"Running": 1, "Complete": 1}


def test_ledger_is_served_with_its_open_interval():
    registry, book = make_book()
    book.told(("ns", "a"), make_status(ledger=b.make_ledger(100, Activity.TRAINING, 50)))
    labels = {"namespace": "ns", "dpojob": "a"}

    def seconds(activity):
        return registry.get_sample_value("dpojob_chip_seconds_total", labels | {"activity": activity})

    assert (seconds("starting"), seconds("training"), seconds("idle")) == (100, 60 * 8, None)
    book.told(("ns", "a"), None)
    assert seconds("training") is None


def test_job_without_plan_or_ledger_is_served_too():
    registry, book = make_book()
    book.told(("ns", "a"), DPOJobStatus(summary="Stalled"))
    assert b'dpojob_operator_jobs{summary="Stalled"} 1.0' in generate_latest(registry)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        found = self.path.endswith("/there")
        body = json.dumps({"kind": "Pod"} if found else {"message": "no such pod"}).encode()
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        """Say nothing."""


@pytest.fixture
async def api():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    connection = Connection(kopf.ConnectionInfo(server=f"http://127.0.0.1:{server.server_port}"))
    yield kube.ApiServer(connection), server
    await connection.close()
    server.shutdown()
    server.server_close()


def calls(code, verb="get"):
    labels = {"verb": verb, "resource": "pods", "code": code}
    return REGISTRY.get_sample_value("dpojob_operator_api_calls_total", labels) or 0


async def test_calls_are_counted_by_verb_and_status(api):
    server, http = api
    before = {code: calls(code) for code in ("200", "404", "none")}
    assert await server.get(kube.PODS, "ns", "there") == {"kind": "Pod"}
    with pytest.raises(NotFoundError, match="no such pod"):
        await server.get(kube.PODS, "ns", "gone")
    http.shutdown()
    http.server_close()
    with pytest.raises(TransientError):
        await server.get(kube.PODS, "ns", "there")
    assert {code: calls(code) - number for code, number in before.items()} == {"200": 1, "404": 1, "none": 1}


def test_reconciles_are_counted_by_outcome():
    def count(outcome):
        return REGISTRY.get_sample_value("dpojob_operator_reconciles_total", {"outcome": outcome}) or 0

    before = count("ok"), count("TransientError")
    metrics.count_reconcile(("ns", "a"), 0.1, None)
    metrics.count_reconcile(("ns", "a"), 0.1, TransientError("x"))
    assert (count("ok"), count("TransientError")) == (before[0] + 1, before[1] + 1)
