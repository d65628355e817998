"""``make bench-spine``: how long each stage of a job takes, and what the operator and the hosts use.

Runs the tiny job and the demo job one after the other on the local cluster, then watches the operator idle and with 20
v4-64 jobs, 180 pods in all, that cannot be scheduled. Writes benchmarks/results/spine.json and the table in docs/benchmarks.md.
"""

import argparse
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from hack.demo.__main__ import DATA, prepare_inputs
from hack.demo.follow import Kubectl, is_true
from tests.e2e.inputs import job, write_inputs

from benchmarks import document

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "spine.json"
Object = dict[str, Any]

READ_PROCESS = (
    "s=open('/proc/1/stat').read().rsplit(')',1)[1].split();"
    "r=[l for l in open('/proc/1/status') if l.startswith('VmRSS')][0].split()[1];"
    "print(int(s[11])+int(s[12]),r)"
)
TICKS_PER_SECOND = 100
STAGES = ("rayjob", "pods_running", "training", "first_step", "complete")


def items(kubectl: Kubectl, kind: str, selector: str) -> list[Object]:
    """Return the objects of a kind."""
    found: list[Object] = json.loads(kubectl.run("get", kind, "-l", selector, "-o", "json"))["items"]
    return found


def all_pods_run(kubectl: Kubectl, name: str, status: Object) -> bool:
    """Return whether the head and every host of a job run."""
    found = items(kubectl, "pods", f"dpojob.io/job={name}")
    wanted = 1 + int((status.get("plan") or {}).get("hosts", 0))
    return len(found) == wanted > 1 and all(pod["status"].get("phase") == "Running" for pod in found)


def first_seen(kubectl: Kubectl, body: Object, deadline: float) -> dict[str, float]:
    """Apply a job; return the seconds from apply to each stage.

    Raises:
        SystemExit: the job failed or the deadline passed.
    """
    name = body["metadata"]["name"]
    stages: dict[str, Callable[[Object], bool]] = {
        "rayjob": lambda _: bool(items(kubectl, "rayjobs", f"dpojob.io/job={name}")),
        "pods_running": lambda status: all_pods_run(kubectl, name, status),
        "training": lambda status: is_true(status, "Running"),
        "first_step": lambda status: (status.get("progress") or {}).get("step", 0) >= 1,
        "complete": lambda status: is_true(status, "Complete"),
    }
    kubectl.run("delete", "dpojob", name, "--ignore-not-found", "--wait=true", "--timeout=120s")
    started = time.monotonic()
    kubectl.run("apply", "-f", "-", text=yaml.safe_dump(body))
    seen: dict[str, float] = {}
    while len(seen) < len(stages):
        status = kubectl.status(name)
        seconds = time.monotonic() - started
        seen |= {
            stage: round(seconds, 1)
            for stage, reached in stages.items()
            if stage not in seen and reached(status)
        }
        if is_true(status, "Failed") or seconds > deadline:
            raise SystemExit(f"{name} did not complete: {json.dumps(status.get('conditions'), indent=2)}")
        time.sleep(0.5)
    return seen


def operator_use(kubectl: Kubectl, seconds: float) -> dict[str, float]:
    """Return the operator's resident memory in MiB and its share of one CPU over a while."""

    def sample() -> tuple[int, int]:
        words = kubectl.run(
            "-n", "dpojob-system", "exec", "deploy/dpojob-operator", "--", "python", "-c", READ_PROCESS
        ).split()
        return int(words[0]), int(words[1])

    before, began = sample()[0], time.monotonic()
    time.sleep(seconds)
    ticks, rss = sample()
    share = (ticks - before) / TICKS_PER_SECOND / (time.monotonic() - began)
    return {"rss_mib": round(rss / 1024, 1), "cpu_share": round(share, 4)}


def operator_with_jobs(kubectl: Kubectl, count: int, seconds: float) -> dict[str, float]:
    """Return the operator's use while it holds jobs whose pods wait for nodes that do not exist."""
    nowhere = {"platform": "cpu", "head": {"nodeSelector": {"dpojob.io/benchmark": "nowhere"}}}
    names = [f"waiting-{number}" for number in range(count)]
    training = {"maxSteps": 1, "globalBatchSize": 32}
    bodies = [job(name, runtime=nowhere, accelerator={"type": "v4-64"}, training=training) for name in names]
    kubectl.run("apply", "-f", "-", text=yaml.safe_dump_all(bodies))
    time.sleep(20)
    try:
        return operator_use(kubectl, seconds)
    finally:
        kubectl.run("delete", "dpojob", *names, "--wait=true", "--timeout=300s")


def summary(store: Path, name: str) -> Object:
    """Return the trainer's own account of a run."""
    found: Object = json.loads((store / "outputs" / name / "summary.json").read_text())
    return found


def measure(kubectl: Kubectl, store: Path) -> Object:
    """Run everything and return the results."""
    write_inputs(store / "inputs")
    prepare_inputs(store, DATA)
    demo = yaml.safe_load((ROOT / "examples" / "smollm2-demo.yaml").read_text())
    result: Object = {"jobs": {}, "operator": {"idle": operator_use(kubectl, 60)}}
    for body in (job("tiny"), demo):
        name = body["metadata"]["name"]
        shutil.rmtree(store / "outputs" / name, ignore_errors=True)
        result["jobs"][name] = {"seconds": first_seen(kubectl, body, 1200), "trainer": summary(store, name)}
    result["operator"]["20 jobs waiting"] = operator_with_jobs(kubectl, 20, 60)
    return result


def table(result: Object) -> str:
    """Return the Markdown of the results."""
    lines = [
        "## From apply to Complete",
        "",
        "`make bench-spine` on 2 CPU cores; seconds from `kubectl apply`. Absolute times only inform.",
        "",
        "| job | RayJob | pods running | trainer on all hosts | first step | Complete | peak memory per host, MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, entry in result["jobs"].items():
        seconds = entry["seconds"]
        peaks = ", ".join(str(round(peak)) for peak in entry["trainer"].get("peakRssMib", []))
        stages = " | ".join(str(seconds[stage]) for stage in STAGES)
        lines.append(f"| {name} | {stages} | {peaks} |")
    lines += ["", "## Operator", "", "| state | memory, MiB | share of one CPU |", "|---|---|---|"]
    lines += [
        f"| {state} | {use['rss_mib']} | {use['cpu_share']} |" for state, use in result["operator"].items()
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kubeconfig", required=True)
    parser.add_argument("--store", required=True, type=Path)
    args = parser.parse_args()
    result = measure(Kubectl(args.kubeconfig), args.store)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    document.keep("spine", table(result))


if __name__ == "__main__":
    main()
