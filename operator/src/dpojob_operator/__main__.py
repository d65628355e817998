"""Command line of the operator: ``python -m dpojob_operator``."""

import argparse
import asyncio
import logging
import os

import httpx
import kopf
from prometheus_client import start_http_server

from dpojob_api.constants import FIELD_MANAGER
from dpojob_operator import handlers, kube, logs, metrics, probes
from dpojob_operator.connection import Connection, log_in
from dpojob_operator.errors import NotFoundError, TransientError
from dpojob_operator.informer import Informer
from dpojob_operator.observe import SCRAPE_TIMEOUT_SECONDS, Observer
from dpojob_operator.queue import WorkQueue
from dpojob_operator.reconcile import Reconciler
from dpojob_operator.settings import Settings

log = logging.getLogger(__name__)

WAIT_SECONDS = 5.0
SETTLE_SECONDS = 30.0
"""For which jobs wait for the watches after a start; then they are reconciled without."""


class BrokenError(Exception):
    """The operator cannot go on in this process."""


def parse_arguments(arguments: list[str] | None = None) -> Settings:
    """Read flags; each one's default is its environment variable."""
    default = Settings()
    parser = argparse.ArgumentParser(
        prog="dpojob_operator", description="Reconciles DPOJobs into KubeRay RayJobs."
    )
    add = parser.add_argument
    env = os.environ.get
    add(
        "--namespaces",
        default=env("DPOJOB_NAMESPACES", ""),
        help="comma-separated; all if empty [DPOJOB_NAMESPACES]",
    )
    add(
        "--trainer-image",
        default=env("DPOJOB_TRAINER_IMAGE"),
        help="default trainer image [DPOJOB_TRAINER_IMAGE]",
    )
    port = env("DPOJOB_METRICS_PORT", str(default.metrics_port))
    add("--metrics-port", type=int, default=port, help="0 turns metrics off [DPOJOB_METRICS_PORT]")
    port = env("DPOJOB_PROBE_PORT", str(default.probe_port))
    add(
        "--probe-port",
        type=int,
        default=port,
        help="/healthz and /readyz; 0 turns them off [DPOJOB_PROBE_PORT]",
    )
    workers = env("DPOJOB_WORKERS", str(default.workers))
    add("--workers", type=int, default=workers, help="jobs reconciled at a time [DPOJOB_WORKERS]")
    add(
        "--log-level",
        default=env("DPOJOB_LOG_LEVEL", default.log_level),
        help="DEBUG, INFO … [DPOJOB_LOG_LEVEL]",
    )
    given = parser.parse_args(arguments)
    return Settings(
        namespaces=tuple(filter(None, (name.strip() for name in given.namespaces.split(",")))),
        trainer_image=given.trainer_image or None,
        metrics_port=given.metrics_port,
        probe_port=given.probe_port,
        workers=max(1, given.workers),
        log_level=given.log_level.upper(),
    )


async def run(settings: Settings) -> None:
    """Watch and reconcile until SIGTERM or SIGINT, which kopf handles."""
    connection = Connection(log_in())
    api, jobs = kube.ApiServer(connection), metrics.JobBook()
    agent = {"User-Agent": FIELD_MANAGER}
    async with httpx.AsyncClient(timeout=SCRAPE_TIMEOUT_SECONDS, headers=agent, trust_env=False) as http:
        try:
            await wait_until_served(api, settings)
            await work(api, http, jobs, settings)
        finally:
            await connection.close()


async def work(
    api: kube.ApiServer, http: httpx.AsyncClient, jobs: metrics.JobBook, settings: Settings
) -> None:
    """Put the parts together and run them."""
    informer = Informer(api, http, settings.namespaces, woken=lambda job: queue.add(job))
    observer = Observer(informer.api, http, informer.outputs)
    reconciler = Reconciler(informer.api, observer, settings, told=jobs.told, glance=informer)
    queue = WorkQueue(
        reconciler.reconcile,
        finished=metrics.count_reconcile,
        about=logs.about,
        # Nobody waits for words as for a slice.
        is_urgent=lambda job: not informer.has_made(job),
    )
    metrics.QUEUE_LENGTH.set_function(queue.__len__)

    async def reconcile() -> None:
        await informer.sync.settled(SETTLE_SECONDS)
        await queue.run(settings.workers)

    broken = asyncio.Event()
    async with probes.served(probes.build_app(queue, informer.sync), settings.probe_port):
        await kopf.operator(
            registry=handlers.build_registry(broken, informer.run, informer.sync.run, reconcile),
            standalone=True,
            clusterwide=not settings.namespaces,
            namespaces=settings.namespaces,
            stop_flag=broken,
        )
    if broken.is_set():
        raise BrokenError("a part of the operator has ended")


async def wait_until_served(api: kube.ApiServer, settings: Settings) -> None:
    """Wait until the API server knows DPOJobs; without them there is nothing to do."""
    namespace = settings.namespaces[0] if settings.namespaces else None
    while True:
        try:
            async for _ in api.pages(kube.DPOJOBS, namespace, "", 1, kube.METADATA):
                return
        except NotFoundError:
            log.warning("the API server knows no DPOJob: apply the CRD (crds/ or the chart)")
        except TransientError as error:
            log.warning("the API server does not answer: %s", error)
        await asyncio.sleep(WAIT_SECONDS)


def main() -> int:
    """Run the operator and return its exit code."""
    settings = parse_arguments()
    logs.configure(settings.log_level)
    if settings.metrics_port:
        start_http_server(settings.metrics_port)
    try:
        asyncio.run(run(settings))
    except probes.PortError as error:
        log.critical("no health endpoint: %s", error)
        return 2
    except BrokenError as error:
        log.critical("%s; the kubelet starts another one", error)
        return 1
    except (kopf.LoginError, OSError) as error:
        log.critical("the API server does not let the operator in: %s", error)
        return 1
    except Exception:
        # Such as a watch that has failed, where kopf comes to an end by itself.
        log.critical("the operator ends too, to be started anew", exc_info=True)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
