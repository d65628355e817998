"""Follows a DPOJob by its status alone, as any user could with kubectl."""

import json
import subprocess
import time
from typing import Any

from rich.console import Console

Status = dict[str, Any]
POLL_SECONDS = 2.0


class Kubectl:
    """kubectl against one kubeconfig."""

    def __init__(self, kubeconfig: str) -> None:
        self.base = ["kubectl", "--kubeconfig", kubeconfig]

    def run(self, *args: str, text: str | None = None) -> str:
        """Run kubectl and return what it printed.

        Raises:
            SystemExit: kubectl failed; its words are the message.
        """
        done = subprocess.run([*self.base, *args], input=text, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"kubectl {' '.join(args)}: {done.stderr.strip()}")
        return done.stdout

    def status(self, name: str) -> Status:
        """Return the status of a DPOJob, empty while it has none."""
        found: Status = json.loads(self.run("get", "dpojob", name, "-o", "json")).get("status", {})
        return found


def condition(status: Status, kind: str) -> dict[str, str] | None:
    """Return a condition by its type."""
    return next((c for c in status.get("conditions", []) if c["type"] == kind), None)


def is_true(status: Status, kind: str) -> bool:
    """Tell whether a condition holds."""
    found = condition(status, kind)
    return found is not None and found["status"] == "True"


def line(status: Status) -> str:
    """Return the progress line: what the trainer does, or what the job waits for."""
    progress = status.get("progress")
    if progress and progress.get("totalSteps"):
        numbers = (("loss", "loss"), ("acc", "rewardAccuracy"), ("margin", "rewardMargin"), ("eta", "eta"))
        told = [f"{name} {progress[key]}" for name, key in numbers if progress.get(key) is not None]
        return "  ".join([f"{progress['phase']} {progress['steps']}", *told])
    for kind in ("Stalled", "Running", "Reconciling"):
        if is_true(status, kind):
            found = condition(status, kind)
            assert found is not None
            phase = f" ({progress['phase']})" if progress else ""
            return f"{found['reason']}{phase}: {found['message']}"
    return "waiting for the operator"


def until_finished(kubectl: Kubectl, name: str, console: Console, deadline: float) -> Status:
    """Poll the status until the job is Complete or Failed, or the deadline passes; return the last status."""
    started, last = time.monotonic(), ""
    with console.status("applied") as live:
        while True:
            status = kubectl.status(name)
            now = line(status)
            stamp = f"[{time.monotonic() - started:5.0f} s] {now}"
            live.update(stamp)
            if now != last and not console.is_terminal:
                console.print(stamp, markup=False)
            last = now
            if is_true(status, "Complete") or is_true(status, "Failed"):
                return status
            if time.monotonic() > deadline:
                return status
            time.sleep(POLL_SECONDS)


def explain(kubectl: Kubectl, name: str, status: Status, console: Console) -> None:
    """Say why a job is not Complete and where to look."""
    for kind in ("Failed", "Stalled", "Reconciling", "Running"):
        if is_true(status, kind):
            found = condition(status, kind)
            assert found is not None
            console.print(f"{kind}: {found['reason']}: {found['message']}", style="red", markup=False)
            break
    else:
        console.print("the job has no condition: is the operator running?", style="red")
    base = " ".join(kubectl.base)
    console.print(f"where to look:\n  {base} describe dpojob {name}", markup=False)
    console.print(f"  {base} get pods -l dpojob.io/job={name}", markup=False)
    console.print(f"  {base} -n dpojob-system logs deploy/dpojob-operator", markup=False)
