"""``make demo``: from a running local cluster to a tuned model, with a live progress line.

Puts the model and the preference pairs into the input store, applies examples/smollm2-demo.yaml, follows the DPOJob
and shows a completion of the held-out kind before and after. Ends non-zero with the reason and where to look.
"""

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

import yaml
from rich.console import Console

from dpojob_api.constants import OUTPUT_COMPILE_CACHE
from hack.demo import follow, samples

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "smollm2-demo.yaml"
DATA = ROOT / "examples" / "data" / "preferences.jsonl"


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--kubeconfig", required=True, help="the local cluster's kubeconfig")
    parser.add_argument(
        "--store", required=True, type=Path, help="folder with the stores inputs/ and outputs/"
    )
    parser.add_argument(
        "--data", type=Path, default=DATA, help="preference pairs to train on instead of the example's"
    )
    parser.add_argument("--timeout", type=int, default=1800, help="seconds from apply to the end")
    return parser.parse_args()


def prepare_inputs(store: Path, data: Path) -> Path:
    """Put model and data into the input store; return the model's folder."""
    model = store / "inputs" / "models" / "smollm2-135m"
    subprocess.run(
        [sys.executable, str(ROOT / "examples" / "smollm2" / "convert.py"), "--out", str(model)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    target = store / "inputs" / "data" / data.name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(data, target)
    return model


def manifest(data: Path) -> dict[str, object]:
    """Return the example, or the example on another data set: ShareGPT files name their prompt ``conversations``."""
    job: dict[str, object] = yaml.safe_load(EXAMPLE.read_text())
    if data != DATA:
        spec = job["spec"]
        assert isinstance(spec, dict)
        prompt = "conversations" if '"conversations"' in data.read_text()[:2000] else "prompt"
        spec["dataset"] |= {"uri": f"pvc://dpo-inputs/data/{data.name}", "columns": {"prompt": prompt}}
        spec["dpo"] |= {"maxPromptLength": 96, "maxCompletionLength": 64}
    return job


def remove_results(output: Path) -> None:
    """Remove what an earlier demo wrote; its compiled programs stay."""
    for found in output.glob("*"):
        if found.name == OUTPUT_COMPILE_CACHE:
            continue
        shutil.rmtree(found) if found.is_dir() else found.unlink()


def main() -> int:
    """Run the demo; return the exit code."""
    args = arguments()
    console = Console()
    console.print("demo: model and preference pairs into the input store", style="bold")
    data = args.data.resolve()
    base = prepare_inputs(args.store, data)
    job = manifest(data)
    kubectl = follow.Kubectl(args.kubeconfig)
    kubectl.run("delete", "dpojob", "smollm2-demo", "--ignore-not-found", "--wait=true", "--timeout=120s")
    remove_results(args.store / "outputs" / "smollm2-demo")
    console.print("demo: kubectl apply -f examples/smollm2-demo.yaml", style="bold")
    started = time.monotonic()
    kubectl.run("apply", "-f", "-", text=yaml.safe_dump(job))
    status = follow.until_finished(kubectl, "smollm2-demo", console, deadline=started + args.timeout)
    console.print(kubectl.run("get", "dpojob", "smollm2-demo", "-o", "wide"))
    if not follow.is_true(status, "Complete"):
        follow.explain(kubectl, "smollm2-demo", status, console)
        return 1
    tuned = args.store / "outputs" / "smollm2-demo" / "model"
    return report(console, status, base, tuned, data, time.monotonic() - started)


def report(
    console: Console, status: follow.Status, base: Path, tuned: Path, data: Path, seconds: float
) -> int:
    """Show the held-out numbers, the model's place and completions; return 1 if the policy has not learned."""
    final = status["finalMetrics"]
    margin, accuracy = final["evalRewardMargin"], final["evalRewardAccuracy"]
    console.print(f"apply to Complete: {seconds:.0f} s", style="bold green")
    console.print(
        f"held-out pairs: reward margin {margin:.3f} (untrained: 0), reward accuracy {accuracy:.2f}"
    )
    console.print(f"tuned model: {tuned}")
    samples.show(console, base, tuned, samples.prompts(data))
    if margin > 0 and accuracy > 0.5:
        return 0
    console.print(
        "the held-out margin is not above 0 or the accuracy not above one half: the policy has not learned",
        style="red",
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
