"""The local cluster as the end-to-end tests see it: kubectl, a namespace with stores, waiting with a deadline."""

import json
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hack.demo.follow import Kubectl, Status, condition, is_true

Object = dict[str, Any]
POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Namespace:
    """A namespace with the claims dpo-inputs and dpo-outputs, and the folders behind them."""

    name: str
    kubectl: Kubectl
    inputs: Path
    outputs: Path

    def run(self, *args: str, text: str | None = None) -> str:
        """Run kubectl in the namespace."""
        return self.kubectl.run("-n", self.name, *args, text=text)

    def apply(self, body: Object) -> None:
        """Apply an object, as a user would."""
        self.run("apply", "-f", "-", text=yaml.safe_dump(body))

    def list(self, kinds: str, selector: str = "") -> list[Object]:
        """Return the objects of some kinds."""
        found: list[Object] = json.loads(self.run("get", kinds, "-o", "json", "-l", selector))["items"]
        return found

    def status(self, job: str) -> Status:
        """Return a DPOJob's status."""
        found: Status = json.loads(self.run("get", "dpojob", job, "-o", "json")).get("status", {})
        return found

    def wait(self, job: str, what: str, reached: Callable[[Status], bool], seconds: float) -> Status:
        """Poll a job until a state is reached; an API server that does not answer is asked again.

        Raises:
            AssertionError: the deadline passed, or the job ended in another state; with the whole picture.
        """
        deadline, status = time.monotonic() + seconds, Status()
        while True:
            with suppress(SystemExit):
                status = self.status(job)
            if reached(status):
                return status
            ended = is_true(status, "Complete") or is_true(status, "Failed")
            if ended or time.monotonic() > deadline:
                why = "the job ended" if ended else f"{seconds:.0f} s passed"
                raise AssertionError(f"waiting for {what}: {why}\n{self.picture(job)}")
            time.sleep(POLL_SECONDS)

    def wait_gone(self, job: str, seconds: float) -> None:
        """Wait until nothing of a deleted job is left.

        Raises:
            AssertionError: the deadline passed; with what is left.
        """
        deadline = time.monotonic() + seconds
        while left := self.children(job):
            assert time.monotonic() < deadline, f"{seconds:.0f} s after deletion still there: {left}"
            time.sleep(POLL_SECONDS)

    def children(self, job: str) -> tuple[str, ...]:
        """Return what there is of a job in the cluster."""
        found = self.list("rayjobs,rayclusters,configmaps,jobs,pods,services")
        own = [o for o in found if job in o["metadata"]["name"]]
        return tuple(f"{o['kind']}/{o['metadata']['name']}" for o in own)

    def picture(self, job: str) -> str:
        """Return everything that explains where a job stands."""
        status = yaml.safe_dump(self.status(job), sort_keys=False)
        return "\n".join(
            [status, self._try("get", "pods,rayjobs,rayclusters", "-o", "wide"), self._driver_log()]
        )

    def _driver_log(self) -> str:
        heads = self._try("get", "pods", "-l", "ray.io/node-type=head", "-o", "name").split()
        script = "tail -n 60 /tmp/ray/session_latest/logs/job-driver-*.log"
        return "\n".join(
            self._try("exec", head, "-c", "ray-head", "--", "bash", "-c", script) for head in heads
        )

    def _try(self, *args: str) -> str:
        try:
            return self.run(*args)
        except SystemExit as failed:
            return str(failed)


def step(status: Status) -> int:
    """Return the number of optimizer steps that the status tells."""
    return int((status.get("progress") or {}).get("step", 0))


def reason(status: Status, kind: str) -> str:
    """Return the reason of a condition, empty if there is none."""
    found = condition(status, kind)
    return found["reason"] if found else ""


def make(root: Path, target: str) -> str:
    """Return what a quiet make target prints."""
    return subprocess.run(
        ["make", "-s", target], cwd=root, check=True, capture_output=True, text=True
    ).stdout.strip()
